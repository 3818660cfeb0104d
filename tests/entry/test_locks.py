"""Writers wait for writers of the same key, for as long as that is being written, and for nobody else: whatever a transaction has written, it
keeps no lock but those of its rows."""

import contextlib
import hashlib
import itertools
import json
import threading
import time
import uuid
from datetime import datetime, timezone

import psycopg
import pytest

from harness.database import Database
from harness.entries import ALICE, BOB, CACHE, duplicates, upsert
from harness.errors import sqlstate_of
from harness.interleaving import HIGHER, LEVELS
from harness.waiting import is_waiting, together, wait_until

TYPE = "tone"
# Locks of users and of keys.
ADVISORY = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid IN ({0x4950_4301}, {0x4950_4302})"


def same_group(user):
    """Another user who would have fallen in the same of 1,024 groups, by the hash of both."""
    def group(one):
        return int.from_bytes(hashlib.sha256(uuid.UUID(one).bytes).digest()[:4], "big") % 1024

    return next(other for number in itertools.count() if group(other := str(uuid.UUID(int=number))) == group(user))


PAIRS = {"one user": (ALICE, ALICE), "two users of a group": (ALICE, same_group(ALICE)), "two users": (ALICE, BOB)}
two_users = pytest.mark.parametrize("users", PAIRS.values(), ids=PAIRS)


def keys(session, part, number):
    return [f"{session}-{part}-{one}" for one in range(number)]


def batch(connection, user, names, content=1):
    entries = [{"user_id": user, "content_type": TYPE, "cache_key": name, "content": content} for name in names]
    connection.execute("SELECT cache_upsert_many(%s::jsonb)", (json.dumps(entries),))


def singles(connection, user, names):
    connection.execute("SELECT cache_upsert(%s, %s, k, '1') FROM unnest(%s::text[]) k", (user, TYPE, names))


def touches(connection, user, names):
    connection.execute("SELECT cache_touch(%s, %s, k, '1 day') FROM unnest(%s::text[]) k", (user, TYPE, names))


# What a transaction does in two steps, each with keys of its own.
SCENARIOS = {
    "400 upserts": (lambda c, user, name: singles(c, user, keys(name, "a", 200)), lambda c, user, name: singles(c, user, keys(name, "b", 200))),
    "an upsert and a batch of 300": (lambda c, user, name: singles(c, user, keys(name, "a", 1)), lambda c, user, name: batch(c, user, keys(name, "b", 300))),
    "two batches of 200": (lambda c, user, name: batch(c, user, keys(name, "a", 200)), lambda c, user, name: batch(c, user, keys(name, "b", 200))),
    "300 touches": (lambda c, user, name: touches(c, user, keys(name, "t", 150)), lambda c, user, name: touches(c, user, keys(name, "t", 300)[150:])),
}


@two_users
@pytest.mark.parametrize("steps", SCENARIOS.values(), ids=SCENARIOS)
def test_transactions_that_write_different_keys_do_not_wait_for_each_other(database, two, users, steps):
    with database.connect() as before:
        for name, user in zip("xy", users):
            singles(before, user, keys(name, "t", 300))
    for step in steps:
        for session, user, name in zip(two, users, "xy"):
            assert sqlstate_or_none(lambda: step(session, user, name)) is None
    for session in two:
        session.commit()
    assert duplicates(database) == []


def sqlstate_or_none(action):
    try:
        action()
    except psycopg.Error as error:
        return error.sqlstate


@pytest.mark.parametrize("users", [PAIRS["two users of a group"], PAIRS["two users"]], ids=["of a group", "of two"])
def test_who_forgets_after_an_upsert_does_not_deadlock_with_another(database, two, users):
    """Erasures follow one another, but do not deadlock: each has written for a user of its own before."""
    barrier = threading.Barrier(2)

    def write_and_forget(session, user):
        for _ in range(5):
            upsert(session, "1", (user, TYPE, "k"))
            barrier.wait(20)
            assert session.execute("SELECT entries_deleted FROM cache_forget_user(%s)", (user,)).fetchone() == (1,)
            session.commit()

    together(*[lambda session=session, user=user: write_and_forget(session, user) for session, user in zip(two, users)])
    assert database.value(f"SELECT count(*) FROM {CACHE}") == 0


