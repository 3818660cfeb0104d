"""What maintenance does for statistics: summaries of a large cache, flush by the worker, old hours."""

import random
import time
from collections import Counter
from datetime import datetime, timezone
from decimal import Decimal

import pytest

from harness.database import Database
from harness.entries import ALICE, BOB, CACHE
from harness.maintenance import run
from harness.months import month, name_of
from harness.reports import columns_of, report
from harness.roles import acting
from harness.sample import grouped, mean, of
from harness.tally import GET, ONE, Client, Tally, counters, counting_cluster, flush, pending, rolled_up, rows_of
from harness.waiting import together, wait_until

CAROL = "c0c00000-0000-4000-8000-000000000003"


@pytest.fixture
def large(database):
    """A database that takes any cache for a large one."""
    database.execute(f"ALTER DATABASE {database.name} SET infinite_pages_cache.exact_report_size = 0")
    return database


def summarize(database):
    assert run(database)["summarize"][0] == "ok"


def exactly(database, name):
    """A report that counts the entries."""
    with database.connect() as connection:
        connection.execute("SET infinite_pages_cache.exact_report_size = '1TB'")
        return columns_of(connection, f"SELECT * FROM {name}")


def without(rows, *names):
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


# ── summaries ────────────────────────────────────────────────────────────────────────────────────

def test_reports_of_a_large_cache_are_those_of_its_summary(large, used):
    """Numbers of Python's, of the moment of the summary; what the same run has deleted since is in them."""
    before = datetime.now(timezone.utc)
    summarize(large)
    after = datetime.now(timezone.utc)
    metrics = {row["content_type"]: row for row in report(large, "cache_performance_metrics")}
    assert set(metrics) == set(of(used.entries, "content_type"))
    for name, group in grouped(used.entries, "content_type").items():
        row = metrics[name]
        assert (row["total_entries"], row["cache_hits"], row["tokens_saved"]) == (
            len(group), sum(of(group, "hit_count")), sum(of(group, "token_cost_saved")))
        assert (row["avg_hit_count"], row["avg_tokens_saved"]) == (mean(of(group, "hit_count")), mean(of(group, "token_cost_saved")))
        assert (row["expired_entries"], row["high_priority_entries"]) == (
            sum(entry["expires_at"] <= used.now for entry in group), of(group, "priority_tier").count(1))
        assert row["last_activity"] == max(max(entry["created_at"], entry["last_accessed"] or entry["created_at"]) for entry in group)
        assert before <= row["measured_at"] <= after
    users = {str(row["user_id"]): row for row in report(large, "user_cache_analytics")}
    for user, group in grouped(used.entries, "user_id").items():
        row = users[user]
        assert (row["total_cache_entries"], row["content_types_used"], row["total_cache_hits"], row["total_tokens_saved"]) == (
            len(group), len(set(of(group, "content_type"))), sum(of(group, "hit_count")), sum(of(group, "token_cost_saved")))
        assert (row["avg_reuse_score"], row["avg_hits_per_entry"]) == (mean(of(group, "reuse_score")), mean(of(group, "hit_count")))
        assert row["last_cache_access"] == max(moment for moment in of(group, "last_accessed") if moment)
    health = {row["partition_name"]: (row["live_entries"], row["expired_entries"]) for row in report(large, "partition_health_metrics")}
    for offset in (-2, -1, 0):
        if name_of(offset) in health:
            group = [entry for entry in used.entries if month(offset) <= entry["created_at"] < month(offset + 1)]
            expired = sum(entry["expires_at"] <= used.now for entry in group)
            assert health[name_of(offset)] == (len(group) - expired, expired)
    [rule] = [row for row in report(large, "cache_alerts") if "expired entries" in row["rule"]]
    expired = sum(entry["expires_at"] <= used.now for entry in used.entries)
    assert rule["value"] == round(Decimal(100 * expired) / len(used.entries), 1)


