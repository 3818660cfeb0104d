"""Counting: every lookup once, every write that commits once, and a hit writes nothing."""

import json
import random
from contextlib import contextmanager
from decimal import Decimal

import psycopg
import pytest

from harness.database import Database
from harness.entries import ALICE, BOB, CACHE
from harness.errors import sqlstate_of
from harness.reports import report
from harness.tally import COUNTERS, GET, MANY, ONE, Client, Tally, counters, counting_cluster, flush, pending, rolled_up, rows_of
from harness.waiting import together, wait_until

STORY, TONE = (ALICE, "story_foundation", "k"), (ALICE, "tone", "k")
EVERYTHING = [*COUNTERS, "lookup_us"]


@pytest.fixture(scope="module")
def cluster():
    # Without a standby to tell, an idle server writes no WAL.
    cluster = counting_cluster(max_prepared_transactions=5, wal_level="minimal", max_wal_senders=0, checkpoint_timeout="1h")
    yield cluster
    cluster.remove()


def assert_counted(client, *names):
    """The counters are those of the tally, in memory, and after a flush in the roll-up."""
    names = names or EVERYTHING
    database, expected = client.database, client.tally.counters(*names)
    assert counters(database, *names) == expected
    assert counters(database, *names, pending=True) == expected
    assert pending(database) == (client.tally.total("hits"), client.tally.total("tokens_saved"))
    with database.connect() as connection:
        assert flush(connection)[1] == 0
    assert rolled_up(database, *names) == expected == counters(database, *names)
    assert counters(database, *names, pending=True) == {}
    assert rows_of(database) == client.tally.hit_counts()
    assert pending(database) == (0, 0)


# ── what is counted ──────────────────────────────────────────────────────────────────────────────

@pytest.mark.parametrize("sql", [ONE, GET, MANY], ids=["cache_lookup", "cache_get", "cache_lookup_many"])
def test_each_lookup_is_counted_once(client, sql):
    stale, none = (ALICE, "tone", "stale"), (ALICE, "themes", "none")
    client.upsert(STORY, 8)
    client.upsert(TONE, "0.5")
    client.expire(stale)
    for entry, times in ((STORY, 3), (TONE, 2), (stale, 4), (none, 5), ((BOB, "tone", "k"), 1)):
        client.lookup(entry, times, sql)
    assert client.tally.counters()["tone"] == {"hits": 2, "misses": 5, "stale": 4, "upserts": 1, "tokens_spent": 0.5, "tokens_saved": 1}
    assert_counted(client)


def test_a_call_for_many_keys_is_a_lookup_of_each_and_one_call(client):
    tally, entries = client.tally, [(ALICE, "tone", f"k{number}") for number in range(10)]
    for number, entry in enumerate(entries[:6]):
        client.upsert(entry, number)
    client.expire(entries[6])
    keys = [f"k{number}" for number in (0, 1, 1, 1, 5, 6, 7, 9, 9)]
    client.connection.execute("SELECT * FROM cache_lookup_many(%s, 'tone', %s)", (ALICE, keys)).fetchall()
    for key in keys:
        tally.looked_up((ALICE, "tone", key), calls=0)
    tally.types["tone"]["lookup_us"] = 1
    assert_counted(client)


def test_the_value_of_an_entry_is_no_matter(client):
    for number, content in enumerate(("null", "0", '""', "[]", "false")):
        entry = (ALICE, "tone", f"{number}")
        client.connection.execute("SELECT cache_upsert(%s, %s, %s, %s, token_cost => 1)", (*entry, content))
        client.tally.stored(entry, 1)
        client.connection.execute(ONE, entry)
        client.tally.looked_up(entry)
    assert_counted(client)