def test_writers_of_a_user_do_not_deadlock_with_who_forgets_it(database, two):
    """The eraser waits for a writer, which goes on to write other keys of the user."""
    writer, eraser = two
    upsert(writer, "1", (ALICE, TYPE, "a"))
    thread = threading.Thread(target=lambda: eraser.execute("SELECT * FROM cache_forget_user(%s)", (ALICE,)))
    thread.start()
    wait_until(lambda: is_waiting(database, eraser))
    singles(writer, ALICE, keys("w", "b", 300))
    batch(writer, ALICE, keys("w", "c", 300))
    upsert(writer, "2", (ALICE, TYPE, "a"))
    # Another writer of the user waits for the eraser, and one of another user for nobody.
    with database.connect() as third, database.connect(options="-c lock_timeout=1s") as fourth:
        late = threading.Thread(target=lambda: upsert(third, "1", (ALICE, TYPE, "late")))
        late.start()
        wait_until(lambda: is_waiting(database, third))
        upsert(fourth, "1", (same_group(ALICE), TYPE, "k"))
        writer.commit()
        thread.join(20)
        assert late.is_alive()
        eraser.commit()
        late.join(20)
    assert database.execute(f"SELECT cache_key FROM {CACHE} WHERE user_id = %s", (ALICE,)) == [("late",)]


def test_one_transaction_of_60000_upserts_keeps_no_lock(database):
    with database.connect(autocommit=False) as connection:
        connection.execute("SET LOCAL infinite_pages_cache.audit = off")
        connection.execute("SELECT cache_upsert(%s, %s, n::text, '1') FROM generate_series(1, 60000) n", (ALICE, TYPE))
        assert connection.execute(ADVISORY).fetchone() == (0,)
        connection.commit()
    assert database.value(f"SELECT count(*) FROM {CACHE}") == 60_000


def test_no_lock_is_kept_when_a_write_fails(database, two):
    """Nor when its subtransaction is rolled back, or another statement of it waits in vain."""
    one, other = two
    upsert(one, "1", (ALICE, TYPE, "k"))
    other.execute("SET lock_timeout = '100ms'; SAVEPOINT s")
    assert sqlstate_of(lambda: upsert(other, "2", (ALICE, TYPE, "k"))).sqlstate == "55P03"
    other.execute("ROLLBACK TO SAVEPOINT s")
    assert database.value(ADVISORY) == 0
    for write in (touches, batch):
        assert sqlstate_of(lambda: write(other, ALICE, ["k"])).sqlstate == "55P03"
        other.execute("ROLLBACK TO SAVEPOINT s")
    one.rollback()
    upsert(other, "2", (ALICE, TYPE, "k"))
    assert database.value(ADVISORY) == 0
    other.commit()
    assert database.value(f"SELECT content FROM {CACHE}") == 2


@pytest.mark.parametrize("first", ["FOR UPDATE", "FOR KEY SHARE", "with another", "DELETE", "UPDATE", "invalidate"])
def test_who_has_locked_a_row_may_write_its_key_though_others_wait_to(database, two, first):
    """The other one has the lock of the key, and waits for the row."""
    one, other = two
    key = (ALICE, TYPE, "k")
    with database.connect() as before:
        upsert(before, "0", key)
    share = f"SELECT FROM {CACHE} FOR KEY SHARE"
    one.execute({"FOR UPDATE": f"SELECT FROM {CACHE} FOR UPDATE", "DELETE": f"DELETE FROM {CACHE}",
                 "UPDATE": f"UPDATE {CACHE} SET metadata = '{{}}'", "invalidate": f"SELECT cache_invalidate('{ALICE}', '{TYPE}', 'k')"}.get(first, share))
    if first == "with another":
        database.execute(share)
    thread = threading.Thread(target=lambda: (upsert(other, "2", key), other.commit()))
    thread.start()
    wait_until(lambda: is_waiting(database, other))
    upsert(one, "1", key)
    one.commit()
    thread.join(20)
    assert not thread.is_alive()
    assert database.execute(f"SELECT content FROM {CACHE}") == [(2,)]


