"""Audit of lookups: a read writes nothing, and its row comes with the next flush, whole, or is counted as lost."""

import ipaddress
import json
import socket
from datetime import datetime, timedelta, timezone

import psycopg
import pytest

from harness.clock import ClockCluster
from harness.database import Database
from harness.entries import ALICE, BOB
from harness.errors import sqlstate_of
from harness.roles import acting, temporary_roles
from harness.tally import GET, MANY, ONE, counters, counting_cluster, flush, rolled_up
from harness.waiting import together

ROWS = ("SELECT user_id::text, content_type, cache_key, role::text, success, user_agent, host(ip_address) "
        "FROM cache_audit_log WHERE action = 'lookup' ORDER BY id")


@pytest.fixture(scope="module")
def cluster():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster = counting_cluster(**{"infinite_pages_cache.audit_buffer_size": "64kB", "listen_addresses": "127.0.0.1", "port": port})
    socket_connect, cluster.port = cluster.connect, port
    cluster.connect = lambda dbname="postgres", user="postgres", **options: socket_connect(dbname, user, **{"port": port, **options})
    yield cluster
    cluster.remove()


@pytest.fixture
def audited(cluster):
    """A database in which lookups are audited, with an entry of Alice's."""
    database = Database(cluster)
    database.execute("SELECT cache_upsert(%s, 't', 'k', '1')", (ALICE,))
    database.execute(f"ALTER DATABASE {database.name} SET infinite_pages_cache.audit = 'all'")
    yield database
    # What others have not stored would take room in the ring.
    database.execute("SELECT cache_flush_statistics()")
    database.drop()


def flushed(database):
    with database.connect() as connection:
        return flush(connection)[3]


def lost(database):
    return sum(count.get("audit_lost", 0) for count in counters(database, "audit_lost").values())


def test_each_lookup_leaves_a_row(audited):
    with audited.connect() as connection:
        for sql in (ONE, GET):
            connection.execute(sql, (ALICE, "t", "k"))
            connection.execute(sql, (ALICE, "t", "none"))
            connection.execute(sql, (BOB, "t", "k"))
        connection.execute("SELECT * FROM cache_lookup_many(%s, 't', '{k,none,k}')", (ALICE,))
    found = [(ALICE, "k", True), (ALICE, "none", False), (BOB, "k", False)] * 2 + [(ALICE, "k", True), (ALICE, "none", False), (ALICE, "k", True)]
    assert audited.execute(ROWS) == []
    assert flushed(audited) == 9
    assert audited.execute(ROWS) == [(user, "t", key, "postgres", success, None, None) for user, key, success in found]
    assert flushed(audited) == 0
    assert len(audited.execute(ROWS)) == 9


def test_each_entry_that_a_search_finds_leaves_a_row(audited):
    with audited.connect() as connection:
        connection.execute("SELECT cache_upsert(%s, 't', 'best', '2', reuse_score => 9)", (ALICE,))
        for user in (ALICE, BOB):
            connection.execute("SELECT * FROM cache_search(%s, 't', '{}')", (user,))
        connection.execute("SELECT * FROM cache_search(%s, 't', '{}', 1)", (ALICE,))
    assert flushed(audited) == 3
    assert audited.execute(ROWS) == [(ALICE, "t", key, "postgres", True, None, None) for key in ("best", "k", "best")]


def test_a_row_says_who_and_from_where(audited, roles):
    audited.execute("SELECT cache_grant_tenant('authenticated'), cache_grant_service('service_role')")
    with audited.connect() as connection:
        for role in ("authenticated", "service_role"):
            for headers in ('{"user-agent": "curl/8 ☕"}', '{"User-Agent": "Mozilla/5.0 (\\"x\\")"}', json.dumps({"user-agent": "é" * 9000}), "[", ""):
                with acting(connection, ALICE, role, headers=headers):
                    connection.execute(ONE, (ALICE, "t", "k"))
        # A tenant that asks for another one's entry.
        with acting(connection, BOB, "authenticated"):
            connection.execute(ONE, (ALICE, "t", "k"))
    flushed(audited)
    agents = ["curl/8 ☕", 'Mozilla/5.0 ("x")', "é" * 512, None, None]
    expected = [(ALICE, "t", "k", role, True, agent, None) for role in ("authenticated", "service_role") for agent in agents]
    assert audited.execute(ROWS) == expected + [(ALICE, "t", "k", "authenticated", False, None, None)]