def test_prepared_statements_loops_and_functions(client):
    client.upsert(STORY, 2)
    none = (BOB, "story_foundation", "none")
    for entry in (STORY, none):
        for _ in range(20):
            client.connection.execute(ONE, entry, prepare=True)
            client.connection.execute(GET, entry, prepare=True)
        client.tally.looked_up(entry, 40)
    client.connection.execute("PREPARE get (text) AS SELECT cache_lookup($1::uuid, 'story_foundation', 'k')")
    for user in (ALICE, BOB):
        for _ in range(12):
            client.connection.execute(f"EXECUTE get ('{user}')")
        client.tally.looked_up((user, "story_foundation", "k"), 12)
    client.connection.execute(f"""
        CREATE FUNCTION wrapped(k text) RETURNS jsonb LANGUAGE plpgsql AS $$
        BEGIN RETURN cache_lookup('{ALICE}', 'story_foundation', k); END $$;
        DO $$ BEGIN
            FOR n IN 1..100 LOOP
                PERFORM wrapped('k');
                PERFORM cache_get('{ALICE}', 'story_foundation', 'k');
                BEGIN
                    PERFORM cache_lookup('{ALICE}', 'story_foundation', 'none');
                    RAISE division_by_zero;
                EXCEPTION WHEN division_by_zero THEN NULL;
                END;
            END LOOP;
        END $$""")
    client.tally.looked_up(STORY, 200)
    client.tally.looked_up((ALICE, "story_foundation", "none"), 100)
    client.connection.execute("SELECT count(cache_lookup(%s, 'story_foundation', 'k')) FROM generate_series(1, 500)", (ALICE,))
    client.tally.looked_up(STORY, 500)
    assert_counted(client)


def test_upserts_and_what_they_cost(client):
    client.upsert(STORY, "0.333333")
    client.upsert(STORY, "0.333333")
    client.upsert((BOB, *STORY[1:]), 0)
    client.upsert((ALICE, "themes", "dear"), "123456789.123456")
    # Costs of the content policies: 0.5 for tone, 1 for what has none of its own.
    client.connection.execute("SELECT cache_upsert(%s, 'tone', 'k', '1'), cache_upsert(%s, 'Unfug', 'k', '1')", (ALICE, ALICE))
    client.tally.stored(TONE, "0.5")
    client.tally.stored((ALICE, "Unfug", "k"), 1)
    batch = [{"user_id": user, "content_type": content_type, "cache_key": key, "content": 1, "token_cost": cost}
             for user, content_type, key, cost in ((ALICE, "tone", "a", 1), (ALICE, "tone", "a", 2), (BOB, "tone", "a", 3), (ALICE, "themes", "a", 4))]
    client.connection.execute("SELECT cache_upsert_many(%s::jsonb)", (json.dumps(batch),))
    # Of a key that stands twice the last entry is stored.
    for entry in batch[1:]:
        client.tally.stored((entry["user_id"], entry["content_type"], entry["cache_key"]), entry["token_cost"])
    client.tally.types["tone"]["upsert_us"] = 2
    client.tally.types["themes"]["upsert_us"] = 2
    client.tally.types["Unfug"]["upsert_us"] = 1
    client.tally.types["story_foundation"]["upsert_us"] = 3
    client.lookup(STORY, 3)
    client.lookup((ALICE, "themes", "dear"), 7)
    assert client.tally.types["story_foundation"]["tokens_saved"] * 1000000 == 999999
    assert_counted(client, *EVERYTHING, "upsert_us")


def test_invalidations(client):
    connection, tally = client.connection, client.tally
    for key in "abcdef":
        connection.execute("SELECT cache_upsert(%s, %s, %s, '1', token_cost => 1, metadata => '{\"m\": 1}', foundation_dependency => 'f')",
                           (ALICE, "tone" if key < "e" else "setting", key))
        tally.stored((ALICE, "tone" if key < "e" else "setting", key), 1)
    client.invalidate((ALICE, "tone", "a"))
    assert connection.execute("SELECT cache_invalidate(%s, 'tone', 'a')", (ALICE,)).fetchone() == (0,)
    assert connection.execute("SELECT cache_invalidate_content_type(%s, 'tone')", (ALICE,)).fetchone() == (3,)
    for key in "bcd":
        tally.removed((ALICE, "tone", key))
    assert connection.execute("SELECT cache_invalidate_where(%s, '{\"m\": 1}')", (ALICE,)).fetchone() == (2,)
    for key in "ef":
        tally.removed((ALICE, "setting", key))
    for key in "ab":
        connection.execute("SELECT cache_upsert(%s, 'tone', %s, '1', token_cost => 1, foundation_dependency => 'f')", (ALICE, key))
        tally.stored((ALICE, "tone", key), 1)
    assert connection.execute("SELECT cache_invalidate_dependents(%s, 'f')", (ALICE,)).fetchone() == (2,)
    for key in "ab":
        tally.removed((ALICE, "tone", key))
    assert_counted(client)


