"""Writers of one key where the protocol at the head of src/entry/lock.rs is at its edges: tables whose columns differ, partitions that nobody
else knows yet, rows that direct clients replace, tables that are locked, sessions that may not write."""

import threading
from contextlib import contextmanager
from datetime import datetime, timezone

import pytest

from harness.database import Database
from harness.entries import ALICE, CACHE, lookup, upsert
from harness.errors import sqlstate_of
from harness.waiting import is_waiting, wait_until

TYPE = "tone"

KEY = (ALICE, TYPE, "k")
INSERT = f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) VALUES ('{ALICE}', '{TYPE}', 'k', %s, %s, 'infinity')"


@contextmanager
def waiting(database, connection, action):
    """Something that a session does, seen waiting for a lock; it is over at the end. Yields its result, in a list."""
    result, errors = [], []

    def act():
        try:
            result.append(action())
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        wait_until(lambda: errors or is_waiting(database, connection))
        yield result
    finally:
        thread.join(20)
    assert not thread.is_alive() and errors == []


def rows(database):
    return database.execute(f"SELECT tableoid::regclass::text, content FROM {CACHE} WHERE cache_key = 'k' ORDER BY 1")


# Columns of tables that clients have brought.
CHANGES = {
    "a cost that is double precision": "ALTER COLUMN token_cost TYPE double precision",
    "a content type that is varchar": "ALTER COLUMN content_type TYPE varchar(200)",
    "a content type that is char": "ALTER COLUMN content_type TYPE character(20)",
}


@pytest.fixture(params=CHANGES.values(), ids=CHANGES)
def changed(database, request):
    database.execute(f"ALTER TABLE {CACHE} DROP CONSTRAINT IF EXISTS {CACHE}_content_type_check; ALTER TABLE {CACHE} {request.param}")
    return database


def test_a_transaction_writes_a_key_again_though_another_waits_for_it(changed, two):  # noqa: F811
    one, other = two
    upsert(one, "1", KEY)
    with waiting(changed, other, lambda: upsert(other, "3", KEY)):
        upsert(one, "2", KEY)
        one.commit()
    other.commit()
    assert [content for _, content in rows(changed)] == [3]


def test_an_erasure_waits_for_who_writes(changed, two):  # noqa: F811
    one, other = two
    upsert(one, "1", KEY)
    erase = lambda: other.execute("SELECT entries_deleted FROM cache_forget_user(%s)", (ALICE,)).fetchone()
    with waiting(changed, other, erase) as deleted:
        one.commit()
    other.commit()
    assert deleted == [(1,)] and rows(changed) == []


def test_a_key_in_a_month_that_another_transaction_has_made_is_waited_for(clock_cluster):
    """A batch that has written in October goes on there when November comes and has no partition yet."""
    clock_cluster.set_clock(datetime(2026, 10, 31, 12, tzinfo=timezone.utc))
    database = Database(clock_cluster)
    database.execute("DROP TABLE infinite_pages_cache_2026_11, cache_audit_log_2026_11")
    names = [name for (name,) in database.execute(
        "SELECT k FROM unnest('{a,b,k}'::text[]) k ORDER BY cache_entry_digest(%s, k)", (TYPE,))]
    first, held, last = names
    entries = ", ".join(f'{{"user_id": "{ALICE}", "content_type": "{TYPE}", "cache_key": "{name}", "content": 1}}' for name in names)
    with database.connect(autocommit=False) as holder, database.connect(autocommit=False) as maker, database.connect() as batch:
        upsert(holder, "0", (ALICE, TYPE, held))
        with waiting(database, batch, lambda: batch.execute(f"SELECT cache_upsert_many('[{entries}]')")):
            clock_cluster.set_clock(datetime(2026, 11, 1, 0, 0, 1, tzinfo=timezone.utc))
            upsert(maker, "2", (ALICE, TYPE, last))
            holder.commit()
            wait_until(lambda: is_waiting(database, batch))
            maker.commit()
    assert database.execute(f"SELECT cache_key, count(*) FROM {CACHE} GROUP BY 1 ORDER BY 1") == [(name, 1) for name in sorted(names)]
    assert database.value("SELECT cache_lookup(%s, %s, %s)", (ALICE, TYPE, last)) == 1
    database.drop()