def test_the_next_summary_is_the_next_truth(large, used):
    """What has gone is gone from it, what has come is in it, and it is the same as an exact report."""
    summarize(large)
    # The first run has deleted what had expired.
    large.execute(f"DELETE FROM {CACHE} WHERE content_type = 'themes' OR user_id = %s", (BOB,))
    large.execute("SELECT cache_upsert(%s, 'new', 'k', '1')", ("d0d00000-0000-4000-8000-000000000004",))
    for name in ("cache_performance_metrics", "user_cache_analytics"):
        assert without(report(large, name), "measured_at") != without(exactly(large, name), "measured_at")
    summarize(large)
    for name in ("cache_performance_metrics", "user_cache_analytics", "partition_health_metrics"):
        assert without(report(large, name), "measured_at") == without(exactly(large, name), "measured_at")
    assert large.value("SELECT count(*) FROM cache_user_summary WHERE user_id = %s", (BOB,)) == 0
    # A cache that is small has none.
    assert run(large, exact_report_size="1TB")["summarize"][:1] == ["ok"]
    assert large.execute("SELECT 1 FROM cache_entry_summary UNION ALL SELECT 2 FROM cache_user_summary") == []


def totals(database):
    """Hits and tokens by type, and by user."""
    return ({row["content_type"]: (row["cache_hits"], row["tokens_saved"]) for row in report(database, "cache_performance_metrics")},
            {str(row["user_id"]): (row["total_cache_hits"], row["total_tokens_saved"]) for row in report(database, "user_cache_analytics")})


def test_hits_since_the_summary_show_at_once(large):
    with large.connect() as connection:
        client = Client(connection)
        dice = random.Random(2)
        for number in range(40):
            client.upsert((dice.choice((ALICE, BOB)), dice.choice(("tone", "setting")), f"k{number}"), dice.randint(0, 5))
        for entry in client.tally.costs:
            client.lookup(entry, dice.randint(0, 3))
        summarize(large)

        def expected():
            by_type, by_user = Counter(), Counter()
            for entry, cost in client.tally.costs.items():
                hits = client.tally.hits[entry]
                by_type[entry[1], 0] += hits
                by_type[entry[1], 1] += hits * cost
                by_user[entry[0], 0] += hits
                by_user[entry[0], 1] += hits * cost
            return tuple({name: (count[name, 0], count[name, 1]) for name in {name for name, _ in count}} for count in (by_type, by_user))

        for _ in range(3):
            assert totals(large) == expected()
            for entry in client.tally.costs:
                client.lookup(entry, dice.randint(0, 3))
            assert totals(large) == expected()
            flush(connection)
            assert totals(large) == expected()
        last = large.value(f"SELECT max(last_accessed) FROM {CACHE}")
        assert max(row["last_activity"] for row in report(large, "cache_performance_metrics")) == last
        assert max(row["last_cache_access"] for row in report(large, "user_cache_analytics")) == last
        summarize(large)
        assert totals(large) == expected()


def test_hits_of_what_came_after_the_summary(large):
    """An entry of a type and user that the summary does not know: what was shown of its hits stays shown."""
    with large.connect() as connection:
        client = Client(connection)
        client.upsert((ALICE, "tone", "k"), 1)
        summarize(large)
        client.upsert((CAROL, "setting", "k"), 2)
        client.lookup((CAROL, "setting", "k"), 5)
        shown = totals(large)[0]["setting"]
        flush(connection)
        assert totals(large)[0]["setting"] == shown
        summarize(large)
        assert totals(large) == ({"tone": (0, 0), "setting": (5, 10)}, {ALICE: (0, 0), CAROL: (5, 10)})


def test_a_rolled_back_flush_does_not_show_in_the_summary(large):
    with large.connect() as connection:
        client = Client(connection)
        client.upsert((ALICE, "tone", "k"), 2)
        summarize(large)
        client.lookup((ALICE, "tone", "k"), 3)
        with connection.transaction(force_rollback=True):
            flush(connection)
        assert totals(large) == ({"tone": (3, 6)}, {ALICE: (3, 6)})
        assert large.value("SELECT sum(hits) FROM cache_entry_summary") == 0


def test_a_summary_and_flushes_at_the_same_time(large):
    """Hits that are stored while entries are counted are in the summary once."""
    with large.connect() as connection:
        client = Client(connection)
        for number in range(300):
            client.upsert((ALICE, "busy", f"k{number}"), 1)
        summarize(large)

        def hit():
            dice = random.Random(3)
            with large.connect() as other:
                for _ in range(1500):
                    other.execute(ONE, (ALICE, "busy", f"k{dice.randrange(300)}"))

        def flushes():
            with large.connect() as other:
                for _ in range(30):
                    flush(other)

        together(hit, flushes, lambda: [run(large) for _ in range(6)])
        flush(connection)
        assert totals(large) == ({"busy": (1500, 1500)}, {ALICE: (1500, 1500)})
        assert large.value(f"SELECT sum(hit_count) FROM {CACHE}") == 1500