INSERT = f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content) VALUES (%s, %s, %s, '1')"


@pytest.mark.parametrize("way", ["on", "off"])
def test_an_entry_without_a_cost_saves_that_of_its_content_policy(client, way):
    """Entries of clients that write into the table themselves, or from before the column, have none."""
    client.connection.execute(f"SET enable_indexscan = {way}")
    # As the policies of these types say, and the one for all others.
    for entry, cost in ((STORY, 8), (TONE, "0.5"), ((BOB, "Unfug", "k"), 1)):
        client.connection.execute(INSERT, entry)
        client.tally.costs[entry] = Decimal(str(cost))
        for sql in (ONE, GET, MANY):
            client.lookup(entry, 3, sql)
    # What the row says goes before what a policy says, also when it is nothing.
    client.connection.execute(INSERT.replace("content)", "content, token_cost)").replace("'1')", "'1', 0)"), (ALICE, "story_foundation", "free"))
    client.tally.costs[(ALICE, "story_foundation", "free")] = 0
    client.lookup((ALICE, "story_foundation", "free"), 2)
    found = client.database.value("SELECT get_infinite_pages_analytics(%s)", (ALICE,))
    assert (found["total_tokens_saved"], found["total_tokens_spent"]) == (9 * 8 + 9 * 0.5, 8.5)
    assert report(client.database, "user_cache_analytics")[-1]["total_tokens_saved"] == 9
    assert_counted(client)
    assert rows_of(client.database, "token_cost_saved") == {
        STORY: 72, TONE: 4, (BOB, "Unfug", "k"): 9, (ALICE, "story_foundation", "free"): 0}
    # The column shows what is stored.
    assert client.connection.execute("SELECT token_cost FROM cache_get(%s, %s, %s)", STORY).fetchall() == [(None,)]


