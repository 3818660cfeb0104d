"""Flush: what was counted gets into the rows, each hit once, and nobody waits for it."""

import os
import random
import signal
import threading
import time
from decimal import Decimal
from fractions import Fraction
from math import floor

import psycopg
import pytest

from harness.database import Database
from harness.entries import ALICE, BOB, CACHE
from harness.errors import sqlstate_of
from harness.months import LEGACY, legacy_month, month
from harness.tally import GET, MANY, ONE, Client, Tally, counters, counting_cluster, flush, pending, rolled_up, rows_of
from harness.waiting import is_waiting, together, wait_until

TONE = (ALICE, "tone", "k")
MOST = 2 ** 63 - 1


@pytest.fixture(scope="module")
def cluster():
    cluster = counting_cluster(max_prepared_transactions=5)
    yield cluster
    cluster.remove()


@pytest.fixture
def hit(client):
    """Ten entries of two types and users, with 1 to 10 hits that are not stored."""
    for number in range(1, 11):
        entry = ((ALICE, BOB)[number % 2], ("tone", "setting")[number % 3 == 0], f"k{number}")
        client.upsert(entry, number)
        client.lookup(entry, number)
    return client


def assert_stored(client, entries=True):
    """All that was counted is stored, once."""
    assert pending(client.database) == (0, 0)
    assert counters(client.database, pending=True) == {}
    assert rolled_up(client.database) == client.tally.counters()
    if entries:
        assert rows_of(client.database) == client.tally.hit_counts()


def assert_pending(client):
    """Nothing of what was counted is stored."""
    assert pending(client.database) == (client.tally.total("hits"), client.tally.total("tokens_saved"))
    assert counters(client.database, pending=True) == client.tally.counters()
    assert rolled_up(client.database) == {}
    assert set(rows_of(client.database).values()) == {0}


# ── what is stored ───────────────────────────────────────────────────────────────────────────────

def test_a_flush_says_what_it_has_stored(hit):
    assert flush(hit.connection) == (10, 0, 2, 0)
    assert_stored(hit)
    assert rows_of(hit.database, "token_cost_saved") == {entry: hits * hit.tally.costs[entry] for entry, hits in hit.tally.hits.items()}
    assert flush(hit.connection) == (0, 0, 0, 0)
    assert_stored(hit)


def test_last_accessed_is_the_time_of_the_last_hit(client):
    client.upsert(TONE)
    accessed = f"SELECT last_accessed FROM {CACHE}"
    created = client.database.value(accessed)
    client.lookup(TONE, 2)
    before = client.database.value("SELECT clock_timestamp()")
    client.lookup(TONE)
    after = client.database.value("SELECT clock_timestamp()")
    assert client.database.value(accessed) == created
    flush(client.connection)
    assert before <= client.database.value(accessed) <= after
    # One that lies ahead, from a client that sets it, stays.
    client.database.execute(f"UPDATE {CACHE} SET last_accessed = '2999-01-01'")
    client.lookup(TONE)
    flush(client.connection)
    assert client.database.value(accessed).year == 2999


@pytest.mark.parametrize("cost", ["0.3", "0.000001", "0.999999", "1.5", "33.333333", "0"])
def test_fractions_of_costs_add_up_over_several_flushes(client, cost):
    """After each flush the row has the whole units that all its hits have saved."""
    dice = random.Random(7)
    client.upsert(TONE, cost)
    for _ in range(25):
        client.lookup(TONE, dice.choice((1, 1, 1, 2, 7)))
        flush(client.connection)
        hits = client.tally.hits[TONE]
        assert rows_of(client.database, "token_cost_saved") == {TONE: floor(hits * Fraction(cost))}
        assert rows_of(client.database) == {TONE: hits}
    # The roll-up holds the fractions, too.
    assert rolled_up(client.database, "tokens_saved") == client.tally.counters("tokens_saved")


def test_hits_of_entries_in_several_months(client):
    with client.database.connect() as connection:
        for offset in (-3, -1, 0, 2):
            connection.execute("SELECT create_monthly_cache_partition(%s::timestamp)", (month(offset).replace(tzinfo=None),))
            entry = (ALICE, "tone", f"k{offset}")
            connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at, token_cost) "
                               "VALUES (%s, %s, %s, '1', %s, 'infinity', 2)", (*entry, month(offset)))
            client.tally.costs[entry] = 2
            client.lookup(entry, 5 + offset)
    assert flush(client.connection) == (4, 0, 1, 0)
    assert_stored(client)
    assert client.database.value(f"SELECT count(DISTINCT tableoid) FROM {CACHE}") == 4


