"""The views: hits show at once, wherever they are; ratios and latencies of the last hour and day are right."""

import bisect
import random
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil

import psycopg
import pytest

from harness.entries import ALICE, BOB
from harness.reports import report
from harness.tally import flush

TONE = (ALICE, "tone", "k")

# Where buckets begin, in microseconds: one each below 4, then four to each power of two.
STARTS = [0, 1, 2, 3] + [(4 + quarter) * 2 ** (power - 2) for power in range(2, 27) for quarter in range(4)]
BUCKETS = 100
NAN, INFINITY = float("nan"), float("inf")


def bucket_of(microseconds):
    return min(bisect.bisect_right(STARTS, microseconds) - 1, BUCKETS - 1)


def buckets_of(latencies):
    buckets = [0] * BUCKETS
    for latency in latencies:
        buckets[bucket_of(latency)] += 1
    return buckets


def quantile(buckets, share):
    """In milliseconds: evenly spread within a bucket."""
    rank, below = share * sum(buckets), 0
    for bucket, count in enumerate(buckets):
        if count and below + count >= rank:
            start, end = STARTS[bucket], STARTS[bucket + 1]
            return float((start + (end - start) * (rank - below) / count) / 1000)
        below += count


# ── hits show at once ────────────────────────────────────────────────────────────────────────────

def shown(client):
    """What each report says of hits and tokens saved: of each type, each user, and each user's types."""
    metrics = {row["content_type"]: (row["cache_hits"], row["tokens_saved"]) for row in report(client.database, "cache_performance_metrics")}
    users = {str(row["user_id"]): (row["total_cache_hits"], row["total_tokens_saved"]) for row in report(client.database, "user_cache_analytics")}
    analytics = {}
    for user in users:
        found = client.database.value("SELECT get_infinite_pages_analytics(%s)", (user,))
        analytics[user] = (found["total_cache_hits"], Decimal(str(found["total_tokens_saved"])),
                           {name: (one["hits"], Decimal(str(one["tokens_saved"]))) for name, one in found["content_types"].items()})
    gets = {}
    for entry in client.tally.costs:
        gets[entry] = client.connection.execute("SELECT hit_count FROM cache_get(%s, %s, %s)", entry).fetchone()[0]
        client.tally.looked_up(entry)
    return {"metrics": metrics, "users": users, "analytics": analytics, "cache_get": gets}


def expected(client):
    tally = client.tally

    def total(entries):
        entries = list(entries)
        return sum(tally.hits[entry] for entry in entries), sum(tally.hits[entry] * tally.costs[entry] for entry in entries)

    types = {entry[1] for entry in tally.costs}
    users = {entry[0] for entry in tally.costs}
    return {
        "metrics": {name: total(entry for entry in tally.costs if entry[1] == name) for name in types},
        "users": {user: total(entry for entry in tally.costs if entry[0] == user) for user in users},
        "analytics": {user: (*total(entry for entry in tally.costs if entry[0] == user), {
            name: total(entry for entry in tally.costs if entry[:2] == (user, name))
            for name in {entry[1] for entry in tally.costs if entry[0] == user}}) for user in users},
        "cache_get": dict(tally.hits),
    }


def test_hits_show_at_once_and_a_flush_changes_nothing(client):
    dice = random.Random(11)
    for number in range(12):
        client.upsert((dice.choice((ALICE, BOB)), dice.choice(("tone", "setting")), f"k{number}"), dice.randint(0, 9))
    for entry in client.tally.costs:
        client.tally.hits[entry] = 0
    for _ in range(3):
        for entry in client.tally.costs:
            client.lookup(entry, dice.randint(0, 4))
        right = expected(client)
        assert shown(client) == right
        # Each cache_get was a hit, too.
        right = expected(client)
        assert flush(client.connection)[:2] == (12, 0)
        assert shown(client) == right


def test_fractions_of_tokens_are_rounded_down_by_entry(client):
    """The row of an entry holds whole units: of what a report shows a flush takes less than one from each."""
    for number in range(5):
        client.upsert((ALICE, "tone", f"k{number}"), "0.4")
        client.lookup((ALICE, "tone", f"k{number}"), 4)

    def tokens():
        [metrics] = report(client.database, "cache_performance_metrics")
        [user] = report(client.database, "user_cache_analytics")
        analytics = Decimal(str(client.database.value("SELECT get_infinite_pages_analytics(%s)", (ALICE,))["total_tokens_saved"]))
        assert metrics["tokens_saved"] == user["total_tokens_saved"] == analytics
        return analytics

    assert tokens() == 8  # 5 * 4 * 0.4
    flush(client.connection)
    assert tokens() == 5  # 5 * floor(1.6)
    # By type and hour nothing is rounded.
    [row] = report(client.database, "cache_performance_metrics")
    assert row["tokens_saved_last_day"] == 8