def test_a_tenant_never_sees_the_summary(large, roles):
    large.execute("SELECT cache_grant_tenant('authenticated')")
    for user, number in ((ALICE, 2), (BOB, 3)):
        large.execute("SELECT count(cache_upsert(%s, 'tone', 'k' || n, '1', token_cost => 1)) FROM generate_series(1, %s) n", (user, number))
    summarize(large)
    large.execute("SELECT cache_upsert(%s, 'tone', 'new', '1'), cache_upsert(%s, 'tone', 'new', '1')", (CAROL, ALICE))
    counts = "SELECT user_id::text, total_cache_entries, total_cache_hits FROM user_cache_analytics ORDER BY 1"
    with large.connect() as connection:
        connection.execute(ONE, (ALICE, "tone", "k1"))
        assert connection.execute(counts).fetchall() == [(ALICE, 2, 1), (BOB, 3, 0)]
        for user, row in ((ALICE, [(ALICE, 3, 1)]), (BOB, [(BOB, 3, 0)]), (CAROL, [(CAROL, 1, 0)])):
            with acting(connection, user):
                connection.execute("SET LOCAL infinite_pages_cache.exact_report_size = 0")
                assert connection.execute(counts).fetchall() == row


def test_nothing_of_a_forgotten_user_is_left_in_the_summary(large):
    for user in (ALICE, BOB):
        large.execute("SELECT cache_upsert(%s, 'tone', 'k', '1')", (user,))
    summarize(large)
    large.execute("SELECT cache_forget_user(%s)", (ALICE,))
    assert [str(row["user_id"]) for row in report(large, "user_cache_analytics")] == [BOB]


# ── old hours ────────────────────────────────────────────────────────────────────────────────────

def test_old_hours_are_trimmed(database):
    database.execute("INSERT INTO cache_statistics_hourly (hour, content_type) "
                     "SELECT date_trunc('hour', now()) - n * interval '1 day', 'tone' FROM unnest(ARRAY[0, 1, 2, 5, 399, 401, 500]) n")
    assert run(database, statistics_retention=0)["trim statistics"][:2] == ["ok", 0]
    assert run(database)["trim statistics"][:2] == ["ok", 2]
    assert run(database, statistics_retention="3d")["trim statistics"][:2] == ["ok", 2]
    assert database.value("SELECT count(*) FROM cache_statistics_hourly") == 3


def test_a_run_by_hand_stores_what_was_counted(database):
    with database.connect() as connection:
        client = Client(connection)
        client.upsert((ALICE, "tone", "k"), 2)
        client.lookup((ALICE, "tone", "k"), 3)
        client.lookup((ALICE, "setting", "none"))
        # Two types, and an entry.
        assert run(database)["flush statistics"][:2] == ["ok", 3]
        assert (rolled_up(database), rows_of(database)) == (client.tally.counters(), client.tally.hit_counts())
        assert pending(database) == (0, 0)


def test_expired_entries_are_counted_by_whoever_deletes_them(database):
    with database.connect() as connection:
        client = Client(connection)
        for number in range(5):
            client.expire((ALICE, "tone" if number < 3 else "setting", f"k{number}"))
        with connection.transaction(force_rollback=True):
            connection.execute("SELECT * FROM cleanup_expired_cache_entries_production()")
        assert counters(database, "expirations") == {}
        connection.execute("SELECT * FROM cleanup_expired_cache_entries_production()")
        assert counters(database, "expirations") == {"tone": {"expirations": 3}, "setting": {"expirations": 2}}
        client.expire((ALICE, "tone", "k"))
        run(database)
        assert counters(database, "expirations") == {"tone": {"expirations": 4}, "setting": {"expirations": 2}}
        run(database)
        assert rolled_up(database, "expirations") == {"tone": {"expirations": 4}, "setting": {"expirations": 2}}


# ── the worker ───────────────────────────────────────────────────────────────────────────────────

@pytest.fixture(scope="module")
def ticking():
    """A cluster whose worker is at work all the time."""
    cluster = counting_cluster(**{"infinite_pages_cache.naptime": "500ms"})
    yield cluster
    cluster.remove()


@pytest.fixture
def worked(ticking):
    database = Database(ticking)
    yield database
    database.drop()


def all_is_stored(database):
    return pending(database) == (0, 0) and counters(database, pending=True) == {}