def test_more_entries_than_one_statement_stores(client):
    """A large flush goes in batches; the row of each entry is right all the same."""
    client.connection.execute("SELECT cache_upsert_many((SELECT jsonb_agg(jsonb_build_object('user_id', %s::text, 'content_type', 'tone', "
                              "'cache_key', 'k' || n, 'content', n, 'token_cost', 1)) FROM generate_series(1, 3500) n))", (ALICE,))
    client.connection.execute("SELECT count(cache_lookup(%s, 'tone', 'k' || n)) FROM generate_series(1, 3500) n, generate_series(0, n %% 3)", (ALICE,))
    assert flush(client.connection)[:2] == (3500, 0)
    assert rows_of(client.database) == {(ALICE, "tone", f"k{n}"): n % 3 + 1 for n in range(1, 3501)}
    assert rolled_up(client.database, "hits") == {"tone": {"hits": sum(n % 3 + 1 for n in range(1, 3501))}}


def test_the_hour_is_in_utc(client):
    client.upsert(TONE)
    client.connection.execute("SET TimeZone = 'Asia/Kathmandu'")
    client.lookup(TONE)
    hour = "SELECT date_trunc('hour', clock_timestamp(), 'UTC')"
    before = client.database.value(hour)
    flush(client.connection)
    assert client.database.value("SELECT hour FROM cache_statistics_hourly") in (before, client.database.value(hour))


# ── rows that somebody holds ─────────────────────────────────────────────────────────────────────

def test_a_flush_waits_for_no_row(hit):
    held = next(iter(hit.tally.costs))
    with hit.database.connect(autocommit=False) as other:
        other.execute(f"SELECT 1 FROM {CACHE} WHERE user_id = %s AND cache_key = %s FOR UPDATE", (held[0], held[2]))
        hit.connection.execute("SET lock_timeout = '2s'")
        started = time.monotonic()
        assert flush(hit.connection) == (9, 1, 2, 0)
        assert flush(hit.connection) == (0, 1, 0, 0)
        assert time.monotonic() - started < 2
        assert pending(hit.database) == (hit.tally.hits[held], hit.tally.hits[held] * hit.tally.costs[held])
        assert rows_of(hit.database) == {**hit.tally.hit_counts(), held: 0}
        # Hits go on meanwhile.
        hit.lookup(held, 2)
        assert flush(hit.connection) == (0, 1, 1, 0)
    assert flush(hit.connection) == (1, 0, 0, 0)
    assert_stored(hit)


def test_a_flush_waits_for_no_upsert_and_no_upsert_for_a_flush_longer_than_it_takes(hit):
    entries = list(hit.tally.costs)
    with hit.database.connect(autocommit=False) as writer:
        Client(writer, hit.tally).upsert(entries[0], 1)
        hit.connection.execute("SET statement_timeout = '5s'")
        assert flush(hit.connection)[:2] == (9, 1)
        writer.commit()
    assert flush(hit.connection)[:2] == (1, 0)
    assert_stored(hit)


@pytest.mark.parametrize("strength", ["KEY SHARE", "SHARE"])
def test_a_reader_that_locks_a_row(hit, strength):
    """A lock that allows an update of the counts does not keep a flush from it."""
    with hit.database.connect(autocommit=False) as other:
        other.execute(f"SELECT 1 FROM {CACHE} FOR {strength}")
        assert flush(hit.connection)[:2] == ((10, 0) if strength == "KEY SHARE" else (0, 10))
    flush(hit.connection)
    assert_stored(hit)


# ── what becomes of an entry between hit and flush ───────────────────────────────────────────────

def test_hits_of_an_entry_that_was_invalidated_are_its_types(hit):
    entry = next(iter(hit.tally.costs))
    hit.invalidate(entry)
    assert flush(hit.connection)[:2] == (9, 0)
    assert_stored(hit)