def test_the_last_access_shows_at_once(client):
    client.upsert(TONE)
    before = client.database.value("SELECT clock_timestamp()")
    client.lookup(TONE)
    after = client.database.value("SELECT clock_timestamp()")
    for _ in range(2):
        [metrics] = report(client.database, "cache_performance_metrics")
        [user] = report(client.database, "user_cache_analytics")
        analytics = client.database.value("SELECT (get_infinite_pages_analytics(%s) ->> 'last_cache_access')::timestamptz", (ALICE,))
        assert before <= metrics["last_activity"] == user["last_cache_access"] == analytics <= after
        flush(client.connection)


def test_hits_of_a_type_without_entries(client):
    """Lookups of a type that has no entry, or none any more, have their ratios."""
    client.lookup((ALICE, "themes", "none"), 3)
    client.upsert(TONE, 2)
    client.lookup(TONE, 5)
    client.invalidate(TONE)
    for _ in range(2):
        rows = {row["content_type"]: row for row in report(client.database, "cache_performance_metrics")}
        assert {name: (row["total_entries"], row["lookups"], row["hit_rate_percentage"], row["hit_rate_last_hour"])
                for name, row in rows.items()} == {"themes": (0, 3, 0, 0), "tone": (0, 5, 100, 100)}
        flush(client.connection)


def test_ratios_since_the_server_started(client):
    client.upsert(TONE, 2)
    for entry, times in ((TONE, 7), ((ALICE, "tone", "none"), 4), ((ALICE, "setting", "none"), 2)):
        client.lookup(entry, times)
    for _ in range(3):
        rows = {row["content_type"]: row for row in report(client.database, "cache_performance_metrics")}
        assert (rows["tone"]["lookups"], rows["tone"]["hit_rate_percentage"]) == (11, Decimal("63.64"))
        assert (rows["setting"]["lookups"], rows["setting"]["hit_rate_percentage"]) == (2, 0)
        assert rows["tone"]["hit_rate_last_hour"] == rows["tone"]["hit_rate_last_day"] == Decimal("63.64")
        # Spent 2, saved 7 * 2.
        assert (rows["tone"]["tokens_spent_last_day"], rows["tone"]["tokens_saved_last_day"]) == (2, 14)
        assert rows["tone"]["cost_saved_percentage"] == Decimal("87.50")
        assert rows["setting"]["cost_saved_percentage"] is None
        # Neither a flush nor what is counted twice may change it; the roll-up of another hour is another matter.
        flush(client.connection)


def test_latencies_are_those_of_the_lookups(client):
    """Measured ones lie between nothing and what the client has waited."""
    client.upsert(TONE)
    started = client.database.value("SELECT clock_timestamp()")
    client.lookup(TONE, 50)
    waited = (client.database.value("SELECT clock_timestamp()") - started) / timedelta(milliseconds=1)
    for _ in range(2):
        [row] = report(client.database, "cache_performance_metrics")
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= Decimal(waited) * Decimal("1.25")
        flush(client.connection)


# ── latencies ────────────────────────────────────────────────────────────────────────────────────

def test_quantiles_of_known_latencies(client):
    """The function against a calculation of its own, and within a quarter of the true quantile."""
    dice = random.Random(5)
    for number in range(40):
        latencies = [int(dice.lognormvariate(dice.uniform(2, 14), dice.uniform(0.1, 2))) for _ in range(dice.choice((1, 2, 10, 500)))]
        buckets = buckets_of(latencies)
        if number % 2:
            while buckets[-1:] == [0]:
                buckets.pop()
        for share in (0, 0.01, 0.5, 0.9, 0.95, 0.99, 1):
            found = client.database.value("SELECT cache_latency_ms(%s::float8[], %s)", (buckets, share))
            assert float(found) == pytest.approx(quantile(buckets, share), rel=1e-6, abs=0.000501)
            if share > 0 and max(latencies) < STARTS[-1]:
                exact = sorted(latencies)[ceil(share * len(latencies)) - 1] / 1000
                assert exact * 0.8 - 0.0005 <= float(found) <= exact * 1.25 + 0.0015


