"""A lookup writes nothing - no row, no WAL, no transaction id - and returns what the caller's snapshot shows."""

import pytest

from harness.cluster import Cluster
from harness.entries import ALICE, BOB, KEY, lookup, upsert


@pytest.fixture(params=["on", "off"], ids=["by index", "by statement"])
def database(database, request):
    """On both ways that lead to an entry."""
    with database.connect() as connection:
        connection.execute(f"ALTER DATABASE {database.name} SET enable_indexscan = {request.param}")
    return database


def test_lookup_in_a_read_only_transaction_assigns_no_transaction_id(database):
    with database.connect() as connection:
        upsert(connection, '{"a": 1}')
    with database.connect(autocommit=False) as connection:
        connection.execute("SET TRANSACTION READ ONLY")
        assert lookup(connection) == {"a": 1}
        assert lookup(connection, (ALICE, "story_foundation", "missing")) is None
        rows = connection.execute("SELECT * FROM cache_lookup_many(%s, %s, ARRAY['k', 'missing'])", KEY[:2]).fetchall()
        assert rows == [("k", {"a": 1}), ("missing", None)]
        assert connection.execute("SELECT content FROM cache_get(%s, %s, %s)", KEY).fetchall() == [({"a": 1},)]
        assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)


def test_lookup_sees_own_uncommitted_writes_and_rolls_back_with_them(database):
    with database.connect(autocommit=False) as connection:
        upsert(connection, "1")
        assert lookup(connection) == 1
        connection.execute("SAVEPOINT s")
        upsert(connection, "2")
        assert lookup(connection) == 2
        connection.execute("ROLLBACK TO s")
        assert lookup(connection) == 1
        connection.rollback()
        assert lookup(connection) is None


def test_repeatable_read_keeps_its_snapshot(database):
    with database.connect(autocommit=False) as reader, database.connect() as writer:
        upsert(writer, "1")
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert lookup(reader) == 1
        upsert(writer, "2")
        assert lookup(reader) == 1
        reader.commit()
        assert lookup(reader) == 2


def test_an_expired_entry_is_never_returned(database):
    with database.connect() as connection:
        upsert(connection, "1", ttl="300 milliseconds")
        assert lookup(connection) == 1
        with connection.transaction():
            # In one transaction, whose now() stands still.
            connection.execute("SELECT now()")
            connection.execute("SELECT pg_sleep(0.4)")
            assert lookup(connection) is None
            assert connection.execute("SELECT count(*) FROM cache_get(%s, %s, %s)", KEY).fetchone() == (0,)
            assert connection.execute("SELECT * FROM cache_lookup_many(%s, %s, '{k}')", KEY[:2]).fetchall() == [("k", None)]
        assert connection.execute("SELECT cache_touch(%s, %s, %s, '1 day')", KEY).fetchone() == (None,)
        assert lookup(connection) is None


def test_the_newest_version_wins_across_months(database):
    insert = ("INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content, created_at, expires_at) "
              "VALUES (%s, %s, %s, %s::jsonb, %s, %s)")
    with database.connect() as connection:
        connection.execute("SELECT create_monthly_cache_partition(date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month')")
        old, new = connection.execute(
            "SELECT date_trunc('month', now(), 'UTC') - interval '1 day', date_trunc('month', now(), 'UTC')").fetchone()
        connection.execute(insert, (*KEY, '"old"', old, "infinity"))
        assert lookup(connection) == "old"
        connection.execute(insert, (*KEY, '"new"', new, "infinity"))
        assert lookup(connection) == "new"
        # The newest version decides also when it has expired.
        connection.execute("UPDATE infinite_pages_cache_partitioned SET expires_at = now() WHERE created_at = %s", (new,))
        assert lookup(connection) is None
        # An upsert leaves one row, whatever was there.
        upsert(connection, '"newest"')
        assert lookup(connection) == "newest"
        assert connection.execute("SELECT count(*) FROM infinite_pages_cache_partitioned").fetchone() == (1,)


def test_lookup_many_answers_every_requested_key_in_order(database):
    with database.connect() as connection:
        for number in range(50):
            upsert(connection, str(number), (ALICE, "t", f"k{number}"))
        keys = [f"k{number}" for number in (7, 7, 99, 3, 49, 100, 0)]
        rows = connection.execute("SELECT * FROM cache_lookup_many(%s, 't', %s)", (ALICE, keys)).fetchall()
        assert rows == [("k7", 7), ("k7", 7), ("k99", None), ("k3", 3), ("k49", 49), ("k100", None), ("k0", 0)]
        assert connection.execute("SELECT * FROM cache_lookup_many(%s, 't', '{}')", (ALICE,)).fetchall() == []
        assert connection.execute("SELECT * FROM cache_lookup_many(%s, 't', '{k1}')", (BOB,)).fetchall() == [("k1", None)]


def test_emergency_switch(database):
    with database.connect() as connection:
        upsert(connection, "1")
        connection.execute("SET infinite_pages_cache.enabled = off")
        assert lookup(connection) is None
        assert upsert(connection, "2") is None
        assert connection.execute("SELECT * FROM cache_lookup_many(%s, %s, '{k}')", KEY[:2]).fetchall() == [("k", None)]
        connection.execute("SET infinite_pages_cache.enabled = on")
        assert lookup(connection) == 1
        # What was outdated while the cache was off must not come back with it.
        connection.execute("SET infinite_pages_cache.enabled = off")
        assert connection.execute("SELECT cache_invalidate(%s, %s, %s)", KEY).fetchone() == (1,)
        connection.execute("SET infinite_pages_cache.enabled = on")
        assert lookup(connection) is None


def test_lookup_follows_a_renamed_schema_and_an_extension_created_anew(empty_database):
    with empty_database.connect() as connection:
        connection.execute('CREATE SCHEMA "My Cache"')
        connection.execute('CREATE EXTENSION infinite_pages_cache SCHEMA "My Cache"')
        call = 'SELECT "My Cache".cache_lookup(%s, %s, %s)'
        connection.execute('SELECT "My Cache".cache_upsert(%s, %s, %s, \'1\')', KEY)
        assert connection.execute(call, KEY).fetchone() == (1,)
        connection.execute('ALTER SCHEMA "My Cache" RENAME TO other')
        assert connection.execute("SELECT other.cache_lookup(%s, %s, %s)", KEY).fetchone() == (1,)
        connection.execute("DROP EXTENSION infinite_pages_cache CASCADE")
        # The entries are the user's: they stay, and the extension adopts them when it comes back.
        assert connection.execute("SELECT count(*) FROM other.infinite_pages_cache_partitioned").fetchone() == (1,)
        connection.execute("CREATE EXTENSION infinite_pages_cache SCHEMA other")
        assert connection.execute("SELECT other.cache_lookup(%s, %s, %s)", KEY).fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM other.verify_production_cache() WHERE NOT ok").fetchone() == (0,)


def test_entries_survive_a_crash():
    cluster = Cluster({"fsync": "on"})
    try:
        with cluster.connect() as connection:
            connection.execute("CREATE EXTENSION infinite_pages_cache")
            upsert(connection, '"kept"')
        cluster.restart("immediate")
        with cluster.connect() as connection:
            assert lookup(connection) == "kept"
    finally:
        cluster.remove()
