"""Hits belong to what was hit: not to the next entry of its key, and with the cost that it had then."""

import threading

import pytest

from harness.entries import ALICE, CACHE
from harness.months import LEGACY, legacy_month, month
from harness.reports import report
from harness.tally import GET, MANY, ONE, Client, counters, flush, pending, rolled_up, rows_of

TONE = (ALICE, "tone", "k")
NIL = "00000000-0000-0000-0000-000000000000"
# Which columns a lookup that goes to the indexes by itself does not need to read.
WAYS = ["by itself", "by a statement"]


def shown(client, entry=TONE):
    """Hits that cache_get() shows, without the one that it is."""
    [(hits,)] = client.connection.execute("SELECT hit_count FROM cache_get(%s, %s, %s)", entry).fetchall()
    return hits


# ── an entry that is removed, and made anew ──────────────────────────────────────────────────────

REMOVALS = {
    "cache_invalidate": f"SELECT cache_invalidate('{ALICE}', 'tone', 'k')",
    "cache_invalidate_content_type": f"SELECT cache_invalidate_content_type('{ALICE}', 'tone')",
    "cache_invalidate_where": f"""SELECT cache_invalidate_where('{ALICE}', '{{"m": 1}}')""",
    "cache_invalidate_dependents": f"SELECT cache_invalidate_dependents('{ALICE}', 'f')",
    "cache_forget_user": f"SELECT * FROM cache_forget_user('{ALICE}')",
    "expiry and cleanup": f"UPDATE {CACHE} SET expires_at = now() - interval '1 hour'; SELECT * FROM cleanup_expired_cache_entries_production()",
    "limits": (f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, priority_tier) VALUES ('{ALICE}', 'tone', 'other', '1', 1); "
               "UPDATE cache_content_policies SET max_entries = 1 WHERE content_type = 'tone'; SELECT * FROM cache_run_maintenance()"),
    "DELETE": f"DELETE FROM {CACHE}",
    "TRUNCATE": f"TRUNCATE {CACHE}",
    "DROP of the month": f"SELECT * FROM drop_old_cache_partitions(1, include_live => true)",
}


@pytest.mark.parametrize("made_by", ["cache_upsert", "INSERT"])
@pytest.mark.parametrize("removal", REMOVALS)
def test_the_next_entry_of_a_key_begins_without_hits(client, removal, made_by):
    connection = client.connection
    made = month(-2) if "month" in removal else None
    if made:
        connection.execute("SELECT create_monthly_cache_partition(%s::timestamp)", (made.replace(tzinfo=None),))
    connection.execute(f"""
        INSERT INTO {CACHE} (user_id, content_type, cache_key, content, metadata, foundation_dependency, token_cost, created_at, expires_at)
        VALUES ('{ALICE}', 'tone', 'k', '1', '{{"m": 1}}', 'f', 5, coalesce(%s, now()), now() + interval '1 day')""", (made,))
    client.tally.costs[TONE] = 5
    client.lookup(TONE, 2)
    assert flush(connection)[0] == 1
    client.lookup(TONE, 7)
    # Of limits the run itself stores hits first: those of the entry that then goes.
    connection.execute(REMOVALS[removal])
    assert connection.execute(f"SELECT FROM {CACHE} WHERE cache_key = 'k'").fetchall() == []
    if made_by == "INSERT":
        connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, token_cost) VALUES (%s, %s, %s, '2', 1)", TONE)
    else:
        client.upsert(TONE, 1)
    assert shown(client) == 0
    client.lookup(TONE, 2)
    assert shown(client) == 3
    for updated in (1, 0):
        assert flush(connection)[:2] == (updated, 0)
        assert connection.execute(f"SELECT hit_count, token_cost_saved FROM {CACHE} WHERE cache_key = 'k'").fetchall() == [(4, 4)]
        assert pending(client.database) == (0, 0)
    # The hits of its type are all there.
    assert rolled_up(client.database, "hits", "tokens_saved") == {"tone": {"hits": 13, "tokens_saved": 9 * 5 + 4}}


def test_reports_show_no_hits_of_an_entry_that_was_invalidated(client):
    client.upsert(TONE, 5)
    client.lookup(TONE, 7)

    def shown():
        [metrics] = report(client.database, "cache_performance_metrics")
        [user] = report(client.database, "user_cache_analytics")
        assert (metrics["cache_hits"], metrics["tokens_saved"]) == (user["total_cache_hits"], user["total_tokens_saved"])
        return metrics["cache_hits"], metrics["tokens_saved"]

    # Not before it is certain, nor if it was not to be.
    with client.connection.transaction(force_rollback=True):
        client.connection.execute("SELECT cache_invalidate(%s, %s, %s)", TONE)
        assert pending(client.database) == (7, 35)
    assert shown() == (7, 35)
    client.invalidate(TONE)
    client.upsert(TONE, 1)
    client.lookup(TONE, 2)
    for _ in range(2):
        assert shown() == (2, 2)
        flush(client.connection)