@pytest.mark.parametrize("buckets, share, found", [
    (None, 0.5, None), ([], 0.5, None), ([0, 0, 0], 0.5, None), ([None], 0.5, None), ([None, None, 4], 0.5, "0.003"), ([1], None, None),
    ([NAN], 0.5, None), ([NAN, 0, 2], 1, "0.003"), ([INFINITY, 0, 2], 1, "0.003"), ([-INFINITY, 2], 1, "0.002"),
    ([0, 0, 0, 0, 10], 1, "0.005"), ([0] * 36 + [8], 0.25, "1.088"), ([1, 1], 0, "0.000"), ([0.25, 0.25], 1, "0.002"),
    ([-5, 10], 1, "0.002"), ([-5], 0.5, None), ([-5, 5], 1, "0.002"), ([0] * 99 + [1], 1, "67108.864"),
])
def test_odd_histograms(client, buckets, share, found):
    """Weights may be fractions; what is no number of calls counts as none."""
    buckets = None if buckets is None else [None if count is None else float(count) for count in buckets]
    value = client.database.value("SELECT cache_latency_ms(%s::float8[], %s::float8)", (buckets, share))
    assert value == (found and Decimal(found))


# ── windows ──────────────────────────────────────────────────────────────────────────────────────

def roll_up(client, hours_ago, content_type="tone", **columns):
    """A row of the roll-up, of the hour that began so many whole hours before the current one."""
    client.database.execute(
        f"INSERT INTO cache_statistics_hourly (hour, content_type, {', '.join(columns)}) VALUES "
        f"(date_trunc('hour', clock_timestamp(), 'UTC') - %s * interval '1 hour', %s, {', '.join(['%s'] * len(columns))})",
        (hours_ago, content_type, *columns.values()))


def between(client, calculate, column, content_type="tone"):
    """The column lies between what is right before and after the report; shares change by the second."""
    clock = "SELECT extract(epoch FROM clock_timestamp() - date_trunc('hour', clock_timestamp(), 'UTC')) / 3600"
    before = Fraction(client.database.value(clock))
    [row] = [row for row in report(client.database, "cache_performance_metrics") if row["content_type"] == content_type]
    after = Fraction(client.database.value(clock))
    # A new hour has begun meanwhile: then it is looked at from there.
    low, high = sorted((calculate(before), calculate(after + (after < before))))
    assert float(low) - 0.006 <= float(row[column]) <= float(high) + 0.006, (column, float(low), row[column], float(high))


def share(window, hours_ago, into):
    """The share of an hour that lies in a window of so many hours before now, so far into the current one."""
    start = -hours_ago - into
    return max(Fraction(0), min(start + 1, Fraction(0)) - max(start, -Fraction(window))) if hours_ago > 0 else Fraction(1)


def test_windows_of_an_hour_and_of_a_day(client):
    dice = random.Random(3)
    rows = {}
    for hours_ago in (0, 1, 2, 5, 23, 24, 25, 26, 400):
        rows[hours_ago] = {name: dice.randint(1, 1000) for name in ("hits", "misses", "tokens_spent", "tokens_saved")}
        roll_up(client, hours_ago, **rows[hours_ago])
        # Another type's numbers are none of its.
        roll_up(client, hours_ago, "setting", hits=10 ** 6)

    def total(window, into, *names):
        return sum(share(window, hours_ago, into) * sum(row[name] for name in names) for hours_ago, row in rows.items())

    def ratio(window, into):
        return 100 * total(window, into, "hits") / total(window, into, "hits", "misses")

    between(client, lambda into: ratio(1, into), "hit_rate_last_hour")
    between(client, lambda into: ratio(24, into), "hit_rate_last_day")
    between(client, lambda into: total(24, into, "tokens_spent"), "tokens_spent_last_day")
    between(client, lambda into: total(24, into, "tokens_saved"), "tokens_saved_last_day")
    between(client, lambda into: 100 * total(24, into, "tokens_saved") / total(24, into, "tokens_saved", "tokens_spent"), "cost_saved_percentage")


def test_quantiles_of_the_last_hour_weigh_the_hour_before_it(client):
    dice = random.Random(4)
    histograms = {hours_ago: buckets_of([int(dice.lognormvariate(6 + hours_ago, 1)) for _ in range(1000)]) for hours_ago in (0, 1, 2)}
    for hours_ago, buckets in histograms.items():
        roll_up(client, hours_ago, hits=1000, lookup_us=buckets)

    def weighted(into):
        return [sum(share(1, hours_ago, into) * buckets[number] for hours_ago, buckets in histograms.items()) for number in range(BUCKETS)]

    for column, part in (("p50_ms", Fraction(1, 2)), ("p95_ms", Fraction(95, 100)), ("p99_ms", Fraction(99, 100))):
        between(client, lambda into: quantile(weighted(into), part), column)


