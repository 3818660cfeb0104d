"""A search finds the live entries of a user and content type by their metadata, the best first, by an index, and writes nothing."""

import json
import random
import uuid
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest

from harness.database import Database
from harness.entries import ALICE, BOB, CACHE, lookup, upsert
from harness.errors import sqlstate_of
from harness.months import LEGACY, legacy_month, month, name_of
from harness.plans import nodes, rows_read
from harness.reports import failed_checks
from harness.roles import acting, temporary_roles
from harness.tally import counters, counting_cluster

SEARCH = "SELECT cache_key FROM cache_search(%s, %s, %s::jsonb, %s)"
# As clients write it that do not call the function.
PLAIN = (f"SELECT cache_key FROM {CACHE} WHERE user_id = %s AND content_type = %s AND metadata @> %s::jsonb AND expires_at > now() "
         "ORDER BY reuse_score DESC, created_at DESC LIMIT %s")
INSERT = (f"INSERT INTO {CACHE} (id, user_id, content_type, cache_key, content, metadata, reuse_score, created_at, expires_at) "
          "VALUES (%s, %s, %s, %s, %s::jsonb, %s::jsonb, %s, %s, %s)")
INDEX = "user_id_content_type_idx"


@pytest.fixture(scope="module")
def counting_server():
    cluster = counting_cluster()
    yield cluster
    cluster.remove()


@pytest.fixture
def counting(counting_server):
    """A database in which hits wait in memory."""
    database = Database(counting_server)
    yield database
    database.drop()


def search(connection, metadata, user=ALICE, content_type="t", limit=10, sql=SEARCH):
    return [row[0] for row in connection.execute(sql, (user, content_type, json.dumps(metadata), limit))]


def insert(connection, key, created_at="now", content_type="t", metadata=None, score=5, expires_at="infinity", user=ALICE):
    """A row as a client inserts it that does not call the function."""
    connection.execute(INSERT, (uuid.uuid4(), user, content_type, key, json.dumps(key), json.dumps(metadata or {}), score, created_at, expires_at))


# ── what it finds ────────────────────────────────────────────────────────────────────────────────