def test_fractions_of_a_policys_cost_add_up_over_several_flushes(client):
    client.connection.execute(INSERT, TONE)
    client.tally.costs[TONE] = Decimal("0.5")
    for hits in (1, 1, 3, 1, 1):
        client.lookup(TONE, hits)
        flush(client.connection)
        assert rows_of(client.database, "token_cost_saved") == {TONE: client.tally.hits[TONE] // 2}


def test_the_cost_of_a_policy_that_has_been_changed(client):
    """A new session has it at once, others within a minute."""
    client.connection.execute(INSERT, STORY)
    client.connection.execute(ONE, STORY)
    assert counters(client.database, "tokens_saved") == {"story_foundation": {"tokens_saved": 8}}
    for change, cost in (("UPDATE cache_content_policies SET token_cost = 1.25 WHERE content_type = 'story_foundation'", Decimal("1.25")),
                         ("UPDATE cache_content_policies SET token_cost = 3 WHERE content_type = '*'", Decimal("1.25")),
                         ("DELETE FROM cache_content_policies WHERE content_type = 'story_foundation'", 3),
                         ("DELETE FROM cache_content_policies", 1)):
        client.database.execute(change)
        before = client.database.value("SELECT sum(tokens_saved) FROM cache_statistics()")
        with client.database.connect() as connection:
            connection.execute(ONE, STORY)
        assert client.database.value("SELECT sum(tokens_saved) FROM cache_statistics()") - before == cost
    # Neither has the row a cost nor waits a lookup for who has the policies locked.
    with client.database.connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE cache_content_policies")
        with client.database.connect() as connection:
            connection.execute("SET statement_timeout = '2s'")
            assert connection.execute(ONE, STORY).fetchone() == (1,)
            holder.rollback()
            # It asks again, as soon as it can be told.
            before = client.database.value("SELECT sum(tokens_saved) FROM cache_statistics()")
            connection.execute(ONE, STORY)
            assert client.database.value("SELECT sum(tokens_saved) FROM cache_statistics()") - before == 1


def test_a_hit_of_an_entry_without_a_cost_reads_no_table_but_its_own(client):
    """The policies are read once; a thousand hits more do not look at them."""
    client.connection.execute(INSERT, STORY)
    scans = "SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_xact_user_tables WHERE relname = 'cache_content_policies'"
    with client.connection.transaction():
        client.connection.execute(ONE, STORY)
        before = client.connection.execute(scans).fetchall()
        client.connection.execute("SELECT count(cache_lookup(%s, %s, %s)) FROM generate_series(1, 1000)", STORY)
        assert client.connection.execute(scans).fetchall() == before == [(1,)]


# ── transactions ─────────────────────────────────────────────────────────────────────────────────

def test_a_write_that_is_rolled_back_is_not_counted(client):
    connection, tally = client.connection, client.tally
    for key in "abc":
        client.upsert((ALICE, "tone", key), 2)
    with connection.transaction(force_rollback=True):
        connection.execute("SELECT cache_upsert(%s, 'tone', 'gone', '1', token_cost => 1000)", (ALICE,))
        connection.execute("SELECT cache_invalidate(%s, 'tone', 'a')", (ALICE,))
    with connection.transaction():
        client.upsert((ALICE, "tone", "kept 1"), 4)
        with connection.transaction(force_rollback=True):
            connection.execute("SELECT cache_upsert(%s, 'tone', 'gone', '1', token_cost => 1000)", (ALICE,))
            with connection.transaction():
                connection.execute("SELECT cache_upsert(%s, 'tone', 'gone, too', '1', token_cost => 1000)", (ALICE,))
                connection.execute("SELECT cache_invalidate_content_type(%s, 'tone')", (ALICE,))
        with connection.transaction():
            client.upsert((ALICE, "tone", "kept 2"), 8)
            with connection.transaction():
                client.upsert((ALICE, "tone", "kept 3"), 16)
        # At the level of what was kept, after something of that level was rolled back.
        with connection.transaction(force_rollback=True):
            connection.execute("SELECT cache_upsert(%s, 'tone', 'gone', '1', token_cost => 1000)", (ALICE,))
        client.upsert((ALICE, "tone", "kept 4"), 32)
    connection.execute(f"""DO $$ BEGIN
        PERFORM cache_upsert('{ALICE}', 'tone', 'kept 5', '1', token_cost => 64);
        BEGIN
            PERFORM cache_upsert('{ALICE}', 'tone', 'gone', '1', token_cost => 1000);
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN
            PERFORM cache_upsert('{ALICE}', 'tone', 'kept 6', '1', token_cost => 128);
        END;
    END $$""")
    tally.stored((ALICE, "tone", "kept 5"), 64)
    tally.stored((ALICE, "tone", "kept 6"), 128)
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT cache_upsert(%s, 'tone', 'gone', '1', token_cost => 1000), 1/0", (ALICE,))
    connection.execute(f"""DO $$ BEGIN
        PERFORM cache_upsert('{ALICE}', 'tone', 'kept 7', '1', token_cost => 256);
        COMMIT;
        PERFORM cache_upsert('{ALICE}', 'tone', 'gone', '1', token_cost => 1000);
        ROLLBACK;
    END $$""")
    tally.stored((ALICE, "tone", "kept 7"), 256)
    assert tally.types["tone"]["tokens_spent"] == 6 + 4 + 8 + 16 + 32 + 64 + 128 + 256
    assert_counted(client)


def test_nothing_is_counted_of_a_write_before_it_commits(client):
    with client.connection.transaction():
        client.upsert(TONE, 3)
        assert counters(client.database) == {}
    assert counters(client.database) == {"tone": {"upserts": 1, "tokens_spent": 3}}


@pytest.mark.parametrize("how", ["rolled back", "savepoint", "read only", "repeatable read", "serializable read only"])
def test_a_lookup_is_counted_whatever_becomes_of_its_transaction(client, how):
    client.upsert(TONE, 3)
    with client.connection.transaction(force_rollback=how != "savepoint"):
        if how == "savepoint":
            client.connection.execute("SAVEPOINT s")
        elif how != "rolled back":
            client.connection.execute(f"SET TRANSACTION {how}" if "only" in how and how[0] == "r" else "SET TRANSACTION ISOLATION LEVEL " + how)
        for sql in (ONE, GET, MANY):
            client.lookup(TONE, 2, sql)
            client.lookup((ALICE, "tone", "none"), 1, sql)
        if how == "savepoint":
            client.connection.execute("ROLLBACK TO s")
    assert_counted(client)


def test_a_hit_of_an_entry_that_never_commits_is_a_hit_of_its_type(client):
    with client.connection.transaction(force_rollback=True):
        client.connection.execute("SELECT cache_upsert(%s, 'tone', 'gone', '1', token_cost => 3)", (ALICE,))
        client.connection.execute(ONE, (ALICE, "tone", "gone"))
    client.tally.types["tone"].update(hits=1, tokens_saved=3, lookup_us=1)
    assert_counted(client)


def test_errors_are_not_counted(client):
    client.upsert(TONE, 3)
    for call in ("cache_lookup(NULL, 'tone', 'k')", "cache_lookup(%s, 'tone', '')", "cache_get(%s, '', 'k')",
                 "cache_lookup_many(%s, 'tone', ARRAY['k', NULL])", "cache_lookup_many(%s, 'tone', NULL)",
                 "cache_lookup_many(%s, 'tone', array_fill('k'::text, ARRAY[10001]))",
                 "cache_upsert(%s, 'tone', 'k', '1', priority_tier => 9)", "cache_upsert(%s, 'tone', 'k', NULL)"):
        assert sqlstate_of(lambda: client.connection.execute(f"SELECT * FROM {call}".replace("%s", f"'{ALICE}'"))).sqlstate[:2] in ("22", "54")
    client.connection.execute(f"ALTER TABLE {CACHE} RENAME COLUMN expires_at TO renamed")
    for sql in (ONE, GET, MANY):
        assert sqlstate_of(lambda: client.connection.execute(sql, TONE)).sqlstate == "42703"
    client.connection.execute(f"ALTER TABLE {CACHE} RENAME COLUMN renamed TO expires_at")
    assert_counted(client)


def test_nothing_is_counted_while_the_cache_is_off(client):
    client.upsert(TONE, 3)
    client.connection.execute("SET infinite_pages_cache.enabled = off")
    for sql in (ONE, GET, MANY):
        client.connection.execute(sql, TONE)
    client.connection.execute("SELECT cache_upsert(%s, 'tone', 'off', '1')", (ALICE,))
    client.connection.execute("SELECT cache_upsert_many(%s::jsonb)", (json.dumps([{
        "user_id": ALICE, "content_type": "tone", "cache_key": "off", "content": 1}]),))
    assert_counted(client)
    client.connection.execute("SET infinite_pages_cache.enabled = on")
    client.lookup(TONE)
    assert counters(client.database, "hits", pending=True) == {"tone": {"hits": 1}}


@pytest.mark.parametrize("end, kept", [("COMMIT PREPARED", True), ("ROLLBACK PREPARED", False)])
def test_a_prepared_transaction_is_counted_when_it_commits(client, end, kept):
    """Its lookups at once, its writes if it commits, and nothing twice."""
    client.upsert(TONE, 2)
    client.connection.execute("BEGIN")
    client.connection.execute("SELECT cache_upsert(%s, 'tone', 'prepared', '1', token_cost => 4)", (ALICE,))
    client.lookup(TONE, 3)
    client.connection.execute("PREPARE TRANSACTION 'p'")
    client.lookup(TONE, 2)
    assert counters(client.database) == client.tally.counters() == counters(client.database, pending=True)
    # Another session decides.
    client.database.execute(f"{end} 'p'")
    if kept:
        client.tally.stored((ALICE, "tone", "prepared"), 4)
    assert_counted(client)


def test_prepared_transactions_of_several_types_and_databases(client):
    other = Database(client.database.cluster)
    with other.connect() as connection:
        second = Client(connection)
        for name, one, end in (("a", client, "COMMIT"), ("b", second, "COMMIT"), ("c", client, "ROLLBACK"), ("d", client, "COMMIT")):
            one.connection.execute("BEGIN")
            for content_type in ("tone", "setting", "themes"):
                one.connection.execute("SELECT cache_upsert(%s, %s, %s, '1', token_cost => 1.5), cache_upsert(%s, %s, 'k', '1', token_cost => 0)",
                                       (ALICE, content_type, name, BOB, content_type + name))
                # What is rolled back before it is prepared is not kept.
                with one.connection.transaction(force_rollback=True):
                    one.connection.execute("SELECT cache_upsert(%s, %s, %s, '1', token_cost => 100)", (ALICE, content_type, name))
                if end == "COMMIT":
                    one.tally.stored((ALICE, content_type, name), "1.5")
                    one.tally.stored((BOB, content_type + name, "k"), 0)
            one.connection.execute(f"PREPARE TRANSACTION '{name}'")
        assert counters(client.database) == counters(other) == {}
        for database, sql in ((client.database, "COMMIT PREPARED 'a'"), (client.database, "ROLLBACK PREPARED 'c'"),
                              (other, "COMMIT PREPARED 'b'"), (client.database, "COMMIT PREPARED 'd'")):
            database.execute(sql)
        second.database = other
        assert_counted(second)
        assert_counted(client)
    other.drop()


def test_what_prepared_transactions_counted_stays_until_they_end(client):
    """Also through flushes, and with room for others again after them."""
    for _ in range(150):
        client.connection.execute("BEGIN")
        for number in range(20):
            client.connection.execute("SELECT cache_upsert(%s, %s, 'gone', '1', token_cost => 1.5)", (ALICE, f"type {number}"))
        client.connection.execute("PREPARE TRANSACTION 'p'")
        flush(client.connection)
        client.connection.execute("ROLLBACK PREPARED 'p'")
    assert counters(client.database) == {}


# ── who ──────────────────────────────────────────────────────────────────────────────────────────

def play(database, seed, tally, users=(ALICE, BOB)):
    """Random work on keys that no other client writes; all look up the shared ones."""
    dice = random.Random(seed)
    mine = [(dice.choice(users), dice.choice(("tone", "setting", "themes")), f"{seed}/{number}") for number in range(12)]
    with database.connect() as connection:
        client = Client(connection, Tally())
        client.tally.costs.update(tally.costs)
        shared = list(tally.costs)
        for _ in range(250):
            entry = dice.choice(mine)
            action = dice.random()
            if action < 0.55:
                client.lookup(dice.choice(shared), 1, dice.choice((ONE, GET, MANY)))
            elif action < 0.8:
                client.lookup(entry, 1, dice.choice((ONE, GET, MANY)))
            elif action < 0.95:
                client.upsert(entry, dice.choice((0, 1, "0.25", "17.5")))
            elif client.tally.found(entry):
                client.invalidate(entry)
        return client.tally


def test_eight_clients_at_once(client):
    for number in range(5):
        client.upsert((ALICE, "story_foundation", f"shared {number}"), "1.5")
    shared = client.tally
    tallies = together(*[lambda seed=seed: play(client.database, seed, shared) for seed in range(8)])
    for tally in tallies:
        client.tally = client.tally + tally
    # What was done to an entry that was invalidated is in its type's counters and nowhere else.
    assert counters(client.database, *EVERYTHING) == client.tally.counters(*EVERYTHING)
    with client.database.connect() as connection:
        assert flush(connection)[1] == 0
    assert rolled_up(client.database, *EVERYTHING) == client.tally.counters(*EVERYTHING)
    assert {entry: hits for entry, hits in rows_of(client.database).items() if "shared" in entry[2]} == {
        entry: client.tally.hits[entry] for entry in shared.costs}
    assert pending(client.database) == (0, 0)


def test_databases_are_counted_apart(client):
    other = Database(client.database.cluster)
    with other.connect() as connection:
        second = Client(connection)
        second.database = other
        for one, cost, times in ((client, 2, 3), (second, 5, 7)):
            one.upsert(TONE, cost)
            one.lookup(TONE, times)
            one.lookup((ALICE, "tone", "none"), times + 1)
        assert_counted(client)
        assert pending(other) == (7, 35)
        assert_counted(second)
    other.drop()


@contextmanager
def acting(connection, user, role):
    with connection.transaction():
        connection.execute("SELECT set_config('request.jwt.claims', %s, true)", (json.dumps({"sub": user}),))
        connection.execute(f"SET LOCAL ROLE {role}")
        yield connection


@pytest.fixture
def tenants(roles, client):
    client.connection.execute("SELECT cache_grant_tenant('authenticated'), cache_grant_service('service_role')")
    return client


def test_tenants_and_services_are_counted(tenants):
    client, tally = tenants, tenants.tally
    bobs = (BOB, "tone", "k")
    with acting(client.connection, ALICE, "authenticated"):
        client.upsert(TONE, 2)
        for sql in (ONE, GET, MANY):
            client.lookup(TONE, 2, sql)
    with acting(client.connection, BOB, "authenticated"):
        # Alice's entry does not exist for Bob.
        client.connection.execute(ONE, TONE)
        tally.types["tone"].update(misses=1, lookup_us=1)
        client.upsert(bobs, 3)
        client.lookup(bobs)
        client.upsert((BOB, "tone", "gone"), 1)
        client.invalidate((BOB, "tone", "gone"))
    with acting(client.connection, None, "service_role"):
        client.lookup(TONE, 3)
        client.lookup(bobs, 4)
        client.invalidate(bobs)
        client.upsert(bobs, 3)
    # The counters belong to the types; what became of an invalidated entry's hits is tested with the flush.
    assert counters(client.database, *EVERYTHING) == tally.counters(*EVERYTHING)


def test_a_tenant_sees_none_but_its_own_statistics(tenants):
    client = tenants
    bobs = (BOB, "tone", "k")
    client.upsert(TONE, 2)
    client.upsert(bobs, 3)
    client.lookup(TONE, 4)
    client.lookup(bobs, 5)
    digest = client.connection.execute("SELECT cache_entry_digest('tone', 'k')::text").fetchone()[0]
    hits = "SELECT user_id::text, content_type, entry_digest::text, hits, tokens_saved FROM cache_pending_hits() ORDER BY hits"
    both = [(ALICE, "tone", digest, 4, 8), (BOB, "tone", digest, 5, 15)]
    connection = client.connection
    assert connection.execute(hits).fetchall() == both
    for user, own in ((ALICE, both[:1]), (BOB, both[1:]), ("c0c00000-0000-4000-8000-000000000003", []), (None, [])):
        with acting(connection, user, "authenticated"):
            assert connection.execute(hits).fetchall() == own
    with acting(connection, None, "service_role"):
        assert connection.execute(hits).fetchall() == both
        assert connection.execute("SELECT hits FROM cache_statistics()").fetchall() == [(9,)]
        assert connection.execute("SELECT count(*) FROM cache_statistics_hourly").fetchone() == (0,)
    flush(connection)
    client.lookup(TONE)
    for role, calls in {
        "authenticated": ["cache_statistics()", "cache_statistics(true)", "cache_flush_statistics()", "cache_statistics_hourly",
                          "cache_entry_summary", "cache_user_summary", "cache_performance_metrics", "cache_alerts",
                          "cache_performance_metrics()", "cache_alerts()"],
        "anon": ["cache_statistics()", "cache_flush_statistics()", "cache_statistics_hourly", "cache_entry_summary", "cache_user_summary"],
        "service_role": ["cache_flush_statistics()"],
    }.items():
        for call in calls:
            def run():
                with acting(connection, ALICE, role):
                    connection.execute(f"SELECT * FROM {call}")
            assert (role, call, sqlstate_of(run).sqlstate) == (role, call, "42501")
    # Nothing was flushed by those who may not.
    assert pending(client.database) == (1, 2)


def test_statistics_can_be_written_by_nobody_else(tenants):
    connection = tenants.connection
    for role in ("authenticated", "anon", "service_role"):
        for table in ("cache_statistics_hourly", "cache_entry_summary", "cache_user_summary"):
            for statement in (f"INSERT INTO {table} DEFAULT VALUES", f"UPDATE {table} SET hits = 0", f"TRUNCATE {table}", f"DELETE FROM {table}"):
                def run():
                    with acting(connection, ALICE, role):
                        connection.execute(statement)
                assert (role, statement, sqlstate_of(run).sqlstate) == (role, statement, "42501")


# ── a hit writes nothing ─────────────────────────────────────────────────────────────────────────

def test_a_hit_writes_nothing(client):
    with client.database.connect() as connection:
        Client(connection, client.tally).upsert(STORY, 2)
    updated = "SELECT sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del) FROM pg_stat_user_tables WHERE relname LIKE 'infinite%'"
    # What a backend has done is in the server's statistics when it is gone.
    wait_until(lambda: client.database.execute(updated) == [(1, 0, 0)])
    connection = client.connection
    for sql in (ONE, GET, MANY):
        client.lookup(STORY, 10, sql)
    with client.database.connect() as watcher:
        rows_before = rows_of(client.database, "xmin::text || ctid::text || hit_count")
        # Once after something was written, in the first round perhaps, the background writer notes which transactions run.
        for rounds in (1, 2):
            position = watcher.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
            for sql in (ONE, GET, MANY):
                client.lookup(STORY, 200, sql)
                with connection.transaction():
                    client.lookup(STORY, 10, sql)
                    assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
            if watcher.execute("SELECT pg_current_wal_insert_lsn()").fetchone() == position:
                break
        else:
            pytest.fail("lookups wrote WAL")
        assert rows_of(client.database, "xmin::text || ctid::text || hit_count") == rows_before
        backend = connection.info.backend_pid
        connection.close()
        wait_until(lambda: watcher.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", (backend,)).fetchone() == (0,))
        assert watcher.execute(updated).fetchone() == (1, 0, 0)
    assert counters(client.database, "hits") == client.tally.counters("hits") == {"story_foundation": {"hits": 30 + rounds * 630}}


def test_pending_hits_are_summed_up_by_user_and_by_type(client):
    keys = [(ALICE, "tone", "a"), (ALICE, "tone", "b"), (ALICE, "themes", "a"), (BOB, "tone", "a")]
    for number, key in enumerate(keys):
        client.upsert(key, 10 ** number)
        client.lookup(key, number + 1)
    rows = client.connection.execute
    assert sorted(rows("SELECT user_id::text, content_type, entry_digest IS NULL, hits, tokens_saved FROM cache_pending_hits_by('user')").fetchall()) == sorted([
        (ALICE, None, True, 1 + 2 + 3, 1 + 20 + 300), (BOB, None, True, 4, 4000)])
    assert sorted(rows("SELECT user_id, content_type, entry_digest IS NULL, hits, tokens_saved FROM cache_pending_hits_by('content_type')").fetchall()) == [
        (None, "themes", True, 3, 300), (None, "tone", True, 1 + 2 + 4, 1 + 20 + 4000)]
    for per in ("user", "content_type"):
        assert rows("SELECT max(last_accessed) FROM cache_pending_hits()").fetchone() == rows(
            "SELECT max(last_accessed) FROM cache_pending_hits_by(%s)", (per,)).fetchone()
    for per, code in (("", "22023"), ("partition", "22023"), (None, "22004")):
        assert sqlstate_of(lambda: rows("SELECT * FROM cache_pending_hits_by(%s)", (per,))).sqlstate == code
