"""Clients that INSERT a key in one month after the other leave several versions of an entry. The newest alone counts: what takes it away
brings no older one back."""

from datetime import timedelta

import pytest

from harness.entries import ALICE, BOB, CACHE, lookup
from harness.months import add_month, month, name_of

KEY = (ALICE, "tone", "k")
BEFORE = "2000-01-01"


@pytest.fixture
def client(database):
    """There are partitions of the two months gone by."""
    with database.connect() as connection:
        for offset in (-2, -1):
            add_month(database, offset)
        yield connection


def insert(connection, offset, content, expires="infinity", key=KEY, **columns):
    """As a client does, in the month so far from now."""
    created = "now()" if offset == 0 else f"'{month(offset) + timedelta(days=10)}'"
    connection.execute(
        f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at{''.join(f', {name}' for name in columns)}) "
        f"VALUES (%s, %s, %s, %s, {created}, %s{', %s' * len(columns)})", (*key, content, expires, *columns.values()))


def contents(connection, user=ALICE):
    return sorted(content for (content,) in connection.execute(f"SELECT content FROM {CACHE} WHERE user_id = %s", (user,)).fetchall())


@pytest.mark.parametrize("call", ["cache_invalidate_where(%s, '{\"made\": \"anew\"}')", "cache_invalidate_dependents(%s, 'bible 2')",
                                  "cache_invalidate(%s, 'tone', 'k')"])
def test_an_invalidation_takes_the_versions_before(client, call):
    for user in (ALICE, BOB):
        key = (user, "tone", "k")
        insert(client, -2, "1", key=key, foundation_dependency="bible 1")
        insert(client, -1, "2", key=key, foundation_dependency="bible 1")
        insert(client, 0, "3", key=key, metadata='{"made": "anew"}', foundation_dependency="bible 2")
        insert(client, -2, "4", key=(user, "tone", "other"))
    assert lookup(client, KEY) == 3
    assert client.execute(f"SELECT {call}", (ALICE,)).fetchone() == (3,)
    assert lookup(client, KEY) is None
    assert (contents(client), contents(client, BOB)) == ([4], [1, 2, 3, 4])


def test_an_invalidation_leaves_a_newer_version(client):
    insert(client, -2, "1")
    insert(client, -1, "2", metadata='{"made": "anew"}')
    insert(client, 0, "3")
    assert client.execute("SELECT cache_invalidate_where(%s, '{\"made\": \"anew\"}')", (ALICE,)).fetchone() == (2,)
    assert (lookup(client, KEY), contents(client)) == (3, [3])


def test_cleanup_brings_nothing_back(client):
    """What has expired goes with what it hides: when that has expired, too."""
    insert(client, -1, "1")
    insert(client, 0, "2", expires=BEFORE)
    for key, expires in (("expired before", BEFORE), ("alone", BEFORE)):
        insert(client, 0, "3", expires=BEFORE, key=(ALICE, "tone", key))
    insert(client, -2, "3", expires=BEFORE, key=(ALICE, "tone", "expired before"))
    cleanup = "SELECT sum(deleted_count)::int FROM cleanup_expired_cache_entries_production()"
    assert lookup(client, KEY) is None
    assert client.execute(cleanup).fetchone() == (3,)
    assert (lookup(client, KEY), contents(client)) == (None, [1, 2])
    client.execute(f"UPDATE {CACHE} SET expires_at = '{BEFORE}'")
    assert client.execute(cleanup).fetchone() == (2,)
    assert contents(client) == []


@pytest.mark.parametrize("call", ["cache_run_maintenance()", "drop_old_cache_partitions(1)"])
def test_a_dead_month_that_hides_what_lives_stays(client, call):
    insert(client, -2, "1")
    insert(client, -1, "2", expires=BEFORE)
    client.execute(f"SELECT * FROM {call}")
    assert (lookup(client, KEY), contents(client)) == (None, [1, 2])
    if call.startswith("drop"):
        details = dict(client.execute(f"SELECT partition_name, detail FROM {call}").fetchall())
        assert details[name_of(-1)] == "kept: it hides live entries of older months"
    client.execute(f"DELETE FROM {CACHE} WHERE content = '1'")
    client.execute(f"SELECT * FROM {call}")
    assert client.execute("SELECT to_regclass(%s)", (name_of(-1),)).fetchone() == (None,)


def test_limits_bring_nothing_back(client):
    """Of two entries one has to go: the one whose newest version is hit less, and its older version, hit more, with it."""
    client.execute("UPDATE cache_content_policies SET max_entries = 1 WHERE content_type = 'tone'")
    insert(client, -1, "1", hit_count=100)
    insert(client, 0, "2", hit_count=1)
    insert(client, 0, "3", hit_count=50, key=(ALICE, "tone", "other"))
    assert dict(client.execute("SELECT step, status FROM cache_run_maintenance()").fetchall())["enforce limits"] == "ok"
    assert lookup(client, KEY) in (None, 2) and len(contents(client)) == 1
    assert 1 not in contents(client)