def test_what_is_long_ago_is_not_recent(client):
    roll_up(client, 30, hits=7, misses=3, tokens_saved=5, lookup_us=[0, 9])
    assert report(client.database, "cache_performance_metrics") == []
    client.upsert(TONE, 2)
    [row] = report(client.database, "cache_performance_metrics")
    assert (row["hit_rate_last_hour"], row["hit_rate_last_day"], row["p50_ms"]) == (None, None, None)
    assert (row["tokens_spent_last_day"], row["tokens_saved_last_day"], row["cost_saved_percentage"]) == (2, 0, 0)


# ── alerts ───────────────────────────────────────────────────────────────────────────────────────

def rule(database, words):
    [row] = [row for row in report(database, "cache_alerts") if words in row["rule"]]
    return row["severity"], row["value"], row["threshold"], row["firing"]


@pytest.mark.parametrize("hits, misses, value, critical, warning", [
    (39, 61, 39, True, True), (399, 601, Decimal("39.9"), True, True), (40, 60, 40, False, True), (549, 451, Decimal("54.9"), False, True),
    (55, 45, 55, False, False), (100, 0, 100, False, False), (0, 100, 0, True, True),
    (0, 99, None, False, False), (0, 0, None, False, False),
])
def test_alert_on_the_hit_rate(client, hits, misses, value, critical, warning):
    """Of the last hour and all types, if there were a hundred lookups."""
    roll_up(client, 0, hits=hits // 2, misses=misses)
    roll_up(client, 0, "setting", hits=hits - hits // 2)
    # Long ago it was another rate.
    roll_up(client, 3, hits=10 ** 6, misses=0 if critical else 10 ** 7)
    assert rule(client.database, "hit rate below 40") == ("critical", value, 40, critical)
    assert rule(client.database, "hit rate below 55") == ("warning", value, 55, warning)


def test_the_hit_rate_of_what_is_not_stored_yet(client):
    client.upsert(TONE)
    client.lookup(TONE, 30)
    client.lookup((ALICE, "setting", "none"), 69)
    assert rule(client.database, "hit rate below 40")[1] is None
    client.lookup((ALICE, "setting", "none"))
    for _ in range(2):
        assert rule(client.database, "hit rate below 40") == ("critical", 30, 40, True)
        flush(client.connection)


@pytest.mark.parametrize("quick, firing", [(1000, False), (950, False), (946, False), (944, True), (0, True)])
def test_alert_on_response_time(client, quick, firing):
    """The 95th percentile of a thousand lookups, of which so many took 1 ms and the others 200."""
    # Those lie, evenly spread, in a bucket that begins below 200 ms and ends above it.
    assert STARTS[bucket_of(200_000)] == 196_608 and STARTS[bucket_of(200_000) + 1] == 229_376
    buckets = buckets_of([1000] * quick + [200_000] * (1000 - quick))
    value = quantile(buckets, Fraction(95, 100))
    assert (value > 200) is firing
    roll_up(client, 0, hits=1000, lookup_us=buckets)
    severity, found, threshold, fires = rule(client.database, "response time")
    assert (severity, threshold, fires) == ("critical", 200, firing)
    assert float(found) == pytest.approx(value, abs=0.000501)


def test_slow_lookups_of_an_earlier_hour_raise_no_alert(client):
    roll_up(client, 2, hits=1000, lookup_us=buckets_of([900_000] * 1000))
    assert rule(client.database, "response time") == ("critical", None, 200, False)


def test_a_renamed_report_says_what_it_was_found_by(client):
    with client.connection.transaction(force_rollback=True):
        client.connection.execute("ALTER FUNCTION cache_alerts() RENAME TO alerts")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
            client.connection.execute("TABLE cache_alerts")
    assert "there is no report alerts()" in str(refused.value)
    assert "RENAME TO" in refused.value.diag.message_hint and "cache_alerts" in refused.value.diag.message_hint


def test_a_report_that_was_dropped_after_its_statement_began(database):
    # With its SET clause, the server itself looks the function up again.
    database.execute("ALTER FUNCTION cache_alerts() RESET ALL")
    with database.connect(autocommit=False) as reader:
        reader.execute("DECLARE alerts CURSOR FOR SELECT * FROM cache_alerts()")
        database.execute("DROP EXTENSION infinite_pages_cache CASCADE")
        # A session notices a change of the catalog when it takes a lock.
        reader.execute("TABLE pg_database")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="there is no report"):
            reader.execute("FETCH alerts")