@pytest.mark.parametrize("offset", [0, -1], ids=["same month", "moved to another month"])
def test_hits_of_an_entry_with_a_new_version_go_to_that(client, offset):
    client.connection.execute("SELECT create_monthly_cache_partition(%s::timestamp)", (month(offset).replace(tzinfo=None),))
    client.connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at, token_cost, hit_count) "
                              "VALUES (%s, %s, %s, '1', %s, 'infinity', 2, 100)", (*TONE, month(offset)))
    client.tally.costs[TONE] = 2
    client.lookup(TONE, 5)
    client.upsert(TONE, 3)
    client.lookup(TONE, 4)
    assert client.connection.execute("SELECT hit_count FROM cache_get(%s, %s, %s)", TONE).fetchone() == (109,)
    client.tally.looked_up(TONE)
    assert flush(client.connection) == (1, 0, 1, 0)
    client.tally.hits[TONE] += 100
    # By type the tokens are those of the version that was hit.
    assert client.tally.counters("tokens_saved") == {"tone": {"tokens_saved": 5 * 2 + 5 * 3}}
    assert_stored(client)


def test_an_entry_that_is_replaced_while_a_flush_runs(client):
    """Writers replace and invalidate what flushes store: no deadlock, no error, each hit once by type."""
    entries = [(ALICE, "tone", f"k{number}") for number in range(40)]
    for entry in entries:
        client.upsert(entry, 1)
    stop = threading.Event()

    def flusher():
        with client.database.connect() as connection:
            while not stop.is_set():
                flush(connection)

    def worker(seed):
        dice = random.Random(seed)
        with client.database.connect() as connection:
            one = Client(connection, Tally())
            hits = 0
            for _ in range(300):
                entry = dice.choice(entries)
                if dice.random() < 0.2:
                    connection.execute("SELECT cache_upsert(%s, %s, %s, '2', token_cost => 1)", entry)
                else:
                    hits += connection.execute(ONE, entry).fetchone() != (None,)
            return hits

    def workers():
        try:
            return together(*[lambda seed=seed: worker(seed) for seed in range(4)])
        finally:
            stop.set()

    _, hits = together(flusher, workers)
    flush(client.connection)
    # No entry was ever away, so every lookup was a hit, and every hit is in a row.
    assert rolled_up(client.database, "hits", "misses") == {"tone": {"hits": sum(hits)}}
    assert sum(rows_of(client.database).values()) == sum(hits)


# ── transactions ─────────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("how", ["ROLLBACK", "error", "ROLLBACK TO s", "exception block", "disconnect"])
def test_what_is_rolled_back_is_still_in_memory(hit, how):
    if how == "exception block":
        hit.connection.execute("""DO $$ BEGIN
            PERFORM cache_flush_statistics();
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN NULL; END $$""")
    else:
        with hit.database.connect(autocommit=False) as connection:
            connection.execute("SAVEPOINT s")
            assert flush(connection) == (10, 0, 2, 0)
            if how == "error":
                sqlstate_of(lambda: connection.execute("SELECT 1/0"))
            elif how == "disconnect":
                pid = connection.info.backend_pid
                hit.connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
                connection.close()
            else:
                connection.execute(how)
            if how != "disconnect":
                (connection.commit if how == "ROLLBACK TO s" else connection.rollback)()
    assert_pending(hit)
    assert flush(hit.connection) == (10, 0, 2, 0)
    assert_stored(hit)


def test_a_flush_after_one_that_was_rolled_back_in_the_same_transaction(hit):
    with hit.connection.transaction():
        with hit.connection.transaction(force_rollback=True):
            assert flush(hit.connection) == (10, 0, 2, 0)
        assert flush(hit.connection) == (10, 0, 2, 0)
    assert_stored(hit)


def test_a_second_flush_in_a_transaction_stores_nothing_twice(hit):
    stored = hit.tally.counters("hits")
    with hit.connection.transaction():
        with hit.connection.transaction():
            assert flush(hit.connection) == (10, 0, 2, 0)
        hit.lookup((BOB, "tone", "k1"), 2)
        assert flush(hit.connection) == (0, 0, 0, 0)
    assert rolled_up(hit.database, "hits") == stored
    assert pending(hit.database) == (2, 2)
    assert flush(hit.connection) == (1, 0, 1, 0)
    assert_stored(hit)