CAROL = "ca401000-0000-4000-8000-000000000003"


def test_a_row_says_who_asked_and_whose_entry_it_was(audited, roles):
    """Whoever asks in the name of another user is named, by his claims and his role, as in the rows of writes."""
    audited.execute("SELECT cache_grant_tenant('authenticated'), cache_grant_service('service_role')")
    with audited.connect() as connection:
        for sql in (ONE, GET, MANY):
            for user, role in ((ALICE, "authenticated"), (BOB, "authenticated"), (CAROL, "service_role"), (None, "service_role")):
                with acting(connection, user, role):
                    connection.execute(sql, (ALICE, "t", "k"))
        # Without claims, as the setting says; a malformed one is nobody.
        for user in (BOB, "Bob", ""):
            connection.execute("SELECT set_config('request.jwt.claims', '', false), set_config('infinite_pages_cache.user_id', %s, false)", (user,))
            connection.execute(ONE, (ALICE, "t", "k"))
    assert flushed(audited) == 15
    asked = [(ALICE, "authenticated", True), (BOB, "authenticated", False), (CAROL, "service_role", True), (None, "service_role", True)] * 3
    assert audited.execute("SELECT user_id::text, acting_user_id::text, role::text, success FROM cache_audit_log WHERE action = 'lookup' ORDER BY id") == [
        (ALICE, *row) for row in asked + [(user, "postgres", True) for user in (BOB, None, None)]]


def test_nothing_of_a_forgotten_user_who_asked_is_left_in_memory(audited):
    with audited.connect() as connection:
        for asks in (ALICE, BOB):
            connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (asks,))
            connection.execute(ONE, (CAROL, "t", "k"))
        connection.execute("SELECT cache_forget_user(%s)", (BOB,))
        assert flushed(audited) == 1
        assert audited.execute("SELECT user_id::text, acting_user_id::text FROM cache_audit_log WHERE action = 'lookup'") == [(CAROL, ALICE)]
        # Nor in the table.
        assert connection.execute("SELECT audit_rows_deleted FROM cache_forget_user(%s)", (ALICE,)).fetchone() == (2,)
    assert audited.execute("SELECT * FROM cache_audit_log") == []


def test_the_address_of_the_client(audited):
    with psycopg.connect(host="127.0.0.1", port=audited.cluster.port, dbname=audited.name, user="postgres", autocommit=True) as connection:
        connection.execute(ONE, (ALICE, "t", "k"))
    with audited.connect() as connection:
        connection.execute(ONE, (ALICE, "t", "k"))
    assert flushed(audited) == 2
    assert audited.execute("SELECT ip_address FROM cache_audit_log WHERE action = 'lookup' ORDER BY id") == [
        (ipaddress.ip_address("127.0.0.1"),), (None,)]


def test_the_time_is_that_of_the_read(audited):
    moments = []
    with audited.connect() as connection, connection.transaction():
        for _ in range(3):
            before = connection.execute("SELECT clock_timestamp(), pg_sleep(0.02)").fetchone()[0]
            connection.execute(ONE, (ALICE, "t", "k"))
            moments.append((before, connection.execute("SELECT clock_timestamp(), pg_sleep(0.02)").fetchone()[0]))
    flushed(audited)
    stamps = [stamp for (stamp,) in audited.execute("SELECT timestamp FROM cache_audit_log WHERE action = 'lookup' ORDER BY id")]
    assert len(stamps) == 3 and all(before < stamp < after for stamp, (before, after) in zip(stamps, moments))


@pytest.mark.parametrize("how", ["READ ONLY", "ISOLATION LEVEL SERIALIZABLE READ ONLY", "rolled back", "savepoint"])
def test_a_read_is_audited_whatever_becomes_of_its_transaction(audited, how):
    with audited.connect() as connection:
        with connection.transaction(force_rollback=how != "savepoint"):
            if how.isupper():
                connection.execute(f"SET TRANSACTION {how}")
            elif how == "savepoint":
                connection.execute("SAVEPOINT s")
            for sql in (ONE, GET, MANY):
                connection.execute(sql, (ALICE, "t", "k"))
            assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
            if how == "savepoint":
                connection.execute("ROLLBACK TO s")
    assert flushed(audited) == 3
    assert len(audited.execute(ROWS)) == 3


