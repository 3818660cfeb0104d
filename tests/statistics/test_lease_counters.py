"""What becomes of leases is counted once and stored once, and reports and alerts tell it."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import leases
from harness.database import Database
from harness.entries import ALICE, CACHE, upsert
from harness.reports import checks, report
from harness.tally import counting_cluster, flush
from harness.upgrade import UPDATE, old
from harness.waiting import wait_until

COUNTERS = ("leases_granted", "leases_denied", "leases_expired", "waits", "waits_hit", "stale_served", "refused_fills", "refused_by_gate",
            "failures", "generations")


@pytest.fixture(scope="module")
def cluster():
    """One with room for few leases, and for prepared transactions."""
    cluster = counting_cluster(**{"infinite_pages_cache.max_leases": "64", "max_prepared_transactions": "5"})
    yield cluster
    cluster.remove()


def counted(database, source="cache_statistics()", content_type="tone"):
    """The counters that are not zero."""
    columns = ", ".join(f"coalesce(sum({name}), 0)" for name in COUNTERS)
    row, = database.execute(f"SELECT {columns} FROM {source} WHERE content_type = %s", (content_type,))
    return {name: int(number) for name, number in zip(COUNTERS, row) if number}


def fetch(connection, key="k", wait="0", content_type="tone"):
    found = leases.fetch(connection, (ALICE, content_type, key), wait=wait)
    return found.state, found.lease


def fill(connection, lease, key="k", content_type="tone", content="1"):
    return upsert(connection, content, (ALICE, content_type, key), lease=lease)


def stored_once(database, expected):
    """A flush stores what is counted, and another one nothing."""
    assert counted(database) == expected == counted(database, "cache_statistics(pending => true)")
    with database.connect() as connection:
        flush(connection)
        assert counted(database, "cache_statistics_hourly") == expected and counted(database, "cache_statistics(pending => true)") == {}
        flush(connection)
    assert counted(database, "cache_statistics_hourly") == expected == counted(database)


def test_a_generation_is_counted_when_it_commits(database):
    with database.connect() as connection:
        state, lease = fetch(connection)
        assert state == "generate" and counted(database) == {"leases_granted": 1}
        time.sleep(0.3)
        with connection.transaction(force_rollback=True):
            assert fill(connection, lease) is not None
        assert counted(database) == {"leases_granted": 1}
        with connection.transaction():
            assert fill(connection, lease) is not None
            assert counted(database) == {"leases_granted": 1}
    stored_once(database, {"leases_granted": 1, "generations": 1})
    for source in ("cache_statistics()", "cache_statistics_hourly"):
        [(total, buckets, median)] = database.execute(
            f"SELECT generation_total_ms, (SELECT sum(n) FROM unnest(generation_ms) n), cache_latency_ms(generation_ms, 0.5) FROM {source} WHERE content_type = 'tone'")
        assert 300 <= total < 30_000 and buckets == 1
        # Milliseconds in the buckets, so seconds come out, to an eighth.
        assert total / 1000 * 0.8 <= median <= total / 1000 * 1.25
    [row] = report(database, "cache_performance_metrics")
    assert (row["leases_last_day"], row["failures_last_day"]) == (1, 0) and row["generation_p95_s"] >= row["generation_p50_s"] > 0


def test_an_answer_that_is_stored_twice_in_a_transaction_was_generated_once(database):
    with database.connect() as connection:
        _, lease = fetch(connection)
        with connection.transaction():
            with connection.transaction(force_rollback=True):
                assert fill(connection, lease, content="0") is not None
            for content in ("1", "2"):
                assert fill(connection, lease, content=content) is not None
    assert counted(database) == {"leases_granted": 1, "generations": 1}


def test_a_lease_is_counted_whatever_becomes_of_the_transaction(database):
    with database.connect() as connection:
        with connection.transaction(force_rollback=True):
            assert fetch(connection)[0] == "generate"
        assert fetch(connection)[0] == "generate"
    stored_once(database, {"leases_granted": 2})


def test_failures_and_refusals(database):
    with database.connect() as connection:
        _, lease = fetch(connection)
        assert connection.execute("SELECT cache_release(%s, failed => true, retry_after => '0')", (lease,)).fetchone() == (True,)
        assert connection.execute("SELECT cache_release(%s, failed => true)", (lease,)).fetchone() == (False,)
        _, lease = fetch(connection)
        assert connection.execute("SELECT cache_release(%s)", (lease,)).fetchone() == (True,)
        _, lease = fetch(connection)
        connection.execute("SELECT cache_invalidate(%s, 'tone', 'k')", (ALICE,))
        with connection.transaction(force_rollback=True):
            assert fill(connection, lease) is None
        database.execute("UPDATE cache_content_policies SET accept_if = '$ == 2' WHERE content_type = 'tone'")
        _, lease = fetch(connection, "other")
        with connection.transaction(force_rollback=True):
            assert fill(connection, lease, "other") is None
    stored_once(database, {"leases_granted": 4, "failures": 1, "refused_fills": 1, "refused_by_gate": 1})
    [row] = report(database, "cache_performance_metrics")
    assert (row["leases_last_day"], row["failures_last_day"], row["refused_fills_last_day"], row["refused_by_gate_last_day"]) == (4, 1, 1, 1)


def test_a_lease_whose_time_is_over_is_counted_once(database):
    database.execute("UPDATE cache_content_policies SET lease_ttl = '1 second' WHERE content_type = 'tone'")
    with database.connect() as connection:
        for key in ("one", "two"):
            assert fetch(connection, key)[0] == "generate"
        time.sleep(1.2)
        # Another takes its place.
        assert fetch(connection, "one")[0] == "generate"
        flush(connection)
        flush(connection)
    assert counted(database, "cache_statistics_hourly") == {"leases_granted": 3, "leases_expired": 2}


def test_waits_and_stale_answers(database):
    database.execute("UPDATE cache_content_policies SET stale_ttl = '1 day' WHERE content_type = 'tone'")
    with database.connect() as one, database.connect() as other, ThreadPoolExecutor() as pool:
        _, lease = fetch(one)
        waiting = pool.submit(fetch, other, "k", "20 seconds")
        wait_until(lambda: database.value("SELECT sum(waiters) FROM cache_leases") == 1)
        fill(one, lease)
        assert waiting.result(20)[0] == "hit"
        assert counted(database) == {"leases_granted": 1, "waits": 1, "waits_hit": 1, "generations": 1}
        _, lease = fetch(one, "slow")
        assert fetch(other, "slow", "100 ms")[0] == "wait"
        database.execute(f"UPDATE {CACHE} SET expires_at = now() - interval '1 hour'")
        # The first generates it anew, the second is served what there is: one generation is avoided.
        assert [fetch(one)[0], fetch(other)[0]] == ["refresh", "stale"]
    stored_once(database, {"leases_granted": 3, "waits": 2, "waits_hit": 1, "stale_served": 1, "generations": 1})
    [row] = report(database, "cache_performance_metrics")
    assert (row["waits_last_day"], row["waits_hit_last_day"], row["stale_served_last_day"], row["generations_avoided_last_day"]) == (2, 1, 1, 2)
    # A stale answer is a hit, whose cost is saved.
    assert database.execute("SELECT hits, misses, tokens_saved FROM cache_statistics() WHERE content_type = 'tone'") == [(3, 3, 1.5)]


def test_leases_for_which_there_is_no_room(database):
    with database.connect() as connection:
        found = [fetch(connection, f"k{number}") for number in range(100)]
    granted = sum(lease is not None for _, lease in found)
    assert {state for state, _ in found} == {"generate"} and 4 <= granted < 64
    stored_once(database, {"leases_granted": granted, "leases_denied": 100 - granted})


def test_a_prepared_generation_counts_when_it_commits(database):
    with database.connect() as connection:
        _, lease = fetch(connection)
        for name, end in (("p", "ROLLBACK"), ("q", "COMMIT")):
            if end == "COMMIT":
                _, lease = fetch(connection, name)
            connection.execute("BEGIN")
            assert fill(connection, lease, "k" if end == "ROLLBACK" else name) is not None
            connection.execute(f"PREPARE TRANSACTION '{name}'")
            assert counted(database).get("generations") is None
            connection.execute(f"{end} PREPARED '{name}'")
            assert counted(database).get("generations") == (1 if end == "COMMIT" else None)
    assert database.value("SELECT (SELECT sum(n) FROM unnest(generation_ms) n) FROM cache_statistics() WHERE content_type = 'tone'") == 1


def test_a_roll_up_without_the_columns_gets_all_else_and_the_rest_later(database):
    """As after the restore of an old dump, until cache_setup()."""
    for name in ("leases_granted", "generations", "generation_total_ms", "generation_ms"):
        database.execute(f"ALTER TABLE cache_statistics_hourly DROP COLUMN {name}")
    with database.connect() as connection:
        _, lease = fetch(connection)
        fill(connection, lease)
        for _ in range(2):
            flush(connection)
            assert database.execute("SELECT misses, upserts FROM cache_statistics_hourly") == [(1, 1)]
            assert counted(database, "cache_statistics(pending => true)") == {"leases_granted": 1, "generations": 1}
            [row] = report(database, "cache_performance_metrics")
            assert row["leases_last_day"] == 1 and row["generation_p50_s"] is not None
            assert flush(connection) == (0, 0, 0, 0)
        connection.execute("SELECT cache_setup()")
        assert flush(connection) == (0, 0, 1, 0)
    assert counted(database, "cache_statistics_hourly") == {"leases_granted": 1, "generations": 1}
    assert database.execute("SELECT misses, upserts, (SELECT sum(n) FROM unnest(generation_ms) n) FROM cache_statistics_hourly") == [(1, 1, 1)]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_alerts_and_metrics_with_the_sql_of_an_old_version(cluster, known, version):
    database = old(cluster, version)
    assert {row["value"] for row in alerts(database).values()} == {0}
    database.execute(UPDATE)
    assert {row["value"] for row in alerts(database).values()} == {0}
    assert checks(database).keys() == {"the worker runs"}
    database.drop()


# ── alerts ───────────────────────────────────────────────────────────────────────────────────────

REFUSED, FAILED = "answers refused for an invalidation in the last hour above 10 % (of 20 or more)", "failed generations in the last hour above 10 % of leases (of 20 or more)"
PENDING, DENIED = "seconds that an invalidation has been pending above 60", "leases denied in the last hour because there was no room"
SLOW = "content types whose answers take longer than their lease_ttl (95th percentile of the last day, of 20 or more)"
GATED = "answers refused by accept_if in the last day above 20 % of a content type (of 20 or more)"


def alerts(database):
    return {row["rule"]: row for row in report(database, "cache_alerts") if row["rule"] in (REFUSED, FAILED, PENDING, DENIED, SLOW, GATED)}


def hour(database, content_type="tone", **counters):
    """Store counters of the current hour."""
    names = ", ".join(counters)
    database.execute(f"INSERT INTO cache_statistics_hourly (hour, content_type, {names}) VALUES (date_trunc('hour', now(), 'UTC'), %s{', %s' * len(counters)})",
                     (content_type, *counters.values()))


@pytest.mark.parametrize("rule, below, above, value", [
    (REFUSED, {"generations": 18, "refused_fills": 2}, {"generations": 17, "refused_fills": 3}, 15),
    (REFUSED, {"generations": 0, "refused_fills": 19}, {"generations": 0, "refused_fills": 20}, 100),
    (FAILED, {"leases_granted": 20, "failures": 2}, {"leases_granted": 20, "failures": 3}, 15),
    (DENIED, {"leases_denied": 0}, {"leases_denied": 1}, 1),
    (GATED, {"upserts": 16, "refused_by_gate": 4}, {"upserts": 15, "refused_by_gate": 5}, 25),
    # The buckets of 98,304 to 114,687 ms and of 131,072 to 163,839 ms; the lease_ttl is 2 minutes.
    (SLOW, {"generation_ms": [0] * 62 + [20]}, {"generation_ms": [0] * 64 + [20]}, 1),
    (SLOW, {"generation_ms": [0] * 64 + [19]}, {"generation_ms": [1] + [0] * 63 + [19]}, 1)])
def test_an_alert_fires_above_its_threshold(database, rule, below, above, value):
    hour(database, **below)
    assert not alerts(database)[rule]["firing"]
    database.execute("DELETE FROM cache_statistics_hourly")
    hour(database, **above)
    row = alerts(database)[rule]
    assert (row["severity"], row["value"], row["firing"]) == ("warning", value, True)
    assert {other for other, found in alerts(database).items() if found["firing"]} == {rule}
    if rule in (SLOW, GATED):
        assert "tone" in row["what_to_do"]


@pytest.mark.parametrize("rule, counters", [(SLOW, {"generation_ms": [0] * 64 + [20]}), (GATED, {"upserts": 15, "refused_by_gate": 5})])
def test_an_alert_names_the_types_without_counters_of_their_own(database, rule, counters):
    hour(database, "", **counters)
    row = alerts(database)[rule]
    assert row["firing"] and " types without counters of their own." in row["what_to_do"]


def test_an_alert_names_the_transaction_that_keeps_an_invalidation_pending(database):
    with database.connect(autocommit=False) as connection:
        connection.execute("SET application_name = 'editor'")
        connection.execute("SELECT cache_invalidate(%s, 'tone', 'k')", (ALICE,))
        pid = connection.info.backend_pid
        time.sleep(0.2)
        row = alerts(database)[PENDING]
        assert 0 < row["value"] < 60 and not row["firing"] and f"process {pid} of editor, since " in row["what_to_do"]
    assert alerts(database)[PENDING]["value"] == 0