def test_flushes_in_a_procedure_that_commits(hit):
    hit.connection.execute(f"""DO $$ BEGIN
        FOR n IN 1..3 LOOP
            PERFORM cache_lookup('{BOB}', 'tone', 'k1');
            PERFORM cache_flush_statistics();
            COMMIT;
        END LOOP;
    END $$""")
    hit.tally.looked_up((BOB, "tone", "k1"), 3)
    assert_stored(hit)


def test_two_flushes_at_once(hit):
    """The second one waits for the first, and stores what that has left."""
    for kept in (True, False):
        with hit.database.connect(autocommit=False) as first, hit.database.connect() as second:
            before = flush(first)
            assert before[:2] == (10, 0)
            results = []
            thread = threading.Thread(target=lambda: results.append(flush(second)))
            thread.start()
            wait_until(lambda: is_waiting(hit.database, second))
            (first.commit if kept else first.rollback)()
            thread.join()
        assert results == [(0, 0, 0, 0) if kept else before]
        assert_stored(hit)
        for entry in hit.tally.costs:
            hit.lookup(entry)


def test_flushes_while_eight_clients_hit(client):
    entries = [(ALICE, "tone", f"k{number}") for number in range(20)]
    for entry in entries:
        client.upsert(entry, "0.5")
    stop = threading.Event()

    def flusher():
        with client.database.connect() as connection:
            while not stop.is_set():
                flush(connection)

    def reader(seed):
        dice = random.Random(seed)
        with client.database.connect() as connection:
            one = Client(connection, Tally())
            one.tally.costs.update(client.tally.costs)
            for _ in range(400):
                one.lookup(dice.choice(entries), 1, dice.choice((ONE, GET)))
            return one.tally

    def readers():
        try:
            return together(*[lambda seed=seed: reader(seed) for seed in range(8)])
        finally:
            stop.set()

    _, _, tallies = together(flusher, flusher, readers)
    for tally in tallies:
        client.tally = client.tally + tally
    flush(client.connection)
    assert client.tally.total("hits") == 3200
    assert_stored(client)
    assert rows_of(client.database, "token_cost_saved") == {entry: hits // 2 for entry, hits in client.tally.hits.items()}


def test_a_flush_with_an_old_snapshot_loses_no_hit(client):
    """What its snapshot does not show it must leave to others."""
    client.upsert((ALICE, "tone", "old"))
    client.lookup((ALICE, "tone", "old"), 2)
    for isolation in ("REPEATABLE READ", "SERIALIZABLE"):
        with client.database.connect() as flusher, flusher.transaction():
            flusher.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
            flusher.execute("SELECT 1")
            new = (ALICE, "tone", isolation)
            client.upsert(new)
            client.lookup(new, 3)
            try:
                flush(flusher)
            except psycopg.errors.SerializationFailure:
                flusher.execute("ROLLBACK")
        flush(client.connection)
        assert rows_of(client.database) == client.tally.hit_counts()
    assert_stored(client)


def test_hits_of_an_entry_that_is_not_yet_committed(client):
    """A flush in another session cannot know whether there will be an entry: they are its type's for sure."""
    with client.connection.transaction():
        client.upsert(TONE)
        client.lookup(TONE, 3)
        with client.database.connect() as flusher:
            assert flush(flusher)[:3] == (0, 0, 1)
    client.lookup(TONE, 2)
    flush(client.connection)
    assert rows_of(client.database)[TONE] in (2, 5)
    assert_stored(client, entries=False)


def test_a_prepared_flush_loses_nothing_when_it_is_rolled_back(hit):
    """Either such a transaction cannot be prepared, or what it stored is in memory until it commits."""
    hit.connection.execute("BEGIN")
    flush(hit.connection)
    try:
        hit.connection.execute("PREPARE TRANSACTION 'p'")
    except psycopg.Error as error:
        assert error.diag.sqlstate[:2] in ("0A", "55") and error.diag.message_hint
    else:
        hit.connection.execute("ROLLBACK PREPARED 'p'")
    assert_pending(hit)
    flush(hit.connection)
    assert_stored(hit)


def test_a_transaction_that_has_erased_a_user_is_not_prepared(hit):
    hit.connection.execute(f"BEGIN; SELECT cache_forget_user('{ALICE}')")
    error = sqlstate_of(lambda: hit.connection.execute("PREPARE TRANSACTION 'p'"))
    assert error.sqlstate == "0A000" and error.message_detail and error.message_hint
    assert_pending(hit)


def test_what_a_transaction_has_stored_it_does_not_show_twice(hit):
    entry, hits = next((entry, hits) for entry, hits in hit.tally.hits.items() if hits > 3)
    with hit.connection.transaction():
        flush(hit.connection)
        assert hit.connection.execute("SELECT hit_count FROM cache_get(%s, %s, %s)", entry).fetchone() == (hits,)
        hit.tally.looked_up(entry)
        total = hit.tally.total("hits")
        assert hit.connection.execute("SELECT sum(cache_hits) FROM cache_performance_metrics").fetchone() == (total,)
        assert hit.connection.execute("SELECT sum(total_cache_hits) FROM user_cache_analytics").fetchone() == (total,)


# ── crashes ──────────────────────────────────────────────────────────────────────────────────────

@pytest.fixture
def own_database():
    """A database in a cluster that may crash."""
    cluster = counting_cluster(fsync="on")
    yield Database(cluster)
    cluster.remove()


def is_up(database):
    try:
        return database.value("SELECT 1") == 1
    except psycopg.OperationalError:
        return False


def crash(database, pid):
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "all server processes terminated; reinitializing" in database.cluster.log())
    wait_until(lambda: is_up(database))