def test_the_worker_stores_what_was_counted(worked):
    worked.execute(f"ALTER DATABASE {worked.name} SET infinite_pages_cache.audit = 'all'")
    with worked.connect() as connection:
        client = Client(connection)
        for number in range(20):
            client.upsert((ALICE, ("tone", "setting")[number % 2], f"k{number}"), "0.5")
            client.lookup((ALICE, ("tone", "setting")[number % 2], f"k{number}"), number)
    wait_until(lambda: all_is_stored(worked))
    assert (rolled_up(worked), rows_of(worked)) == (client.tally.counters(), client.tally.hit_counts())
    wait_until(lambda: worked.value("SELECT count(*) FROM cache_audit_log WHERE action = 'lookup'") == sum(range(20)))
    assert worked.execute("SELECT DISTINCT role::text FROM cache_audit_log WHERE action = 'lookup'") == [("postgres",)]


def test_the_worker_stores_while_eight_clients_hit(worked):
    entries = [(ALICE, "tone", f"k{number}") for number in range(100)]
    with worked.connect() as connection:
        client = Client(connection)
        for entry in entries:
            client.upsert(entry, "0.5")

    def read(seed):
        dice = random.Random(seed)
        with worked.connect() as connection:
            one = Client(connection, Tally())
            one.tally.costs.update(client.tally.costs)
            until = time.monotonic() + 3
            while time.monotonic() < until:
                one.lookup(dice.choice(entries), 1, dice.choice((ONE, GET)))
                time.sleep(0.002)
            return one.tally

    for tally in together(*[lambda seed=seed: read(seed) for seed in range(8)]):
        client.tally = client.tally + tally
    wait_until(lambda: all_is_stored(worked))
    assert rolled_up(worked) == client.tally.counters()
    assert rows_of(worked) == client.tally.hit_counts()
    assert rows_of(worked, "token_cost_saved") == {entry: hits // 2 for entry, hits in client.tally.hits.items()}


def test_the_worker_updates_no_index(worked):
    """Of entries that lie many to a page, each is updated in place."""
    number = 1500
    with worked.connect() as connection:
        # A user may keep less of it than that.
        connection.execute("UPDATE cache_content_policies SET max_entries = NULL WHERE content_type = 'tone'")
        connection.execute("SELECT cache_upsert_many((SELECT jsonb_agg(jsonb_build_object('user_id', %s::text, 'content_type', 'tone', "
                           "'cache_key', 'k' || n, 'content', n, 'token_cost', 1)) FROM generate_series(1, %s) n))", (ALICE, number))
        assert connection.execute(f"SELECT count(DISTINCT (ctid::text::point)[0]) FROM {CACHE}").fetchone()[0] < number / 10
        connection.execute("SELECT count(cache_lookup(%s, 'tone', 'k' || n)) FROM generate_series(1, %s) n", (ALICE, number))
    wait_until(lambda: all_is_stored(worked), timeout=60)
    assert set(rows_of(worked).values()) == {1}
    updates = f"SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = '{name_of(0)}'"
    wait_until(lambda: worked.execute(updates)[0][0] >= number)
    [(updated, in_place)] = worked.execute(updates)
    assert updated == number
    assert in_place >= 0.95 * number


def test_the_worker_waits_for_no_row(worked):
    with worked.connect() as connection, worked.connect(autocommit=False) as holder:
        client = Client(connection)
        for key in "ab":
            client.upsert((ALICE, "tone", key), 1)
        holder.execute(f"SELECT 1 FROM {CACHE} WHERE cache_key = 'a' FOR UPDATE")
        for key in "ab":
            client.lookup((ALICE, "tone", key), 2)
        wait_until(lambda: pending(worked) == (2, 2) and counters(worked, pending=True) == {})
        assert rows_of(worked) == {(ALICE, "tone", "a"): 0, (ALICE, "tone", "b"): 2}
        holder.commit()
        wait_until(lambda: all_is_stored(worked))
    assert rows_of(worked) == client.tally.hit_counts()


def test_the_worker_summarizes_a_large_cache(worked):
    worked.execute(f"ALTER DATABASE {worked.name} SET infinite_pages_cache.exact_report_size = 0")
    with worked.connect() as connection:
        client = Client(connection)
        client.upsert((ALICE, "tone", "k"), 2)
        client.lookup((ALICE, "tone", "k"), 3)
    wait_until(lambda: worked.execute("SELECT entries, hits, tokens_saved FROM cache_entry_summary") == [(1, 3, 6)])
    wait_until(lambda: totals(worked) == ({"tone": (3, 6)}, {ALICE: (3, 6)}))