def contains(whole, part):
    """Containment as PostgreSQL's manual describes it for jsonb."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and contains(whole[name], value) for name, value in part.items())
    if isinstance(part, list):
        return isinstance(whole, list) and all(any(contains(element, value) for element in whole) for value in part)
    return type(whole) is type(part) and whole == part


def some_metadata(dice):
    fields = {
        "genre": lambda: dice.choice(["noir", "fantasy", "horror", None]),
        "words": lambda: dice.choice([500, 1000]),
        "adult": lambda: dice.choice([True, False]),
        "tags": lambda: dice.sample(["rain", "sea", "night", 7], dice.randrange(4)),
        "model": lambda: {"name": dice.choice(["large", "small"]), "temperature": dice.choice([0, 1])},
    }
    return {name: value() for name, value in fields.items() if dice.random() < 0.6}


def part_of(dice, metadata):
    """Something that the metadata may contain."""
    part = {}
    for name, value in metadata.items():
        if dice.random() < 0.5:
            if isinstance(value, list):
                value = dice.sample(value, dice.randrange(len(value) + 1))
            elif isinstance(value, dict):
                value = {key: inner for key, inner in value.items() if dice.random() < 0.5}
            part[name] = value
    return part


def expected(rows, now, user, content_type, part, limit):
    newest = {}
    for row in rows:
        address = row["user"], row["type"], row["key"]
        if address not in newest or row["created_at"] > newest[address]["created_at"]:
            newest[address] = row
    found = [row for row in newest.values() if (row["user"], row["type"]) == (user, content_type) and row["expires_at"] > now
             and (not part if row["metadata"] is None else contains(row["metadata"], part))]
    found.sort(key=lambda row: (-(row["score"] if row["score"] is not None else -1), -row["created_at"].timestamp(), row["id"].bytes))
    return [row["id"] for row in found[:limit]]


@pytest.mark.parametrize("seed", range(3))
def test_results_are_those_of_an_independent_calculation(database, seed):
    dice = random.Random(seed)
    now = datetime.now(timezone.utc)
    months = [now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)]
    for _ in range(3):
        months.append((months[-1] - timedelta(days=1)).replace(day=1))
    rows = []
    for number in range(1500):
        age = dice.randrange(4)
        earliest, latest = months[age], now if age == 0 else months[age - 1] - timedelta(microseconds=1)
        row = {
            "id": uuid.UUID(int=dice.getrandbits(128)), "user": dice.choice([ALICE, ALICE, ALICE, BOB]), "type": dice.choice(["t", "t", "u"]),
            "key": f"k{dice.randrange(400)}", "month": age, "metadata": dice.choice([some_metadata(dice)] * 19 + [None]),
            "score": dice.choice([None, 0, 3, 5, Decimal("7.5"), 10]),
            # Few moments, so that there are ties.
            "created_at": earliest + (latest - earliest) * dice.randrange(3) / 3,
            "expires_at": now + timedelta(days=dice.choice([-1, 1, 30])),
        }
        # A month holds a key once.
        if not any((other["user"], other["type"], other["key"], other["month"]) == (row["user"], row["type"], row["key"], age) for other in rows):
            rows.append(row)
    with database.connect() as connection:
        for past in months[1:]:
            connection.execute("SELECT create_monthly_cache_partition(%s::timestamptz AT TIME ZONE 'UTC')", (past,))
        for row in rows:
            connection.execute(INSERT, (row["id"], row["user"], row["type"], row["key"], "1", None if row["metadata"] is None else json.dumps(row["metadata"]),
                                        row["score"], row["created_at"], row["expires_at"]))
        searches = hits = cut = 0
        for row in dice.sample(rows, 150) + [{"metadata": {}}] * 4:
            part = part_of(dice, row["metadata"] or {})
            for user, content_type in ((ALICE, "t"), (ALICE, "u"), (BOB, "t")):
                limit = dice.choice([1, 3, 10, 1000])
                found = connection.execute("SELECT id FROM cache_search(%s, %s, %s::jsonb, %s)", (user, content_type, json.dumps(part), limit)).fetchall()
                wanted = expected(rows, now, user, content_type, part, limit)
                assert [entry for (entry,) in found] == wanted, (user, content_type, part, limit)
                searches, hits, cut = searches + 1, hits + bool(wanted), cut + (len(wanted) == limit)
    # The data are such that both outcomes, and the limit, matter.
    assert hits > searches / 4 and hits < searches and cut > 20


def test_a_result_has_what_cache_get_has(database):
    with database.connect() as connection:
        upsert(connection, '{"a": [1]}', (ALICE, "t", "k"), metadata='{"genre": "noir", "n": 1}', token_cost=Decimal("2.5"), priority_tier=1, reuse_score=Decimal("7.5"),
               story_id=BOB, foundation_dependency="f", ttl="1 day")
        shared = "id, content, metadata, created_at, expires_at, hit_count, token_cost, priority_tier, story_id, foundation_dependency"
        # First, since to get it is a hit.
        [found] = connection.execute(f"SELECT {shared} FROM cache_search(%s, 't', '{{\"n\": 1}}')", (ALICE,)).fetchall()
        [got] = connection.execute(f"SELECT {shared} FROM cache_get(%s, 't', 'k')", (ALICE,)).fetchall()
        assert found == got and got[1] == {"a": [1]} and got[-1] == "f"
        [(key, score, age)] = connection.execute("SELECT cache_key, reuse_score, age FROM cache_search(%s, 't', '{}')", (ALICE,)).fetchall()
        assert (key, score) == ("k", Decimal("7.5")) and timedelta(0) <= age < timedelta(minutes=5)


def test_all_entries_of_a_type_unless_told_otherwise_also_those_without_metadata(database):
    with database.connect() as connection:
        connection.execute(INSERT, (uuid.uuid4(), ALICE, "t", "none", "1", None, 9, "now", "infinity"))
        insert(connection, "empty", metadata={}, score=8)
        insert(connection, "some", metadata={"genre": "noir"}, score=7)
        for call in ("cache_search(%s, 't')", "cache_search(user_id => %s, content_type => 't')", "cache_search(%s, 't', '{}')",
                     "cache_search(user_id => %s, content_type => 't', max_results => 3)"):
            assert connection.execute(f"SELECT cache_key, metadata FROM {call}", (ALICE,)).fetchall() == [("none", None), ("empty", {}), ("some", {"genre": "noir"})]
        assert search(connection, {"genre": "noir"}) == ["some"]
        # In plain SQL a row without metadata contains nothing.
        assert search(connection, {}, sql=PLAIN) == ["empty", "some"]


def test_a_row_without_metadata_decides_like_any_other(database):
    """The newest version counts: what an older one had is gone."""
    with database.connect() as connection:
        connection.execute(f"SELECT create_monthly_cache_partition('{month(-1)}')")
        insert(connection, "k", month(-1), metadata={"genre": "noir"})
        connection.execute(INSERT, (uuid.uuid4(), ALICE, "t", "k", "1", None, 5, month(0), "infinity"))
        assert search(connection, {"genre": "noir"}) == []
        assert connection.execute("SELECT metadata FROM cache_search(%s, 't')", (ALICE,)).fetchall() == [(None,)]


def test_ten_unless_told_otherwise_the_best_first(database):
    with database.connect() as connection:
        for number in range(30):
            upsert(connection, "1", (ALICE, "t", f"k{number}"), reuse_score=number % 10, metadata='{"g": 1}')
        best = [f"k{number}" for score in range(9, -1, -1) for number in (20 + score, 10 + score, score)]
        assert search(connection, {"g": 1}, limit=1000) == best == search(connection, {"g": 1}, limit=1000, sql=PLAIN)
        named = "SELECT cache_key FROM cache_search(user_id => %s, content_type => 't', metadata => '{\"g\": 1}')"
        assert [key for (key,) in connection.execute(named, (ALICE,))] == best[:10]
        assert search(connection, {"g": 1}, limit=1) == ["k29"]


def test_hits_show_as_in_cache_get(counting):
    """Those that are stored and those that still wait in memory."""
    with counting.connect() as connection:
        for number in range(5):
            upsert(connection, "1", (ALICE, "t", f"k{number}"), reuse_score=number)
        upsert(connection, "1", (BOB, "t", "k1"))

        def shown():
            return dict(connection.execute("SELECT cache_key, hit_count FROM cache_search(%s, 't')", (ALICE,)).fetchall())

        expected = dict.fromkeys((f"k{number}" for number in range(5)), 0)
        assert shown() == expected
        for _ in range(2):
            for number in range(1, 5):
                for _ in range(number):
                    lookup(connection, (ALICE, "t", f"k{number}"))
                expected[f"k{number}"] += number
                lookup(connection, (BOB, "t", "k1"))
            assert shown() == expected
            connection.execute("SELECT * FROM cache_flush_statistics()")
            assert shown() == expected
        # A flush that is rolled back has stored nothing.
        lookup(connection, (ALICE, "t", "k0"))
        with connection.transaction(force_rollback=True):
            connection.execute("SELECT * FROM cache_flush_statistics()")
            assert shown() == expected | {"k0": 1}
        assert shown() == expected | {"k0": 1}
        got = {key: connection.execute("SELECT hit_count FROM cache_get(%s, 't', %s)", (ALICE, key)).fetchone()[0] for key in expected}
        assert got == expected | {"k0": 1}
        # A count stops at the greatest bigint, and one that is unknown is none. (The gets were hits.)
        connection.execute(f"ALTER TABLE {CACHE} ALTER COLUMN hit_count DROP NOT NULL")
        connection.execute(f"UPDATE {CACHE} SET hit_count = CASE cache_key WHEN 'k4' THEN {2 ** 63 - 2} WHEN 'k0' THEN NULL ELSE hit_count END")
        for _ in range(3):
            lookup(connection, (ALICE, "t", "k4"))
        assert (shown()["k4"], shown()["k0"]) == (2 ** 63 - 1, 2)
        assert [connection.execute("SELECT hit_count FROM cache_get(%s, 't', %s)", (ALICE, key)).fetchone()[0] for key in ("k4", "k0")] == [2 ** 63 - 1, 2]


def test_a_tenant_sees_the_hits_of_her_entries(counting):
    with temporary_roles(counting.cluster, "authenticated"), counting.connect() as connection:
        connection.execute("SELECT cache_grant_tenant('authenticated')")
        for user in (ALICE, BOB):
            upsert(connection, "1", (user, "t", "k"))
        for _ in range(3):
            lookup(connection, (BOB, "t", "k"))
        lookup(connection, (ALICE, "t", "k"))
        for caller, hits in ((ALICE, 1), (BOB, 3)):
            with acting(connection, caller):
                assert connection.execute("SELECT hit_count FROM cache_search(%s, 't')", (caller,)).fetchall() == [(hits,)]


def test_an_expired_entry_is_never_found(database):
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, "t", "k"), ttl="300 milliseconds")
        assert search(connection, {}) == ["k"]
        with connection.transaction():
            # In one transaction, whose now() stands still.
            connection.execute("SELECT now(), pg_sleep(0.4)")
            assert search(connection, {}) == []


def test_the_newest_version_decides_across_months(database):
    with database.connect() as connection:
        connection.execute(f"SELECT create_monthly_cache_partition('{month(-1)}')")
        insert(connection, "changed", month(-1), metadata={"genre": "noir"}, score=9)
        insert(connection, "changed", month(0), metadata={"genre": "horror"}, score=1)
        insert(connection, "expired", month(-1), metadata={"genre": "noir"}, score=8)
        insert(connection, "expired", month(0), metadata={"genre": "noir"}, score=8, expires_at=month(0))
        insert(connection, "twice", month(-1), metadata={"genre": "noir"}, score=7)
        insert(connection, "twice", month(0), metadata={"genre": "noir"}, score=6)
        insert(connection, "once", month(-1), metadata={"genre": "noir"}, score=5)
        # The same key of another type, or another user, is another entry.
        insert(connection, "once", month(0), content_type="u", metadata={"genre": "horror"})
        insert(connection, "once", month(0), user=BOB, metadata={"genre": "horror"})
        assert search(connection, {"genre": "noir"}) == ["twice", "once"]
        assert search(connection, {"genre": "noir"}, limit=1) == ["twice"]
        assert connection.execute("SELECT reuse_score FROM cache_search(%s, 't', '{\"genre\": \"noir\"}', 1)", (ALICE,)).fetchone() == (6,)
        assert search(connection, {"genre": "horror"}) == ["changed"]
        # A new version that is rolled back decides nothing.
        with connection.transaction(force_rollback=True):
            upsert(connection, "1", (ALICE, "t", "once"), metadata='{"genre": "horror"}')
            assert search(connection, {"genre": "noir"}) == ["twice"]
        assert search(connection, {"genre": "noir"}) == ["twice", "once"]


def test_a_search_sees_what_the_callers_snapshot_shows(database):
    with database.connect(autocommit=False) as reader, database.connect() as writer:
        upsert(writer, "1", (ALICE, "t", "a"))
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert search(reader, {}) == ["a"]
        upsert(writer, "1", (ALICE, "t", "b"))
        assert search(reader, {}) == ["a"]
        reader.commit()
        assert search(reader, {}) == ["b", "a"]


def test_it_writes_nothing(database):
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, "t", "k"))
    with database.connect(autocommit=False) as connection:
        connection.execute("SET TRANSACTION READ ONLY")
        assert search(connection, {}) == ["k"]
        assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)


def test_with_the_cache_off_nothing_is_found(database):
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, "t", "k"))
        connection.execute("SET infinite_pages_cache.enabled = off")
        assert search(connection, {}) == []
        assert sqlstate_of(lambda: search(connection, [])).sqlstate == "22023"
        connection.execute("SET infinite_pages_cache.enabled = on")
        assert search(connection, {}) == ["k"]


def test_a_search_counts_as_no_lookup_and_the_lookup_after_it_does(counting):
    with counting.connect() as connection:
        upsert(connection, "1", (ALICE, "t", "k"), token_cost=3)
        for _ in range(5):
            assert search(connection, {}) == ["k"]
            assert search(connection, {"no": "such"}) == []
        assert counters(counting, "hits", "misses") == {}
        assert lookup(connection, (ALICE, "t", search(connection, {})[0])) == 1
        assert counters(counting, "hits", "misses") == {"t": {"hits": 1}}


@pytest.mark.parametrize("metadata, limit, sqlstate, value", [
    ("[]", 10, "22023", "[]"), ('"noir"', 10, "22023", '\\"noir\\"'), ("null", 10, "22023", "null"), ("7", 10, "22023", "7"),
    (None, 10, "22004", "NULL"), ("{}", None, "22004", "NULL"), ("{}", 0, "22023", "0"), ("{}", -3, "22023", "-3"), ("{}", 1001, "22023", "1001"),
])
def test_bad_input_is_refused_with_the_value_and_the_way_out(database, metadata, limit, sqlstate, value):
    with database.connect() as connection:
        refused = sqlstate_of(lambda: connection.execute(SEARCH, (ALICE, "t", metadata, limit)))
        assert refused.sqlstate == sqlstate and refused.message_primary and refused.message_hint
        assert value.replace("\\", "") in refused.message_detail


# ── who finds it ─────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("sql", [SEARCH, PLAIN], ids=["cache_search", "plain SQL"])
def test_a_tenant_finds_her_own_entries_alone(database, roles, sql):
    database.execute("SELECT cache_grant_tenant('authenticated'), cache_grant_service('service_role')")
    with database.connect() as connection:
        for user in (ALICE, BOB):
            upsert(connection, '"secret"', (user, "t", f"of {user}"), metadata='{"genre": "noir"}')
        for caller in (ALICE, BOB):
            with acting(connection, caller):
                for user in (ALICE, BOB):
                    assert search(connection, {"genre": "noir"}, user, sql=sql) == ([f"of {user}"] if user == caller else [])
        with acting(connection, ALICE, "service_role"):
            assert search(connection, {"genre": "noir"}, BOB, sql=sql) == [f"of {BOB}"]
        for claims in ("{}", "nonsense", ""):
            with acting(connection, ALICE, claims=claims):
                assert search(connection, {}, sql=sql) == []


def test_who_may_not_read_the_table_may_not_search_it(database, cluster):
    with temporary_roles(cluster, "stranger"), database.connect() as connection:
        connection.execute("SET ROLE stranger")
        assert sqlstate_of(lambda: search(connection, {})).sqlstate == "42501"


# ── how it finds it ──────────────────────────────────────────────────────────────────────────────

TYPES = 20


@pytest.fixture(scope="module")
def large(cluster):
    """12,000 entries in two months: 6,000 of Alice's in 20 types, the others of users with 20 each."""
    with temporary_roles(cluster, "searcher"):
        database = Database(cluster)
        database.execute(f"""
            SELECT create_monthly_cache_partition('{month(-1)}');
            INSERT INTO {CACHE} (user_id, content_type, cache_key, content, metadata, reuse_score, created_at, expires_at)
                SELECT CASE WHEN n % 2 = 0 THEN '{ALICE}' ELSE md5((n / 40)::text)::uuid END, 'type ' || n / 2 % {TYPES}, 'k' || n, '1',
                       jsonb_build_object('genre', n / 40 % 5), n % 101 / 10.0, CASE WHEN n <= 4000 THEN '{month(-1)}' ELSE now() END, 'infinity'
                FROM generate_series(1, 12000) n;
            SELECT cache_grant_tenant('searcher');
            ANALYZE""")
        yield database
        database.drop()


