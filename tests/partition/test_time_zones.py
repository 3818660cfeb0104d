"""Months are those of UTC and times to live are exact in every time zone that the server knows, under a clock that the tests set."""

from datetime import datetime, timedelta, timezone

import pytest

from harness.database import Database
from harness.entries import ALICE, CACHE
from harness.months import bounds

YEAR = 2027
EDGES = [datetime(YEAR + number // 12, number % 12 + 1, 1, tzinfo=timezone.utc) for number in range(1, 13)]

# What a session of each zone does, in one transaction for all of them. The server says in which partition a row is and when it
# expires, both in terms that no zone changes.
SEEN = f"""
    CREATE TEMP TABLE zones AS SELECT name, row_number() OVER (ORDER BY name) AS number FROM pg_timezone_names WHERE name !~ '^posix/';
    CREATE TEMP TABLE seen (zone text, content jsonb, many jsonb, got jsonb, age interval, lives numeric);
    CREATE FUNCTION pg_temp.write(content jsonb, rotated bigint) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE z text;
    BEGIN
        FOR z IN SELECT name FROM zones ORDER BY (number + rotated) % (SELECT count(*) FROM zones) LOOP
            PERFORM set_config('TimeZone', z, true);
            PERFORM cache_upsert('{ALICE}', 'tone', z, write.content, ttl => '1 month');
        END LOOP;
    END $$;
    CREATE FUNCTION pg_temp.look() RETURNS void LANGUAGE plpgsql AS $$
    DECLARE z text;
    BEGIN
        TRUNCATE seen;
        FOR z IN SELECT name FROM zones LOOP
            PERFORM set_config('TimeZone', z, true);
            INSERT INTO seen SELECT z, cache_lookup('{ALICE}', 'tone', z), m.content, g.content, g.age, extract(epoch FROM g.expires_at) - extract(epoch FROM g.created_at)
            FROM cache_lookup_many('{ALICE}', 'tone', ARRAY[z]) m, cache_get('{ALICE}', 'tone', z) g;
        END LOOP;
    END $$"""


@pytest.fixture
def year(clock_cluster):
    """A database made when the year begins, with a session that writes and looks in all zones."""
    clock_cluster.set_clock(datetime(YEAR, 1, 15, tzinfo=timezone.utc))
    database = Database(clock_cluster)
    with database.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(SEEN)
        yield database, connection
    database.drop()


def zones_of(connection):
    [(count,)] = connection.execute("SELECT count(*) FROM zones").fetchall()
    assert count > 400
    return count


def partition_of(moment):
    return f"infinite_pages_cache_{moment:%Y_%m}"


def test_at_each_months_edge_entries_of_every_zone_go_to_the_month_of_utc(year):
    """The zones write in turns, so that each edge has another one whose write makes the new month's partition."""
    database, connection = year
    zones = zones_of(connection)
    # Nothing is made ahead: whoever writes first makes the month.
    connection.execute("SET infinite_pages_cache.premake = 0")
    for name in set(bounds(database)) - {partition_of(datetime(YEAR, 1, 1))}:
        connection.execute(f"DROP TABLE {name}")
    for number, edge in enumerate(EDGES):
        for content, start, month in ((f'"before {number}"', edge - timedelta(seconds=20), edge - timedelta(days=1)), (f'"after {number}"', edge, edge)):
            database.cluster.set_clock(start)
            connection.execute("SELECT pg_temp.write(%s::jsonb, %s)", (content, number * 97 + 13))
            connection.execute("SELECT pg_temp.look()")
            [(now,)] = connection.execute("SELECT clock_timestamp()")
            assert start <= now < start + timedelta(seconds=20), "the machine is too slow for this test"
            # One row of each key, in that month of UTC.
            rows = connection.execute(f"SELECT tableoid::regclass::text, count(*), count(DISTINCT cache_key), min(created_at) >= %s AND max(created_at) <= %s "
                                      f"FROM {CACHE} GROUP BY 1", (start, now)).fetchall()
            assert rows == [(partition_of(month), zones, zones, True)]
            # What was written last by each way to look, and a month of a time to live that counts 30 days.
            found = connection.execute("SELECT count(*), array_agg(DISTINCT content) || array_agg(DISTINCT many) || array_agg(DISTINCT got), "
                                       "min(age) > '0' AND max(age) < '20 s', array_agg(DISTINCT lives) FROM seen").fetchone()
            assert found == (zones, [content.strip('"')] * 3, True, [30 * 86_400])
    assert set(bounds(database)) == {partition_of(datetime(YEAR, 1, 1)), *map(partition_of, EDGES)}
    for edge, after in zip(EDGES, EDGES[1:]):
        assert bounds(database)[partition_of(edge)] == f"FOR VALUES FROM ('{edge:%Y-%m-%d} 00:00:00+00') TO ('{after:%Y-%m-%d} 00:00:00+00')"


def test_every_zone_reads_the_same_months(year):
    """Names, bounds, the report and what a drop would drop, with a clock at which extreme zones have another month than UTC."""
    database, connection = year
    zones_of(connection)
    # Rows of both sides of each edge that a client inserts, its literals in its own zone.
    connection.execute("SELECT create_monthly_cache_partition(d) FROM generate_series(TIMESTAMP '2027-01-01', '2028-02-01', '1 month') d")
    connection.execute("""
        CREATE TEMP TABLE edges AS
            SELECT m AS moment, 'infinite_pages_cache_' || to_char(m AT TIME ZONE 'UTC', 'YYYY_MM') AS partition
            FROM generate_series(TIMESTAMPTZ '2027-02-01 00:00+00', '2028-01-01 00:00+00', '1 month') e, LATERAL (VALUES (e), (e - interval '1 us')) v (m);
        CREATE TEMP TABLE misplaced (zone text, what text)""")
    # In the session's zone UTC, the series above is that of UTC's months.
    assert connection.execute("SELECT count(*), count(DISTINCT partition), min(moment) = '2027-01-31 23:59:59.999999+00' FROM edges").fetchone() == (24, 13, True)
    connection.execute(f"""
        DO $$
        DECLARE z text; found text;
        BEGIN
            FOR z IN SELECT name FROM zones LOOP
                PERFORM set_config('TimeZone', z, true);
                CREATE TEMP TABLE IF NOT EXISTS took (partition text, moment timestamptz);
                EXECUTE (SELECT 'WITH i AS (INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) VALUES '
                    || string_agg(format('(%L, %L, %L, %L, %L, %L)', '{ALICE}', 'edge', z || moment, 1, moment::text, 'infinity'), ', ')
                    || ' RETURNING tableoid::regclass::text AS partition, created_at) INSERT INTO took SELECT * FROM i' FROM edges);
                INSERT INTO misplaced SELECT z, t::text FROM took t LEFT JOIN edges e USING (partition, moment) WHERE e.moment IS NULL;
                INSERT INTO misplaced SELECT z, 'rows' WHERE (SELECT count(*) FROM took) <> 24;
                INSERT INTO misplaced SELECT z, 'lookup ' || moment FROM edges
                    WHERE cache_lookup('{ALICE}', 'edge', z || moment) IS DISTINCT FROM '1' OR cache_invalidate('{ALICE}', 'edge', z || moment) <> 1;
                TRUNCATE took;
                SELECT string_agg(create_monthly_cache_partition(make_date(2027, m, 28)), ' ') INTO found FROM generate_series(1, 12) m;
                IF found <> (SELECT string_agg(to_char(m, '"infinite_pages_cache_2027_"FM00'), ' ') FROM generate_series(1, 12) m) THEN
                    INSERT INTO misplaced VALUES (z, found);
                END IF;
            END LOOP;
            -- The report, which also measures the partitions, in a zone of each offset from UTC.
            FOR z IN SELECT min(name) FROM pg_timezone_names WHERE name !~ '^posix/' GROUP BY utc_offset LOOP
                PERFORM set_config('TimeZone', z, true);
                SELECT string_agg(partition_name || ' ' || to_char(from_month, 'YYYY-MM-DD'), ' ' ORDER BY partition_name) INTO found FROM partition_health_metrics;
                IF found <> (SELECT string_agg(to_char(m, '"infinite_pages_cache_"YYYY_MM YYYY-MM-DD'), ' ' ORDER BY m)
                             FROM generate_series(TIMESTAMP '2027-01-01', '2028-02-01', '1 month') m) THEN
                    INSERT INTO misplaced VALUES (z, found);
                END IF;
            END LOOP;
        END $$""")
    assert connection.execute("SELECT * FROM misplaced LIMIT 5").fetchall() == []
    for edge in (EDGES[2], EDGES[11]):
        for moment, kept in ((edge - timedelta(minutes=5), edge - timedelta(days=32)), (edge, edge - timedelta(days=1))):
            database.cluster.set_clock(moment)
            for zone in ("Pacific/Kiritimati", "Etc/GMT+12", "UTC", "America/St_Johns", "Asia/Kathmandu"):
                with connection.transaction(force_rollback=True):
                    connection.execute(f"SET LOCAL TimeZone = '{zone}'")
                    # The current month and the one before it.
                    rows = connection.execute("SELECT partition_name, dropped FROM drop_old_cache_partitions(2, include_live => true)").fetchall()
                    assert [name for name, _ in rows] == [name for name in sorted(bounds_before(database)) if name < partition_of(kept)]
                    assert all(dropped for _, dropped in rows) and rows


def bounds_before(database):
    return {name for (name,) in database.execute(f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{CACHE}'::regclass")}


def transitions(connection):
    """Each moment of the year at which a zone's clocks are put, by how much in seconds, and the zones; found by looking at every hour."""
    connection.execute("""
        CREATE TEMP TABLE offsets (zone text, moment timestamptz, seconds int);
        DO $$
        DECLARE z text;
        BEGIN
            FOR z IN SELECT name FROM zones LOOP
                PERFORM set_config('TimeZone', z, true);
                INSERT INTO offsets SELECT z, h, extract(timezone FROM h) FROM generate_series(TIMESTAMPTZ '2027-01-15 00:00+00', '2028-01-15 00:00+00', interval '24 hours') h;
            END LOOP;
        END $$;
        CREATE TEMP TABLE days AS SELECT * FROM (SELECT *, lead(seconds) OVER (PARTITION BY zone ORDER BY moment) AS after FROM offsets) o WHERE after <> seconds;
        TRUNCATE offsets;
        DO $$
        DECLARE d record;
        BEGIN
            FOR d IN SELECT * FROM days LOOP
                PERFORM set_config('TimeZone', d.zone, true);
                INSERT INTO offsets SELECT d.zone, m, extract(timezone FROM m) FROM generate_series(d.moment, d.moment + interval '24 hours', interval '30 minutes') m;
            END LOOP;
        END $$""")
    return connection.execute("""
        SELECT moment, put, array_agg(zone) FROM (SELECT zone, moment, seconds - lag(seconds) OVER (PARTITION BY zone ORDER BY moment) AS put FROM offsets) o
        WHERE put <> 0 GROUP BY 1, 2 ORDER BY 1, 2""").fetchall()


def test_no_change_of_clocks_moves_an_expiry(year):
    """Written a second before the clocks of a zone are put forth or back, in that zone: an hour is an hour and a day 24 of them."""
    database, connection = year
    zones_of(connection)
    changes = transitions(connection)
    put = {seconds for _, seconds, _ in changes}
    # An hour in most zones, half of it on Lord Howe Island, two in Antarctica; in both directions.
    assert {3600, -3600, 1800, -1800} <= put and len({zone for *_, zones in changes for zone in zones}) > 100
    lives = {"half": ("30 minutes", 1800), "hour": ("1 hour", 3600), "day": ("1 day", 86_400), "mixed": ("P1DT2H", 93_600), "month": ("1 mon", 30 * 86_400)}
    for moment in sorted({moment for moment, *_ in changes}):
        zones = [zone for at, _, some in changes if at == moment for zone in some]
        start = moment - timedelta(seconds=10)
        database.cluster.set_clock(start)
        with connection.transaction():
            for zone in zones:
                connection.execute("SELECT set_config('TimeZone', %s, true)", (zone,))
                for key, (ttl, _) in lives.items():
                    connection.execute("SELECT cache_upsert(%s, 'tone', %s, '1', ttl => %s)", (ALICE, f"{zone} {key}", ttl))
                    connection.execute("SELECT cache_upsert(%s, 'themes', %s, '1', ttl => '5 s'), cache_touch(%s, 'themes', %s, %s)",
                                       (ALICE, f"{zone} {key}", ALICE, f"{zone} {key}", ttl))
        [(now,)] = connection.execute("SELECT clock_timestamp()")
        assert now < moment, "the machine is too slow for this test"
        rows = connection.execute(f"SELECT content_type, cache_key, extract(epoch FROM created_at), extract(epoch FROM expires_at) FROM {CACHE} ORDER BY 2").fetchall()
        assert len(rows) == 2 * len(zones) * len(lives)
        for content_type, key, created, expires in rows:
            seconds = lives[key.split()[-1]][1]
            # What was touched counts from the touch, a moment after its upsert.
            assert expires - created == seconds if content_type == "tone" else 0 <= expires - created - seconds < 2, (key, created, expires)
        for key, (_, seconds) in lives.items():
            # One lives until its time is over and no longer, in its zone, and cleanup removes it then.
            for after, expected in ((start + timedelta(seconds=seconds - 5), 2 * len(zones)), (moment + timedelta(seconds=seconds), 0)):
                database.cluster.set_clock(after)
                found = 0
                with connection.transaction():
                    for zone in zones:
                        connection.execute("SELECT set_config('TimeZone', %s, true)", (zone,))
                        found += connection.execute("SELECT count(cache_lookup(%s, t, %s)) FROM unnest('{tone, themes}'::text[]) t", (ALICE, f"{zone} {key}")).fetchone()[0]
                assert found == expected
        assert connection.execute("SELECT sum(deleted_count) FROM cleanup_expired_cache_entries_production()").fetchone()[0] == len(rows)


def test_an_expiry_in_local_time_means_what_postgresql_makes_of_it(year):
    """Also an hour that comes twice or never, alone and in a batch."""
    database, connection = year
    zones = zones_of(connection)
    connection.execute(f"""
        CREATE TEMP TABLE differing (zone text, text text);
        DO $$
        DECLARE z text; t text;
        BEGIN
            FOR z IN SELECT name FROM zones LOOP
                PERFORM set_config('TimeZone', z, true);
                FOREACH t IN ARRAY ARRAY['2027-03-28 02:30', '2027-10-31 02:30', '2027-03-14 02:30', '2027-11-07 01:30', '2038-01-19 03:14:08', '2027-07-01'] LOOP
                    PERFORM cache_upsert_many(jsonb_build_array(jsonb_build_object('user_id', '{ALICE}', 'content_type', 'batch', 'cache_key', z || t,
                                                                                   'content', 1, 'expires_at', t)));
                    PERFORM cache_upsert('{ALICE}', 'one', z || t, '1', expires_at => t::timestamptz);
                END LOOP;
                INSERT INTO differing SELECT z, cache_key FROM {CACHE} WHERE expires_at <> right(cache_key, -length(z))::timestamptz;
                EXECUTE 'DELETE FROM {CACHE}';
            END LOOP;
        END $$""")
    assert connection.execute("SELECT * FROM differing").fetchall() == []
    assert zones == connection.execute("SELECT count(*) FROM zones").fetchone()[0]