def test_a_flush_that_is_rolled_back_loses_no_row(audited):
    with audited.connect() as connection:
        for number in range(50):
            connection.execute(ONE, (ALICE, "t", f"k{number}"))
        with connection.transaction(force_rollback=True):
            assert flush(connection)[3] == 50
            assert flush(connection)[3] == 0
        with connection.transaction():
            with connection.transaction(force_rollback=True):
                assert flush(connection)[3] == 50
            connection.execute(ONE, (ALICE, "t", "k50"))
            assert flush(connection)[3] == 51
    assert [row[2] for row in audited.execute(ROWS)] == [f"k{number}" for number in range(51)]
    assert (flushed(audited), lost(audited)) == (0, 0)


@pytest.mark.parametrize("key, content_type", [("x" * 1024, "t"), ("é" * 512, "t"), ("😀" * 256, "ü" * 127), ("a\tb\n'\\\"", "%s"), ("k", "x" * 255)])
def test_keys_of_all_kinds(audited, key, content_type):
    with audited.connect() as connection:
        connection.execute(ONE, (ALICE, content_type, key))
    assert flushed(audited) == 1
    assert audited.execute(ROWS) == [(ALICE, content_type, key, "postgres", False, None, None)]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 500, 1024])
def test_what_does_not_fit_gives_way_oldest_first(audited, length):
    total = 2500 if length < 100 else 300
    keys = [f"{number}".rjust(length, "k")[-length:] if length > 4 else f"{number}" for number in range(total)]
    with audited.connect() as connection:
        for key in keys:
            connection.execute(ONE, (ALICE, "t", key))
    stored = flushed(audited)
    # The ring holds 64 kB, of which a record takes its texts and less than 100 bytes more.
    assert 0.8 * 65536 / (length + 100) < stored < total
    assert [row[2] for row in audited.execute(ROWS)] == keys[total - stored:]
    assert lost(audited) == total - stored
    # The loss of what was lost since is stored with the next flush, at the latest.
    flushed(audited)
    assert rolled_up(audited, "audit_lost") == {"": {"audit_lost": total - stored}}
    with audited.connect() as connection:
        connection.execute(ONE, (ALICE, "t", "k"))
    assert (flushed(audited), lost(audited)) == (1, total - stored)


def test_reads_by_eight_clients_are_stored_or_counted_as_lost(audited):
    def read(number):
        with audited.connect() as connection:
            for turn in range(400):
                connection.execute(ONE, (ALICE, "t", f"{number}/{turn}" + "x" * (turn % 200)))
                if number == 0 and turn % 50 == 0:
                    flush(connection)

    together(*[lambda number=number: read(number) for number in range(8)])
    flushed(audited)
    rows = audited.execute(ROWS)
    assert len(rows) + lost(audited) == 3200
    # No row twice.
    assert len({row[2] for row in rows}) == len(rows)


def test_reads_that_give_way_while_a_flush_is_storing_them(audited):
    """What a flush has stored is not lost, although its place was needed before it committed."""
    with audited.connect() as flusher, audited.connect() as reader:
        for number in range(200):
            reader.execute(ONE, (ALICE, "t", f"before {number}"))
        with flusher.transaction():
            assert flush(flusher)[3] == 200
            for number in range(3000):
                reader.execute(ONE, (ALICE, "t", f"after {number}"))
    flushed(audited)
    assert len(audited.execute(ROWS)) + lost(audited) == 3200


def test_databases_share_the_ring(audited):
    other = Database(audited.cluster)
    other.execute(f"ALTER DATABASE {other.name} SET infinite_pages_cache.audit = 'all'")
    with audited.connect() as one, other.connect() as two:
        for number in range(300):
            one.execute(ONE, (ALICE, "t", f"one {number}"))
            if number % 3 == 0:
                two.execute(ONE, (BOB, "t", f"two {number}"))
        # Each stores its own.
        assert flush(two)[3] == 100
        assert {row[0] for row in other.execute(ROWS)} == {BOB}
        for number in range(3000):
            two.execute(ONE, (BOB, "t", f"two {number}"))
        # The rows of the first have given way to those of the second, and are counted where they were read.
        assert (flush(one)[3], lost(audited)) == (0, 300)
        assert audited.execute(ROWS) == []
        stored = flush(two)[3]
        assert stored > 0 and lost(other) == 3000 - stored
        one.execute(ONE, (ALICE, "t", "last"))
        assert flush(one)[3] == 1
    other.drop()