@pytest.fixture(params=["owner", "tenant"])
def searcher(large, request):
    with large.connect() as connection:
        if request.param == "tenant":
            connection.execute("SELECT set_config('request.jwt.claims', %s, false)", (json.dumps({"sub": ALICE}),))
            connection.execute("SET ROLE searcher")
        yield connection


@pytest.mark.parametrize("plan_cache_mode", ["force_custom_plan", "force_generic_plan"])
def test_plain_sql_is_planned_with_the_index(searcher, plan_cache_mode):
    searcher.execute(f"SET plan_cache_mode = {plan_cache_mode}")
    # The parameters of EXPLAIN would not be those of a kept plan.
    searcher.execute("PREPARE search (uuid, text, jsonb, bigint) AS " + PLAIN.replace("%s", "{}").format("$1", "$2", "$3", "$4"))
    [(plan,)] = searcher.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE search ('{ALICE}', 'type 3', '{{\"genre\": 3}}', 10)").fetchall()
    for offset in (-1, 0):
        relations = [node for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == name_of(offset) or
                     node.get("Index Name", "").startswith(f"{name_of(offset)}_{INDEX}")]
        conditions = [node["Index Cond"] for node in relations if "Index Cond" in node]
        assert len(conditions) == 1 and "user_id" in conditions[0] and "content_type" in conditions[0], relations
        assert {node.get("Index Name", f"{name_of(offset)}_{INDEX}") for node in relations} == {f"{name_of(offset)}_{INDEX}"}
        assert not any(node["Node Type"] == "Seq Scan" for node in relations)