@pytest.mark.parametrize("sql", [ONE, GET, MANY])
@pytest.mark.parametrize("way", WAYS)
def test_hits_know_their_entry_whichever_way_it_was_found(client, sql, way):
    client.connection.execute(f"SET enable_indexscan = {'on' if way == WAYS[0] else 'off'}")
    for cost in (5, 1):
        client.connection.execute(f"DELETE FROM {CACHE}")
        client.connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, token_cost) VALUES (%s, %s, %s, '1', %s)", (*TONE, cost))
        client.tally.costs[TONE] = cost
        client.lookup(TONE, 3, sql)
    assert sorted(client.connection.execute("SELECT hits, tokens_saved FROM cache_pending_hits()").fetchall()) == [(3, 3), (3, 15)]
    assert shown(client) == 3
    assert flush(client.connection)[:2] == (1, 0)
    assert client.database.execute(f"SELECT hit_count, token_cost_saved FROM {CACHE}") == [(4, 4)]
    assert pending(client.database) == (0, 0)


@pytest.mark.parametrize("flushed", [False, True])
def test_a_newer_row_of_a_client_leaves_the_hits_to_the_older_one(client, flushed):
    """A client's INSERT of a key that an earlier month has is another entry, and hides that one."""
    connection = client.connection
    insert = f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at, token_cost) VALUES (%s, %s, %s, '1', %s, 'infinity', 2)"
    connection.execute("SELECT create_monthly_cache_partition(%s::timestamp)", (month(-1).replace(tzinfo=None),))
    connection.execute(insert, (*TONE, month(-1)))
    client.tally.costs[TONE] = 2
    client.lookup(TONE, 5)
    if flushed:
        flush(connection)
    connection.execute(insert, (*TONE, month(0)))
    assert shown(client) == 0
    client.lookup(TONE, 3)
    assert flush(connection)[:2] == (1 if flushed else 2, 0)
    rows = connection.execute(f"SELECT hit_count, token_cost_saved FROM {CACHE} ORDER BY created_at").fetchall()
    assert rows == [(5, 10), (4, 8)]


def test_hits_follow_an_entry_that_an_upsert_moves_to_another_month(client):
    connection = client.connection
    connection.execute("SELECT create_monthly_cache_partition(%s::timestamp)", (month(-1).replace(tzinfo=None),))
    connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at, token_cost) "
                       "VALUES (%s, %s, %s, '1', %s, 'infinity', 2)", (*TONE, month(-1)))
    [(before,)] = connection.execute(f"SELECT id FROM {CACHE}").fetchall()
    client.tally.costs[TONE] = 2
    client.lookup(TONE, 5)
    # Not before it is certain that it moves.
    with client.database.connect() as other:
        with other.transaction(force_rollback=True):
            Client(other).upsert(TONE, 3)
            assert flush(connection)[:2] == (0, 1)
    client.upsert(TONE, 3)
    assert connection.execute(f"SELECT id FROM {CACHE}").fetchall() == [(before,)]
    assert shown(client) == 5
    assert flush(connection)[:2] == (1, 0)
    assert connection.execute(f"SELECT hit_count, token_cost_saved FROM {CACHE}").fetchall() == [(6, 5 * 2 + 3)]


def test_a_flush_shows_its_own_hits_of_two_entries_of_a_key_once(client):
    """Within the transaction that has stored them."""
    client.upsert(TONE, 2)
    client.lookup(TONE, 4)
    client.connection.execute(f"DELETE FROM {CACHE}")
    client.upsert(TONE, 2)
    client.lookup(TONE, 3)
    with client.connection.transaction():
        assert flush(client.connection)[0] == 1
        assert client.connection.execute("SELECT sum(hits) FROM cache_pending_hits()").fetchone() == (None,)
        assert shown(client) == 3
        assert shown(client) == 4
    assert pending(client.database) == (2, 4)


