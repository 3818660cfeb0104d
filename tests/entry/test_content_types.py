"""Names of content types: * is the policy of all others and no type, and a policy is for a name that a type can have."""

import pytest

from harness.calls import entry, upsert, upsert_many
from harness.database import Database
from harness.entries import ALICE, CACHE
from harness.errors import refused, sqlstate_of, warnings_of
from harness.reports import checks

POLICIES = "cache_content_policies"
CHECK = f"{POLICIES}_content_type_check"


@pytest.fixture(scope="module")
def cache(cluster):
    database = Database(cluster)
    yield database
    database.drop()


@pytest.mark.parametrize("call", [
    upsert(content_type="'*'"), upsert_many(entry(cache_key="k1"), entry(content_type="*")), f"SELECT cache_touch('{ALICE}', '*', 'k')",
    f"SELECT cache_touch('{ALICE}', '*', 'k', '1 day')",
], ids=["cache_upsert", "cache_upsert_many", "cache_touch", "cache_touch with a time to live"])
@pytest.mark.parametrize("enabled", ["on", "off"])
def test_nothing_is_written_of_the_type_that_stands_for_all_others(cache, call, enabled):
    error = refused(cache, call, "22023", f"SET infinite_pages_cache.enabled = {enabled}")
    assert "content_type" in error.message_primary and "policy" in error.message_hint and '"*"' in error.message_detail
    assert "upsert_many" not in call or error.message_detail.startswith("Entry 2 of the batch")


def test_other_names_with_a_star_are_names(cache):
    for name in ("**", "* ", "a*"):
        cache.execute("SELECT cache_upsert(%s, %s, 'k', '1')", (ALICE, name))
        assert cache.value("SELECT cache_touch(%s, %s, 'k', '1 day') IS NOT NULL", (ALICE, name))
    cache.execute(f"DELETE FROM {CACHE}")


def test_a_lookup_of_the_type_that_stands_for_all_others_is_a_miss(database):
    with database.connect() as connection:
        one = lambda call: connection.execute(f"SELECT {call}").fetchone()[0]
        connection.execute(upsert())
        assert one(f"cache_lookup('{ALICE}', '*', 'k')") is None
        assert one(f"count(*) FROM cache_get('{ALICE}', '*', 'k')") == one(f"count(*) FROM cache_search('{ALICE}', '*')") == 0
        assert one(f"cache_invalidate('{ALICE}', '*', 'k')") == one(f"cache_invalidate_content_type('{ALICE}', '*')") == 0
        # What an older version has stored, or a client inserts itself, is an entry like any other, and can be removed.
        for key in "abc":
            connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content) VALUES (%s, '*', %s, '7')", (ALICE, key))
        assert one(f"cache_lookup('{ALICE}', '*', 'a')") == 7
        assert one(f"cache_invalidate('{ALICE}', '*', 'a')") == 1
        assert one(f"cache_invalidate_content_type('{ALICE}', '*')") == 2
        assert one(f"cache_lookup('{ALICE}', 't', 'k')") == 2


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128])
def test_a_policy_of_a_name_that_no_type_can_have_is_refused(cache, name):
    before = cache.contents()
    for sql in (f"INSERT INTO {POLICIES} (content_type) VALUES (%s)", f"UPDATE {POLICIES} SET content_type = %s WHERE content_type = 'tone'"):
        assert sqlstate_of(lambda: cache.execute(sql, (name,))).sqlstate == "23514"
    assert cache.contents() == before


def test_a_policy_of_the_longest_name_is_taken(database):
    for name in ("x" * 255, "é" * 127, " "):
        database.execute(f"INSERT INTO {POLICIES} (content_type, token_cost) VALUES (%s, 7)", (name,))
        database.execute("SELECT cache_upsert(%s, %s, 'k', '1')", (ALICE, name))
    assert database.execute(f"SELECT DISTINCT token_cost FROM {CACHE}") == [(7,)]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_policies_of_an_older_version_get_the_constraint(empty_database, version):
    empty_database.execute(f"CREATE EXTENSION infinite_pages_cache VERSION '{version}'")
    # Tables as that version makes them.
    empty_database.execute(f"ALTER TABLE {POLICIES} DROP CONSTRAINT {CHECK}")
    assert "cache_setup()" in checks(empty_database)["the tables are those of this version"]
    assert warnings_of(empty_database, "ALTER EXTENSION infinite_pages_cache UPDATE") == []
    constraint = f"SELECT conname, convalidated FROM pg_constraint WHERE conrelid = '{POLICIES}'::regclass AND contype = 'c' AND conname LIKE '%content_type%'"
    assert empty_database.execute(constraint) == [(CHECK, True)]
    assert checks(empty_database) == {}
    empty_database.execute("SELECT cache_setup()")
    assert empty_database.execute(constraint) == [(CHECK, True)]


@pytest.mark.parametrize("name", ["", "x" * 300])
def test_a_policy_that_breaks_the_constraint_is_kept_and_named(empty_database, name):
    empty_database.execute("CREATE EXTENSION infinite_pages_cache VERSION '0.2.0'")
    empty_database.execute(f"ALTER TABLE {POLICIES} DROP CONSTRAINT {CHECK}")
    empty_database.execute(f"INSERT INTO {POLICIES} (content_type) VALUES (%s)", (name,))
    [(message, detail, hint)] = warnings_of(empty_database, "ALTER EXTENSION infinite_pages_cache UPDATE")
    assert POLICIES in message and "octet_length(content_type)" in detail and "VALIDATE CONSTRAINT" in hint
    assert empty_database.value(f"SELECT count(*) FROM {POLICIES} WHERE content_type = %s", (name,)) == 1
    [hint] = checks(empty_database).values()
    assert warnings_of(empty_database, "SELECT cache_setup()") == []
    assert sqlstate_of(lambda: empty_database.execute(f"INSERT INTO {POLICIES} (content_type) VALUES ('')")).sqlstate in ("23514", "23505")
    # What the hint says is what helps.
    empty_database.execute(f"DELETE FROM {POLICIES} WHERE content_type = %s", (name,))
    empty_database.execute(hint[hint.index("ALTER TABLE"):])
    assert checks(empty_database) == {}


def test_policies_that_clients_have_brought_keep_their_names(empty_database):
    """A table without a constraint of ours gets none."""
    empty_database.execute(f"CREATE TABLE {POLICIES} (content_type text PRIMARY KEY, ttl interval); INSERT INTO {POLICIES} VALUES ('', '1 day'), ('*', '1 day')")
    assert [warning for warning in warnings_of(empty_database, "CREATE EXTENSION infinite_pages_cache") if POLICIES in warning[0]] == []
    assert empty_database.value(f"SELECT count(*) FROM pg_constraint WHERE conrelid = '{POLICIES}'::regclass AND contype = 'c'") == 0