def index_scans(connection):
    """By the transaction, of the two indexes of the full months."""
    names = [f"{name_of(offset)}_{index}" for index in (INDEX, "user_id_cache_entry_digest_idx") for offset in (-1, 0)]
    return connection.execute("SELECT " + ", ".join(f"pg_stat_get_xact_numscans('{name}'::regclass)" for name in names)).fetchone()


def test_the_function_reads_the_entries_of_the_user_and_type(searcher):
    with searcher.transaction():
        assert len(search(searcher, {"genre": 3}, content_type="type 3", limit=5)) == 5
        searcher.execute("SET LOCAL ROLE postgres")
        # 300 of the type, and each of the five that it returns once more, when asked for a newer version.
        assert rows_read(searcher) == (0, 6000 // TYPES + 5)
        of_type, of_type_now, _, versions_now = index_scans(searcher)
        assert (of_type, of_type_now, versions_now) == (1, 1, 5)


def test_newer_versions_are_asked_for_until_there_are_enough(searcher):
    with searcher.transaction():
        assert len(search(searcher, {}, content_type="type 3", limit=1)) == 1
        searcher.execute("SET LOCAL ROLE postgres")
        assert index_scans(searcher)[3] == 1


@pytest.mark.parametrize("plan_cache_mode", ["force_custom_plan", "force_generic_plan"])
def test_a_lookup_by_key_does_not_go_by_the_index_for_searches(database, plan_cache_mode):
    """Where users have few entries of a type that index is lower by a level, and finds one row, too, as far as the planner knows."""
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content) "
                     "SELECT md5((n % 3000)::text)::uuid, 'type ' || n / 3000 % 30, n::text, '1' FROM generate_series(1, 40000) n")
    database.execute("ANALYZE")
    database.execute("CHECKPOINT")
    # The level of the root stands in the first page of a B-tree, after the page's header, a magic number, a version and the root's number.
    level = "SELECT get_byte(pg_read_binary_file(pg_relation_filepath(%s), 24 + 12, 1), 0)"
    assert database.value(level, (f"{name_of(0)}_user_id_cache_entry_digest_idx",)) == database.value(level, (f"{name_of(0)}_{INDEX}",)) + 1
    with database.connect() as connection:
        connection.execute(f"SET plan_cache_mode = {plan_cache_mode}")
        connection.execute(f"""PREPARE lookup (uuid, text, text) AS SELECT content FROM {CACHE}
            WHERE user_id = $1 AND cache_entry_digest(content_type, cache_key) = cache_entry_digest($2, $3)
              AND content_type = $2 AND cache_key = $3 ORDER BY created_at DESC LIMIT 1""")
        [(plan,)] = connection.execute(f"EXPLAIN (FORMAT JSON) EXECUTE lookup ('{ALICE}', 'type 3', 'k')").fetchall()
        assert {node["Index Name"] for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == name_of(0)} == {f"{name_of(0)}_user_id_cache_entry_digest_idx"}