def test_writers_of_a_hot_key_follow_in_the_order_in_which_they_came(database):
    """The one that has it writes it again while eight others queue."""
    key = (ALICE, TYPE, "k")
    database.execute(f"""CREATE TABLE history (n serial, content jsonb);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.history (content) VALUES (NEW.content); RETURN NULL; END';
        CREATE TRIGGER note AFTER INSERT OR UPDATE ON {CACHE} FOR EACH ROW EXECUTE FUNCTION note()""")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(database.connect(autocommit=False))
        upsert(first, "0", key)
        sessions = [stack.enter_context(database.connect()) for _ in range(8)]
        threads = []
        for number, session in enumerate(sessions, 1):
            threads.append(threading.Thread(target=upsert, args=(session, str(number), key)))
            threads[-1].start()
            wait_until(lambda: is_waiting(database, session))
        upsert(first, '"again"', key)
        first.commit()
        for thread in threads:
            thread.join(20)
    assert [content for (content,) in database.execute("SELECT content FROM history ORDER BY n")] == [0, "again", 1, 2, 3, 4, 5, 6, 7, 8]
    assert database.execute(f"SELECT content FROM {CACHE}") == [(8,)]


@pytest.mark.parametrize("premade", [True, False], ids=["premade", "no_partition"])
def test_a_hot_key_at_a_months_edge(clock_cluster, premade):
    """Eight writers, and one whose transactions take long."""
    clock_cluster.set_clock(datetime(2026, 10, 31, 12, tzinfo=timezone.utc))
    database = Database(clock_cluster)
    edge = datetime(2026, 11, 1, tzinfo=timezone.utc)
    key = (ALICE, TYPE, "k")
    if not premade:
        database.execute("DROP TABLE infinite_pages_cache_2026_11, cache_audit_log_2026_11")
    clock_cluster.set_clock(datetime(2026, 10, 31, 23, 59, 59, tzinfo=timezone.utc))
    written = []

    def write(number):
        with database.connect(autocommit=number > 0) as connection:
            while connection.execute("SELECT clock_timestamp() < %s::timestamptz + interval '1 second'", (edge,)).fetchone()[0]:
                upsert(connection, str(number), key)
                if number == 0:
                    time.sleep(0.05)
                    upsert(connection, "0", key)
                    connection.commit()
                written.append(number)
                assert connection.execute(f"SELECT count(*) FROM {CACHE}").fetchone() == (1,)
                if number == 0:
                    connection.commit()

    together(*[lambda number=number: write(number) for number in range(9)])
    assert set(written) == set(range(9))
    assert database.execute(f"SELECT tableoid::regclass::text FROM {CACHE}") == [("infinite_pages_cache_2026_11",)]
    database.drop()


@pytest.mark.parametrize("other", ["DEFAULT", "without its index"])
def test_a_key_is_protected_where_only_statements_find_it(database, two, other):
    """A partition made by hand holds it."""
    one, second = two
    created = "2019-05-05"
    partition = "DEFAULT" if other == "DEFAULT" else "FOR VALUES FROM ('2019-01-01 00:00+00') TO ('2020-01-01 00:00+00')"
    database.execute(f"CREATE TABLE by_hand PARTITION OF {CACHE} {partition}")
    one.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at) VALUES (%s, %s, 'k', '1', %s)", (ALICE, TYPE, created))
    thread = threading.Thread(target=lambda: upsert(second, "2", (ALICE, TYPE, "k")))
    thread.start()
    wait_until(lambda: is_waiting(database, second))
    one.commit()
    thread.join(20)
    second.commit()
    assert database.execute(f"SELECT content FROM {CACHE}") == [(2,)]


def test_an_upsert_waits_for_an_insert_of_another_month(database, two):
    """By a client that takes no lock."""
    one, other = two
    database.execute("SELECT create_monthly_cache_partition('2020-05-01')")
    insert = f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at) VALUES (%s, %s, 'k', '1', '2020-05-05')"
    one.execute(insert, (ALICE, TYPE))
    thread = threading.Thread(target=lambda: upsert(other, "2", (ALICE, TYPE, "k")))
    thread.start()
    wait_until(lambda: is_waiting(database, other))
    one.commit()
    thread.join(20)
    other.commit()
    assert database.execute(f"SELECT content FROM {CACHE}") == [(2,)]


# ── erasure ──────────────────────────────────────────────────────────────────────────────────────