@pytest.mark.parametrize("audit", ["off", "write"])
def test_reads_are_audited_on_demand_only(audited, audit):
    with audited.connect() as connection:
        connection.execute(f"SET infinite_pages_cache.audit = {audit}")
        for sql in (ONE, GET, MANY):
            connection.execute(sql, (ALICE, "t", "k"))
        connection.execute("SET infinite_pages_cache.audit = 'all'")
        connection.execute("SET infinite_pages_cache.enabled = off")
        connection.execute(ONE, (ALICE, "t", "k"))
        sqlstate_of(lambda: connection.execute("SELECT cache_lookup(%s, 't', NULL)", (ALICE,)))
    assert flushed(audited) == 0 and audited.execute(ROWS) == []


def test_none_but_a_superuser_may_say_what_is_audited(audited, roles):
    audited.execute("SELECT cache_grant_tenant('authenticated'), cache_grant_service('service_role')")
    with audited.connect() as connection:
        for role in ("authenticated", "service_role"):
            for value in ("off", "write", "all"):
                def run():
                    with acting(connection, ALICE, role):
                        connection.execute(f"SET LOCAL infinite_pages_cache.audit = '{value}'")
                assert sqlstate_of(run).sqlstate == "42501"


def test_writes_are_audited_at_once_when_reads_are(audited):
    with audited.connect() as connection:
        connection.execute(ONE, (ALICE, "t", "k"))
        connection.execute("SELECT cache_upsert(%s, 't', 'k', '2')", (ALICE,))
        connection.execute(ONE, (ALICE, "t", "k"))
    log = "SELECT action FROM cache_audit_log ORDER BY id"
    assert audited.execute(log)[-1:] == [("upsert",)]
    assert flushed(audited) == 2
    assert [action for (action,) in audited.execute(log)][-3:] == ["upsert", "lookup", "lookup"]


def test_nothing_of_a_forgotten_user_is_left_in_memory(audited):
    """Erasure leaves no trace: no read from before it comes to the log after it."""
    audited.execute("SELECT cache_upsert(%s, 't', 'k', '1')", (BOB,))
    with audited.connect() as connection:
        for user in (ALICE, BOB):
            connection.execute(ONE, (user, "t", "k"))
        connection.execute("SELECT cache_forget_user(%s)", (ALICE,))
        assert {str(user) for (user,) in connection.execute("SELECT user_id FROM cache_pending_hits()")} == {BOB}
    flushed(audited)
    assert {row[0] for row in audited.execute(ROWS)} == {BOB}


def test_a_role_that_is_gone_by_the_time_of_the_flush(audited):
    with temporary_roles(audited.cluster, "guest"), audited.connect() as connection:
        audited.execute("SELECT cache_grant_service('guest')")
        connection.execute("SET ROLE guest")
        connection.execute(ONE, (ALICE, "t", "k"))
    assert flushed(audited) == 1
    [row] = audited.execute(ROWS)
    assert row[3].startswith("unknown (OID=")


# ── a month's edge ───────────────────────────────────────────────────────────────────────────────

def test_reads_of_months_whose_partitions_are_missing():
    """A read of October that is stored in November goes to October, although nobody has its partition ready."""
    edge = datetime(2026, 11, 1, tzinfo=timezone.utc)
    cluster = ClockCluster({"infinite_pages_cache.naptime": 0})
    try:
        cluster.set_clock(edge - timedelta(minutes=10))
        database = Database(cluster)
        database.execute(f"ALTER DATABASE {database.name} SET infinite_pages_cache.audit = 'all'")
        with database.connect() as connection:
            connection.execute(ONE, (ALICE, "t", "October"))
            cluster.set_clock(edge + timedelta(minutes=10))
            connection.execute(ONE, (ALICE, "t", "November"))
            connection.execute("DROP TABLE cache_audit_log_2026_10, cache_audit_log_2026_11")
            assert flush(connection)[3] == 2
        assert database.execute("SELECT tableoid::regclass::text, cache_key, timestamp < %s FROM cache_audit_log ORDER BY id", (edge,)) == [
            ("cache_audit_log_2026_10", "October", True), ("cache_audit_log_2026_11", "November", False)]
        assert database.execute("SELECT relrowsecurity FROM pg_class WHERE relname LIKE 'cache_audit_log_2026_1_'") == [(True,)] * 3
    finally:
        cluster.remove()