# ── the index ────────────────────────────────────────────────────────────────────────────────────

def valid_indexes(database):
    """Partitions, and how many valid indexes on user and content type each has."""
    return dict(database.execute(f"""
        SELECT c.relname::text, count(x.*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        LEFT JOIN pg_index x ON x.indrelid = c.oid AND x.indisvalid AND pg_get_indexdef(x.indexrelid) LIKE '%(user_id, content_type%'
        WHERE i.inhparent = '{CACHE}'::regclass GROUP BY 1"""))


def test_every_partition_has_the_index_however_it_was_made(database):
    database.execute(f"""
        SELECT create_monthly_cache_partition('2021-05-01');
        CREATE TABLE by_hand PARTITION OF {CACHE} FOR VALUES FROM ('2021-06-01 00:00:00+00') TO ('2021-07-01 00:00:00+00');
        CREATE TABLE attached (LIKE {CACHE} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
        ALTER TABLE {CACHE} ATTACH PARTITION attached FOR VALUES FROM ('2021-07-01 00:00:00+00') TO ('2021-08-01 00:00:00+00')""")
    found = valid_indexes(database)
    assert len(found) == 7 and set(found.values()) == {1}


def test_a_partition_is_made_beside_open_readers_and_writers(database):
    """The index on the whole table has one built for the new partition, which is empty."""
    with database.connect(autocommit=False) as reader, database.connect(autocommit=False) as writer, database.connect() as owner:
        search(reader, {})
        upsert(writer, "1", (ALICE, "t", "k"))
        owner.execute("SET lock_timeout = '2s'")
        owner.execute("SELECT create_monthly_cache_partition('2021-05-01')")
        assert search(reader, {}) == [] and search(writer, {}) == ["k"]
    assert valid_indexes(database)["infinite_pages_cache_2021_05"] == 1