def test_a_crash_loses_at_most_what_was_not_stored(own_database):
    database, tally = own_database, Tally()
    connection = database.connect()
    client = Client(connection, tally)
    client.upsert(TONE, 2)
    client.lookup(TONE, 5)
    assert flush(connection)[:2] == (1, 0)
    client.lookup(TONE, 7)
    # A flush that did not commit is none.
    connection.execute("BEGIN")
    assert flush(connection)[:2] == (1, 0)
    crash(database, connection.info.backend_pid)
    connection.close()
    assert counters(database) == counters(database, pending=True) == {}
    assert pending(database) == (0, 0)
    assert rows_of(database) == {TONE: 5}
    assert rolled_up(database, "hits", "upserts", "tokens_saved") == {"tone": {"hits": 5, "upserts": 1, "tokens_saved": 10}}
    with database.connect() as connection:
        again = Client(connection)
        again.tally.costs[TONE] = 2
        again.lookup(TONE, 3)
        assert counters(database) == {"tone": {"hits": 3, "tokens_saved": 6}}
        assert flush(connection)[:2] == (1, 0)
    assert rows_of(database) == {TONE: 8}
    assert rolled_up(database, "hits") == {"tone": {"hits": 8}}


@pytest.mark.parametrize("mode", ["immediate", "fast", "smart"])
def test_a_restart_loses_what_was_not_stored_and_nothing_else(own_database, mode):
    """A planned one, too."""
    database = own_database
    connection = database.connect()
    client = Client(connection)
    for number in range(50):
        client.upsert((ALICE, "tone", f"k{number}"), "0.5")
        client.lookup((ALICE, "tone", f"k{number}"), number)
    flush(connection)
    Client(connection).upsert((ALICE, "tone", "later"))
    connection.execute(ONE, (ALICE, "tone", "k1"))
    client.tally.costs[(ALICE, "tone", "later")] = 1
    if mode == "smart":
        connection.close()
    database.cluster.restart(mode)
    connection.close()
    assert counters(database) == {} and pending(database) == (0, 0)
    assert rows_of(database) == client.tally.hit_counts()
    assert rolled_up(database) == client.tally.counters()


def test_a_crash_among_hits_and_flushes_counts_nothing_twice(own_database):
    database = own_database
    entries = [(ALICE, "tone", f"k{number}") for number in range(30)]
    with database.connect() as connection:
        client = Client(connection)
        for entry in entries:
            client.upsert(entry)
        flush(connection)
    done = [0] * 4
    committed = []

    def reader(number):
        dice = random.Random(number)
        try:
            with database.connect() as connection:
                while True:
                    done[number] += 1
                    connection.execute(ONE, dice.choice(entries))
        except psycopg.OperationalError:
            pass

    def flusher():
        try:
            with database.connect() as connection:
                while True:
                    # Of what has been asked before a flush all but the last of each reader is counted.
                    counted = sum(done) - len(done)
                    flush(connection)
                    committed.append(counted)
        except psycopg.OperationalError:
            pass

    def killer():
        wait_until(lambda: len(committed) > 20 and min(done) > 100)
        crash(database, database.value("SELECT pid FROM pg_stat_activity WHERE query LIKE '%%cache_lookup%%' AND pid <> pg_backend_pid() LIMIT 1"))

    together(killer, flusher, *[lambda number=number: reader(number) for number in range(4)])
    stored = sum(rows_of(database).values())
    by_type = rolled_up(database, "hits")["tone"]["hits"]
    assert committed[-1] <= stored <= sum(done)
    assert committed[-1] <= by_type <= sum(done)