def test_an_erasure_waits_for_who_has_made_the_month(clock_cluster):
    clock_cluster.set_clock(datetime(2026, 10, 31, 12, tzinfo=timezone.utc))
    database = Database(clock_cluster)
    database.execute("DROP TABLE infinite_pages_cache_2026_11, cache_audit_log_2026_11")
    clock_cluster.set_clock(datetime(2026, 11, 1, 0, 0, 1, tzinfo=timezone.utc))
    with database.connect(autocommit=False) as maker, database.connect() as eraser:
        upsert(maker, "1", KEY)
        erase = lambda: eraser.execute("SELECT entries_deleted FROM cache_forget_user(%s)", (ALICE,)).fetchone()
        with waiting(database, eraser, erase) as deleted:
            maker.commit()
    assert deleted == [(1,)] and rows(database) == []
    database.drop()


def test_a_row_that_a_client_replaces_in_an_older_month_is_not_left_behind(database, two):  # noqa: F811
    one, other = two
    database.execute("SELECT create_monthly_cache_partition('2020-05-01')")
    database.execute(INSERT, ("1", "2020-05-05"))
    one.execute(f"DELETE FROM {CACHE} WHERE cache_key = 'k'")
    with waiting(database, other, lambda: upsert(other, "3", KEY)):
        one.execute(INSERT, ("2", "2020-05-06"))
        one.commit()
    other.commit()
    assert [content for _, content in rows(database)] == [3]


@pytest.mark.parametrize("mode", ["SHARE ROW EXCLUSIVE", "EXCLUSIVE", "ACCESS EXCLUSIVE"])
@pytest.mark.parametrize("write", [
    "SELECT cache_upsert(%s, %s, %s, '1')",
    "SELECT cache_touch(%s, %s, %s)",
])
def test_who_has_locked_the_table_writes_a_key_that_others_wait_to_write(database, two, mode, write):  # noqa: F811
    one, other = two
    upsert(database.connect(), "0", KEY)
    one.execute(f"LOCK TABLE {CACHE} IN {mode} MODE")
    with waiting(database, other, lambda: other.execute(write, KEY)):
        one.execute(write, KEY)
        one.commit()
    other.commit()
    assert len(rows(database)) == 1


@pytest.mark.parametrize("write", [
    f"cache_upsert('{ALICE}', '{TYPE}', 'k', '1')", f"cache_touch('{ALICE}', '{TYPE}', 'k')", f"cache_forget_user('{ALICE}')",
    f"""cache_upsert_many('[{{"user_id": "{ALICE}", "content_type": "{TYPE}", "cache_key": "k", "content": 1}}]')""",
])
def test_who_may_only_read_is_refused_at_once(database, two, write):  # noqa: F811
    one, other = two
    upsert(one, "1", KEY)
    other.execute("SET TRANSACTION READ ONLY")
    error = sqlstate_of(lambda: other.execute(f"SELECT {write}"))
    assert error.sqlstate == "25006" and write.split("(")[0] in error.message_primary


def test_a_touch_that_has_waited_touches_the_new_version(database, two):  # noqa: F811
    one, other = two
    upsert(database.connect(), "0", KEY)
    one.execute(f"SELECT FROM {CACHE} FOR UPDATE")
    with waiting(database, other, lambda: other.execute("SELECT cache_touch(%s, %s, %s, 'infinity')::text", KEY).fetchone()) as touched:
        upsert(one, "1", KEY)
        one.commit()
    other.commit()
    assert touched == [("infinity",)]
    with database.connect() as connection:
        assert lookup(connection, KEY) == 1 and connection.execute(f"SELECT expires_at = 'infinity' FROM {CACHE}").fetchone() == (True,)