@pytest.mark.parametrize("mine", [None, "(user_id, content_type, reuse_score DESC)", "(user_id, content_type) WITH (fillfactor = 70)",
                                  "(user_id, content_type) WHERE priority_tier = 1", "(content_type, user_id)"])
def test_set_up_makes_the_index_unless_there_is_one_that_serves(database, mine):
    database.execute(f"DROP INDEX {CACHE}_{INDEX}")
    assert failed_checks(database) == ["searches have their index"]
    if mine:
        database.execute(f"CREATE INDEX mine ON {CACHE} {mine}")
    serves = bool(mine) and "WHERE" not in mine and mine.startswith("(user_id")
    assert failed_checks(database) == ([] if serves else ["searches have their index"])
    database.execute("SELECT cache_setup(), cache_setup()")
    assert failed_checks(database) == []
    made = database.value(f"SELECT count(*) FROM pg_index WHERE indrelid = '{CACHE}'::regclass AND pg_get_indexdef(indexrelid) LIKE '%(user_id, content_type)'")
    assert made == (0 if serves else 1)


def test_a_legacy_table_gets_the_index_and_is_searched(empty_database):
    database = empty_database
    database.execute(LEGACY + legacy_month(-1) + legacy_month(0) + "CREATE EXTENSION infinite_pages_cache")
    assert set(valid_indexes(database).values()) == {1}
    with database.connect() as connection:
        assert search(connection, {}, content_type="tone") == ["k0", "k-1"]