def insert(connection, key="direct", created="now()", content="1"):
    connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) "
                       f"VALUES (%s, %s, %s, %s, {created}, 'infinity')", (ALICE, TYPE, key, content))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kept", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("place", ["this month", "by hand", "DEFAULT"])
def test_forgetting_waits_for_and_removes_a_direct_insert(database, two, level, kept, place):
    inserter, eraser = two
    if place == "by hand":
        database.execute(f"CREATE TABLE by_hand PARTITION OF {CACHE} FOR VALUES FROM ('2019-01-01 00:00+00') TO ('2020-01-01 00:00+00')")
    elif place == "DEFAULT":
        database.execute(f"CREATE TABLE by_hand PARTITION OF {CACHE} DEFAULT")
    with database.connect() as before:
        upsert(before, "0", (ALICE, TYPE, "stored"))
        upsert(before, "0", (BOB, TYPE, "stored"))
    insert(inserter, created="now()" if place == "this month" else "'2019-05-05'")
    eraser.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
    outcome = []

    def forget():
        try:
            outcome.append(eraser.execute("SELECT entries_deleted FROM cache_forget_user(%s)", (ALICE,)).fetchone()[0])
            eraser.commit()
        except psycopg.Error as error:
            outcome.append(error.sqlstate)

    thread = threading.Thread(target=forget)
    thread.start()
    wait_until(lambda: is_waiting(database, eraser))
    # Who writes for another user goes on.
    with database.connect(options="-c lock_timeout=1s") as other:
        upsert(other, "1", (BOB, TYPE, "stored"))
        upsert(other, "1", (same_group(ALICE), TYPE, "stored"))
    inserter.commit() if kept else inserter.rollback()
    thread.join(20)
    if kept and level in HIGHER:
        assert outcome == ["40001"]
        assert database.value(f"SELECT count(*) FROM {CACHE} WHERE user_id = %s", (ALICE,)) == 2
    else:
        assert outcome == [2 if kept else 1]
        assert database.value(f"SELECT count(*) FROM {CACHE} WHERE user_id = %s", (ALICE,)) == 0
    assert database.value(f"SELECT count(*) FROM {CACHE} WHERE user_id = %s", (BOB,)) == 1


def test_forgetting_ends_beside_clients_that_insert_all_the_time(database):
    stop = threading.Event()

    def client(number):
        with database.connect() as connection:
            for one in itertools.count():
                if stop.is_set():
                    return
                insert(connection, f"{number}-{one}") if number else upsert(connection, "1", (ALICE, TYPE, f"u{one}"))

    def forget():
        try:
            with database.connect(options="-c statement_timeout=20s") as eraser:
                for _ in range(5):
                    eraser.execute("SELECT * FROM cache_forget_user(%s)", (ALICE,))
        finally:
            stop.set()

    together(forget, *[lambda number=number: client(number) for number in range(3)])


@pytest.mark.parametrize("change", [
    f"CREATE POLICY held ON {CACHE} AS RESTRICTIVE FOR {{command}} TO service_role USING (cache_key <> 'held')",
    f"""CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER hold BEFORE DELETE ON {CACHE} FOR EACH ROW WHEN (OLD.cache_key = 'held') EXECUTE FUNCTION hold()""",
])
@pytest.mark.parametrize("command", ["SELECT", "DELETE"])
@pytest.mark.parametrize("level", LEVELS)
def test_an_erasure_that_something_keeps_from_being_whole_is_refused(roles, empty_database, change, command, level):
    database = empty_database
    database.execute("CREATE EXTENSION infinite_pages_cache")
    with database.connect() as connection:
        for key in ("held", "k"):
            upsert(connection, "1", (ALICE, TYPE, key))
        upsert(connection, "1", (BOB, TYPE, "k"))
        connection.execute(change.format(command=command))
        connection.execute("SET ROLE service_role")
        connection.execute(f"SET default_transaction_isolation = '{level}'")
        error = sqlstate_of(lambda: connection.execute("SELECT * FROM cache_forget_user(%s)", (ALICE,)))
        assert error.sqlstate == "42501" and "policy" in error.message_detail and error.message_hint
        assert connection.execute("SELECT entries_deleted FROM cache_forget_user(%s)", (BOB,)).fetchone() == (1,)
        connection.execute("RESET ROLE")
        assert connection.execute(f"SELECT count(*) FROM {CACHE}").fetchone() == (2,)