# ── updates without index work ───────────────────────────────────────────────────────────────────

def test_the_update_of_an_entry_touches_no_index(client):
    """Of entries that fill a page each but for its reserve, every update finds room on its page."""
    client.connection.execute(
        f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, token_cost, metadata) "
        "SELECT %s, 'tone', 'k' || n, '1', 1, jsonb_build_object('m', (SELECT string_agg(md5(n || '/' || i), '') FROM generate_series(1, 113) i)) "
        "FROM generate_series(1, 60) n", (ALICE,))
    assert client.database.value(f"SELECT count(DISTINCT (ctid::text::point)[0]) FROM {CACHE}") == 60
    updates = f"SELECT sum(n_tup_upd), sum(n_tup_hot_upd) FROM pg_stat_user_tables WHERE relname = 'infinite_pages_cache_{month(0):%Y_%m}'"
    with client.database.connect() as connection:
        for number in range(1, 61):
            entry = (ALICE, "tone", f"k{number}")
            client.tally.costs[entry] = 1
            Client(connection, client.tally).lookup(entry, 2)
        assert flush(connection)[:2] == (60, 0)
        for entry in client.tally.costs:
            Client(connection, client.tally).lookup(entry)
        assert flush(connection)[:2] == (60, 0)
    wait_until(lambda: client.database.execute(updates)[0][0] == 120)
    assert client.database.execute(updates) == [(120, 120)]
    assert rows_of(client.database) == client.tally.hit_counts()


# ── the end of the scale ─────────────────────────────────────────────────────────────────────────

def test_counters_at_their_maximum_stay_there(client):
    client.upsert(TONE, 3)
    client.lookup(TONE, 2)
    client.lookup((ALICE, "tone", "none"))
    flush(client.connection)
    client.database.execute(f"""
        UPDATE cache_statistics_hourly SET hits = {MOST}, misses = {MOST} - 1, stale = {MOST}, upserts = {MOST}, invalidations = {MOST},
            expirations = {MOST}, untracked_hits = {MOST}, audit_lost = {MOST}, tokens_spent = 1e30, tokens_saved = 1e30,
            lookup_us = array_fill({MOST}::bigint, ARRAY[100]), upsert_us = array_fill({MOST}::bigint, ARRAY[100]);
        UPDATE {CACHE} SET hit_count = {MOST} - 1, token_cost_saved = {MOST} - 1""")
    for _ in range(2):
        client.upsert((ALICE, "tone", "other"), 3)
        client.lookup(TONE, 2)
        client.lookup((ALICE, "tone", "none"))
        client.expire((ALICE, "tone", "stale"))
        client.lookup((ALICE, "tone", "stale"))
        client.invalidate((ALICE, "tone", "stale"))
        # Not a hit more than there can be is shown, either.
        assert client.connection.execute("SELECT hit_count FROM cache_get(%s, %s, %s)", TONE).fetchone() == (MOST,)
        assert client.connection.execute("SELECT cache_hits FROM cache_performance_metrics").fetchone() == (MOST,)
        assert client.connection.execute("SELECT total_cache_hits FROM user_cache_analytics").fetchone() == (MOST,)
        assert flush(client.connection)[:2] == (1, 0)
    # Sums of tokens have no end: two upserts and six hits more, of 3 each.
    assert client.database.execute("SELECT tokens_spent - 1e30, tokens_saved - 1e30 FROM cache_statistics_hourly") == [(6, 18)]
    assert client.database.execute("""
        SELECT ARRAY[hits, misses, stale, upserts, invalidations, expirations, untracked_hits, audit_lost], lookup_us, upsert_us
        FROM cache_statistics_hourly""") == [([MOST] * 8, [MOST] * 100, [MOST] * 100)]
    assert rows_of(client.database)[TONE] == rows_of(client.database, "token_cost_saved")[TONE] == MOST
    for view in ("cache_performance_metrics", "cache_alerts", "user_cache_analytics"):
        assert client.connection.execute(f"SELECT * FROM {view}").fetchall()
    client.connection.execute("SELECT get_infinite_pages_analytics(%s)", (ALICE,))