def test_entries_that_are_removed_and_made_anew_while_a_flush_runs(client):
    """No entry gets a hit that was another's: each has as many as there were of its content."""
    stop, lock = threading.Event(), threading.Lock()
    hits = {}

    def flusher():
        with client.database.connect() as connection:
            while not stop.is_set():
                flush(connection)

    def remover():
        with client.database.connect() as connection:
            for number in range(200):
                with lock:
                    connection.execute(f"SELECT cache_invalidate('{ALICE}', 'tone', 'k')")
                    connection.execute("SELECT cache_upsert(%s, 'tone', 'k', to_jsonb(%s))", (ALICE, number))

    def reader():
        with client.database.connect() as connection:
            while not stop.is_set():
                with lock:
                    found = connection.execute(ONE, TONE).fetchone()[0]
                hits[found] = hits.get(found, 0) + 1

    threads = [threading.Thread(target=target) for target in (flusher, reader)]
    client.connection.execute("SELECT cache_upsert(%s, 'tone', 'k', '-1')", (ALICE,))
    for thread in threads:
        thread.start()
    remover()
    stop.set()
    for thread in threads:
        thread.join()
    flush(client.connection)
    [(content, stored)] = client.database.execute(f"SELECT content, hit_count FROM {CACHE}")
    assert content == 199 and stored == hits.get(199, 0)


# ── entries of clients' own tables ───────────────────────────────────────────────────────────────

@pytest.mark.parametrize("column", ["id uuid DEFAULT gen_random_uuid()", "id bigint GENERATED BY DEFAULT AS IDENTITY",
                                    "id text DEFAULT md5(random()::text)"])
def test_hits_of_an_adopted_table_with_ids_of_any_type(empty_database, column):
    """Where an id is no uuid nobody knows whose a hit was: the row of the key has it."""
    database = empty_database
    database.execute(LEGACY.replace("id uuid DEFAULT gen_random_uuid()", column) + legacy_month(0) + "CREATE EXTENSION infinite_pages_cache")
    with database.connect() as connection:
        entry = (ALICE, "tone", "k0")
        for sql in (ONE, MANY):
            for _ in range(2):
                assert connection.execute(sql, entry).fetchall() == [(0,)]
        assert flush(connection)[:2] == (1, 0)
        assert database.execute(f"SELECT hit_count FROM {CACHE}") == [(11,)]
        assert pending(database) == (0, 0)


# ── what a hit has saved ─────────────────────────────────────────────────────────────────────────

def test_savings_are_those_of_the_version_that_was_hit(client):
    client.upsert(TONE, 5)
    client.lookup(TONE, 100)
    client.upsert(TONE, "0.05")
    assert report(client.database, "cache_performance_metrics")[0]["tokens_saved"] == 500
    flush(client.connection)
    assert rows_of(client.database) == {TONE: 100}
    assert rows_of(client.database, "token_cost_saved") == {TONE: 500}
    assert counters(client.database, "tokens_saved") == {"tone": {"tokens_saved": 500}}
    [metrics] = report(client.database, "cache_performance_metrics")
    [user] = report(client.database, "user_cache_analytics")
    assert metrics["tokens_saved"] == user["total_tokens_saved"] == 500


def test_savings_in_the_summaries_of_a_large_cache_are_those_of_what_was_hit(client):
    client.upsert(TONE, 5)
    client.database.execute("ALTER SYSTEM SET infinite_pages_cache.exact_report_size = 0")
    client.database.execute("SELECT pg_reload_conf()")
    try:
        with client.database.connect() as connection:
            connection.execute("SET infinite_pages_cache.exact_report_size = 0")
            connection.execute("SELECT * FROM cache_run_maintenance()")
            assert connection.execute("SELECT count(*) FROM cache_entry_summary").fetchone() == (1,)
            client.lookup(TONE, 100)
            client.upsert(TONE, "0.05")
            flush(connection)
            for table in ("cache_entry_summary", "cache_user_summary"):
                assert connection.execute(f"SELECT hits, tokens_saved FROM {table}").fetchall() == [(100, 500)]
    finally:
        client.database.execute("ALTER SYSTEM RESET infinite_pages_cache.exact_report_size")
        client.database.execute("SELECT pg_reload_conf()")


def test_fractions_of_different_costs_lose_less_than_a_unit_with_each_flush(client):
    costs = ["0.3", "2.7", "0.3", "0.000001", "9.99"] * 5
    saved = 0
    for number, cost in enumerate(costs, 1):
        client.upsert(TONE, cost)
        before = client.tally.total("tokens_saved")
        client.lookup(TONE, number % 4 + 1)
        counted = client.tally.total("tokens_saved") - before
        flush(client.connection)
        stored = rows_of(client.database, "token_cost_saved")[TONE]
        assert abs(stored - saved - counted) < 1
        saved = stored
    assert rolled_up(client.database, "tokens_saved") == client.tally.counters("tokens_saved")