def test_what_an_hour_had_not_yet_is_added_to_it(client):
    """Histograms of different lengths, and one that is longer than any."""
    client.upsert(TONE)
    client.lookup(TONE)
    flush(client.connection)
    for before in ("{}", "{5}", "{NULL,7}", "{" + ",".join(["1"] * 100) + "}"):
        client.database.execute("UPDATE cache_statistics_hourly SET lookup_us = %s", (before,))
        client.lookup(TONE, 3)
        flush(client.connection)
        [after] = client.database.execute("SELECT lookup_us FROM cache_statistics_hourly")[0]
        old = [int(number) for number in before.strip("{}").replace("NULL", "0").split(",") if number]
        assert sum(after) == sum(old) + 3 and len(after) >= len(old)
        assert all(new >= number for new, number in zip(after, old))


@pytest.mark.parametrize("cost", ["1e9", "999999999.999999", "0.000001", "0.999999", "123456.789012"])
def test_tokens_are_counted_exactly(client, cost):
    """In memory, in the roll-up and in the entry: what the costs in the table add up to, for the dearest, too."""
    hits = 10_000
    client.upsert(TONE, cost)
    client.connection.execute("SELECT count(cache_lookup(%s, %s, %s)) FROM generate_series(1, %s)", (*TONE, hits))
    stored = Decimal(client.database.value(f"SELECT sum(token_cost) FROM {CACHE}"))
    assert stored == Decimal(cost)
    saved = hits * stored
    assert pending(client.database) == (hits, saved)
    for source in ("cache_statistics()", "cache_statistics(pending => true)"):
        assert client.database.execute(f"SELECT tokens_spent, tokens_saved FROM {source}") == [(stored, saved)]
    assert client.database.value("SELECT tokens_saved FROM cache_performance_metrics WHERE content_type = 'tone'") == saved
    assert client.database.value("SELECT total_tokens_saved FROM user_cache_analytics") == saved
    assert flush(client.connection) == (1, 0, 1, 0)
    assert client.database.execute("SELECT tokens_spent, tokens_saved FROM cache_statistics_hourly") == [(stored, saved)]
    assert client.database.execute("SELECT tokens_spent, tokens_saved FROM cache_statistics()") == [(stored, saved)]
    assert rows_of(client.database, "token_cost_saved") == {TONE: floor(saved)}


def test_a_cost_is_stored_to_a_millionth(client):
    """What is counted is what the table has, also of costs that have more decimals than that."""
    for number, cost in enumerate(("0.0000004", "0.33333333333333333333", "0.6666666666", "0.30000000000000004", "1e-30")):
        client.connection.execute("SELECT cache_upsert(%s, 'tone', %s, '1', token_cost => %s)", (ALICE, f"k{number}", cost))
        client.connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, token_cost) VALUES (%s, 'tone', %s, '1', %s)",
                                  (BOB, f"k{number}", cost))
    found = client.database.execute(f"SELECT user_id::text, cache_key, token_cost FROM {CACHE} ORDER BY user_id, cache_key")
    assert [cost for user, _, cost in found if user == ALICE] == [Decimal(text) for text in ("0", "0.333333", "0.666667", "0.3", "0")]
    assert [cost for user, _, cost in found if user == ALICE] == [cost for user, _, cost in found if user == BOB]
    assert client.connection.execute("SELECT token_cost::text FROM cache_get(%s, 'tone', 'k3')", (ALICE,)).fetchone() == ("0.3",)
    flush(client.connection)
    spent = sum(cost for user, _, cost in found if user == ALICE)
    assert client.database.value("SELECT tokens_spent FROM cache_statistics()") == spent
    for user, key, _ in found:
        client.connection.execute("SELECT count(cache_lookup(%s, 'tone', %s)) FROM generate_series(1, 3)", (user, key))
    saved = 3 * sum(cost for _, _, cost in found)
    assert pending(client.database)[1] == saved
    flush(client.connection)
    assert client.database.value("SELECT sum(tokens_saved) FROM cache_statistics_hourly") == saved + Decimal("0.3")


def test_what_many_writes_of_a_transaction_cost(client):
    """More than one number holds: ten thousand of the greatest."""
    batch = ("SELECT count(cache_upsert_many((SELECT jsonb_agg(jsonb_build_object('user_id', %s::text, 'content_type', 'tone', "
             "'cache_key', 'k' || n, 'content', n, 'token_cost', 1e9)) FROM generate_series(1, 2000) n))) FROM generate_series(1, 6)")
    client.connection.execute(batch, (ALICE,))
    client.connection.execute("SELECT count(cache_upsert(%s, 'tone', 'k', '1', token_cost => 999999999.999999)) FROM generate_series(1, 10)", (ALICE,))
    spent = 12000 * 10 ** 9 + 10 * Decimal("999999999.999999")
    assert client.database.value("SELECT tokens_spent FROM cache_statistics()") == spent
    flush(client.connection)
    assert client.database.value("SELECT tokens_spent FROM cache_statistics_hourly") == spent


def test_costs_of_an_adopted_table_count_within_their_limits(empty_database):
    """Its column may hold anything; nothing of it stops a lookup or a flush, or is more than a cost can be."""
    database = empty_database
    database.execute(LEGACY + legacy_month(0) + f"ALTER TABLE {CACHE} ADD token_cost numeric; CREATE EXTENSION infinite_pages_cache")
    with database.connect() as connection:
        costs = {"1e30": 10 ** 9, "-1e30": 0, "-5": 0, "NaN": 10 ** 9, "Infinity": 10 ** 9, "-Infinity": 0, "2.5": Decimal("2.5")}
        for cost in costs:
            connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, token_cost) VALUES (%s, 'tone', %s, '1', %s)", (ALICE, cost, cost))
            for sql in (ONE, GET, MANY):
                connection.execute(sql, (ALICE, "tone", cost))
        connection.execute(f"UPDATE {CACHE} SET hit_count = NULL, token_cost_saved = NULL WHERE cache_key = '2.5'")
        connection.execute(f"UPDATE {CACHE} SET hit_count = -7, token_cost_saved = -7 WHERE cache_key = '-5'")
        assert pending(database) == (21, 3 * sum(costs.values()))
        assert flush(connection) == (7, 0, 1, 0)
        assert dict(database.execute(f"SELECT cache_key, token_cost_saved FROM {CACHE} WHERE cache_key <> 'k0'")) == {
            cost: floor(3 * counts) for cost, counts in costs.items()}
        assert {hits for (hits,) in database.execute(f"SELECT hit_count FROM {CACHE} WHERE cache_key <> 'k0'")} == {3}
        assert rolled_up(database, "tokens_saved") == {"tone": {"tokens_saved": 3 * sum(costs.values())}}


def test_the_saving_of_the_dearest_entry_stops_at_its_maximum(client):
    client.upsert(TONE, "1e9")
    client.database.execute(f"UPDATE {CACHE} SET token_cost_saved = {MOST} - 1")
    client.lookup(TONE, 3)
    flush(client.connection)
    assert rows_of(client.database, "token_cost_saved") == {TONE: MOST}


def test_an_adopted_table_whose_counts_are_integers(empty_database):
    """The counts of clients' own tables may be of type integer; one at its end must not stop all flushes."""
    database = empty_database
    database.execute(LEGACY + legacy_month(0) + "CREATE EXTENSION infinite_pages_cache")
    with database.connect() as connection:
        client = Client(connection)
        other = (ALICE, "tone", "other")
        client.upsert(other)
        client.tally.costs[(ALICE, "tone", "k0")] = 0
        connection.execute(f"UPDATE {CACHE} SET hit_count = 2147483647 WHERE cache_key = 'k0'")
        client.lookup((ALICE, "tone", "k0"), 3)
        client.lookup(other, 2)
        assert flush(connection)[1] == 0
        assert rows_of(database) == {(ALICE, "tone", "k0"): 2147483647, other: 2}
        assert pending(database) == (0, 0)
