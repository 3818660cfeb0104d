"""What get_infinite_pages_analytics() tells an application, against an independent calculation from the entries."""

import json
import math
import random
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest

from harness.cluster import ROOT
from harness.entries import ALICE, BOB, CACHE, lookup, upsert
from harness.months import month
from harness.roles import acting, temporary_roles
from harness.tally import flush

KEYS = {"totalTokensSaved", "cacheHitRateByType", "topGenres", "foundationReuseRate", "costSavingsThisMonth", "avgChaptersPerFoundation",
        "mostReusedFoundations", "dailyPerformance", "cacheEfficiencyScore"}


def analytics(connection, user=ALICE):
    [(found,)] = connection.execute("SELECT get_infinite_pages_analytics(%s)::text", (user,)).fetchall()
    found = json.loads(found, parse_float=Decimal)
    return {key: found[key] for key in KEYS}


def rounded(number, places=2):
    number = Fraction(number)
    return (Decimal(number.numerator) / Decimal(number.denominator)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def share(part, whole):
    """Per cent, of nothing 0."""
    return rounded(Fraction(100) * Fraction(part) / Fraction(whole)) if whole else 0


def overlap(entry, now, start, end):
    """The part of an entry's hits that lies between two moments, as if they had come evenly from when it was stored to the last one."""
    last = min(entry["last_accessed"] or entry["created_at"], now)
    first = min(entry["created_at"], last)
    if first == last:
        return Fraction(start <= last < end)
    inside = min(last, end) - max(first, start)
    return max(Fraction(0), Fraction(inside // timedelta(microseconds=1), (last - first) // timedelta(microseconds=1)))


def calculated(entries, now):
    def hit_rate(group):
        hits = sum(entry["hits"] for entry in group)
        return share(hits, hits + len(group))

    def grouped(key):
        groups = defaultdict(list)
        for entry in entries:
            if key(entry):
                groups[key(entry)].append(entry)
        return groups

    total = lambda group: sum((entry["saved"] for entry in group), Decimal(0))
    genres = [{"genre": genre, "efficiency": rounded(sum(map(Fraction, scores)) / len(scores)) if scores else 0, "cacheHitRate": hit_rate(group), "totalSavings": total(group)}
              for genre, group in grouped(lambda entry: (entry["metadata"] or {}).get("genre")).items()
              for scores in [[entry["score"] for entry in group if entry["score"] is not None]]]
    genres.sort(key=lambda genre: (-genre["totalSavings"], -genre["cacheHitRate"], genre["genre"].encode()))
    foundations = [entry for entry in entries if entry["type"] == "story_foundation"]
    reused = [{"title": (entry["variables"] or {}).get("title") or entry["key"], "genre": (entry["metadata"] or {}).get("genre") or (entry["variables"] or {}).get("genre") or "",
               "reuse_count": entry["hits"], "total_savings": entry["saved"]} for entry in foundations if entry["hits"]]
    reused.sort(key=lambda one: (-one["reuse_count"], -one["total_savings"], one["title"].encode()))
    chapters = [entry for entry in entries if entry["type"] == "chapter_content" and entry["foundation"]]
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    daily = []
    for ago in range(6, -1, -1):
        start, end = today - timedelta(days=ago), today - timedelta(days=ago - 1)
        hits = rounded(sum(entry["hits"] * overlap(entry, now, start, end) for entry in entries), 0)
        requests = hits + sum(start <= entry["created_at"] < end for entry in entries)
        daily.append({"date": start.date().isoformat(), "requests": requests, "hits": hits, "hitRate": share(hits, requests),
                      "tokensSaved": rounded(sum(Fraction(entry["saved"]) * overlap(entry, now, start, end) for entry in entries))})
    month_ago = now - timedelta(days=30)
    spent = sum((entry["cost"] for entry in entries), Decimal(0))
    return {
        "totalTokensSaved": total(entries),
        "cacheHitRateByType": {name: hit_rate(group) for name, group in grouped(lambda entry: entry["type"]).items()},
        "topGenres": genres[:5],
        "foundationReuseRate": share(len(reused), len(foundations)),
        "costSavingsThisMonth": rounded(sum(Fraction(entry["saved"]) * overlap(entry, now, month_ago, now + timedelta(days=1)) for entry in entries)),
        "avgChaptersPerFoundation": rounded(Fraction(len(chapters), len({entry["foundation"] for entry in chapters}))) if chapters else 0,
        "mostReusedFoundations": reused[:5],
        "dailyPerformance": daily,
        "cacheEfficiencyScore": share(total(entries), total(entries) + spent),
    }


def assert_same(found, wanted):
    """What lies in a window that moves with the clock differs by a little."""
    assert found.keys() == wanted.keys()
    close = lambda one, other, by: math.isclose(one, other, rel_tol=1e-4, abs_tol=by)
    assert close(found["costSavingsThisMonth"], wanted["costSavingsThisMonth"], 0.02)
    for one, other in zip(found["dailyPerformance"], wanted["dailyPerformance"], strict=True):
        assert one["date"] == other["date"] and close(one["tokensSaved"], other["tokensSaved"], 0.02)
        assert close(one["hits"], other["hits"], 1) and one["requests"] - one["hits"] == other["requests"] - other["hits"]
        assert one["hitRate"] == share(one["hits"], one["requests"])
    for key in KEYS - {"costSavingsThisMonth", "dailyPerformance"}:
        assert found[key] == wanted[key], key


@pytest.mark.parametrize("seed", range(3))
def test_each_figure_is_that_of_an_independent_calculation(database, seed):
    dice = random.Random(seed)
    with database.connect() as connection:
        connection.execute("SET TimeZone = 'Asia/Tokyo'")
        for offset in (-3, -2, -1):
            connection.execute("SELECT create_monthly_cache_partition(%s)", (month(offset).date(),))
        now = connection.execute("SELECT clock_timestamp()").fetchone()[0].astimezone(timezone.utc)
        entries = []
        for number in range(400):
            created = now - timedelta(days=dice.choice([0, 1, 3, 8, 29, 40, 80]), seconds=dice.randrange(1, 80000))
            last = dice.choice([created, None, created + (now - created) * dice.random(), created - timedelta(days=dice.randrange(9)), now - timedelta(minutes=5)])
            genre = dice.choice(["noir", "fantasy", "horror", "romance", "western", "ähre", "", None])
            entries.append({
                "key": f"k{number}", "type": dice.choice(["story_foundation", "chapter_content", "chapter_content", "tone"]), "user": dice.choice([ALICE, ALICE, BOB]),
                "created_at": created, "last_accessed": last, "hits": dice.choice([0, 0, 1, 5, 100, 1000]), "saved": Decimal(0),
                "cost": Decimal(dice.randrange(10 ** 6)) / 1000, "score": dice.choice([None, Decimal("7.5"), Decimal(3), Decimal(10)]),
                "metadata": dice.choice([None, {}, {"genre": genre}, {"genre": genre}, {"genre": genre}]), "foundation": dice.choice([None, "f1", "f2", "f3"]),
                "variables": dice.choice([None, {}, [], {"title": f"Title {number}"}, {"title": f"Title {number}", "genre": "noir"}, {"title": ""}])})
            entries[-1]["saved"] = Decimal(int(entries[-1]["hits"] * entries[-1]["cost"]))
        connection.cursor().executemany(
            f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at, last_accessed, hit_count, token_cost_saved, token_cost, reuse_score, "
            "metadata, foundation_dependency, prompt_variables) VALUES (%(user)s, %(type)s, %(key)s, '1', %(created_at)s, 'infinity', %(last_accessed)s, %(hits)s, %(saved)s, "
            "%(cost)s, %(score)s, %(metadata)s, %(foundation)s, %(variables)s)",
            [{**entry, "metadata": json.dumps(entry["metadata"]) if entry["metadata"] is not None else None,
              "variables": json.dumps(entry["variables"]) if entry["variables"] is not None else None} for entry in entries])
        for entry in entries:
            entry["variables"] = entry["variables"] or {}
        for user in (ALICE, BOB):
            mine = [entry for entry in entries if entry["user"] == user]
            assert_same(analytics(connection, user), calculated(mine, connection.execute("SELECT clock_timestamp()").fetchone()[0].astimezone(timezone.utc)))
        # Hits that are in memory still are in every figure, and a flush moves no more than fractions.
        hot = [entry for entry in entries if entry["user"] == ALICE and connection.execute("SELECT cache_lookup(%s, %s, %s)", (ALICE, entry["type"], entry["key"]))]
        at = connection.execute("SELECT clock_timestamp()").fetchone()[0].astimezone(timezone.utc)
        for entry in hot:
            entry["hits"] += 1
            entry["saved"] += entry["cost"]
            entry["last_accessed"] = at
        mine = [entry for entry in entries if entry["user"] == ALICE]
        assert_same(analytics(connection), calculated(mine, at))
        flush(connection)
        for entry in mine:
            # What all its hits have saved in whole units.
            entry["saved"] = Decimal(int(entry["hits"] * entry["cost"]))
        assert_same(analytics(connection), calculated(mine, at))


def test_a_user_of_whom_there_is_nothing(database):
    nothing = {"totalTokensSaved": 0, "cacheHitRateByType": {}, "topGenres": [], "foundationReuseRate": 0, "costSavingsThisMonth": 0, "avgChaptersPerFoundation": 0,
               "mostReusedFoundations": [], "cacheEfficiencyScore": 0}
    with database.connect() as connection:
        found = analytics(connection)
        daily = found.pop("dailyPerformance")
        assert found == nothing
        assert len(daily) == 7 and all(day | {"date": ""} == {"date": "", "requests": 0, "hits": 0, "hitRate": 0, "tokensSaved": 0} for day in daily)
        today = connection.execute("SELECT (now() AT TIME ZONE 'UTC')::date::text").fetchone()[0]
        assert [day["date"] for day in daily] == [(datetime.fromisoformat(today) - timedelta(days=ago)).date().isoformat() for ago in range(6, -1, -1)]
        # Without a cost, a hit, a score or metadata there is no division by nothing either.
        upsert(connection, "1", (ALICE, "story_foundation", "k"), token_cost=0)
        connection.execute(f"UPDATE {CACHE} SET reuse_score = NULL, metadata = NULL, prompt_variables = NULL, last_accessed = NULL")
        found = analytics(connection)
        assert found.pop("dailyPerformance")[-1] == {"date": today, "requests": 1, "hits": 0, "hitRate": 0, "tokensSaved": 0}
        assert found == nothing | {"cacheHitRateByType": {"story_foundation": 0}}


def test_a_story_application(database):
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, "story_foundation", "f"), token_cost=8, metadata='{"genre": "noir"}', reuse_score=9, prompt_variables='{"title": "The Tram at Night"}')
        upsert(connection, "1", (ALICE, "story_foundation", "g"), token_cost=8)
        for number in range(3):
            upsert(connection, "1", (ALICE, "chapter_content", f"c{number}"), token_cost=5, foundation_dependency="f", metadata='{"genre": "noir"}', reuse_score=3)
        for _ in range(4):
            lookup(connection, (ALICE, "story_foundation", "f"))
        for _ in range(2):
            found = analytics(connection)
            today = found.pop("dailyPerformance")[-1]
            assert (today["requests"], today["hits"], today["hitRate"], today["tokensSaved"]) == (9, 4, Decimal("44.44"), 32)
            assert found == {
                "totalTokensSaved": 32, "cacheHitRateByType": {"story_foundation": Decimal("66.67"), "chapter_content": 0},
                "topGenres": [{"genre": "noir", "efficiency": Decimal("4.5"), "cacheHitRate": 50, "totalSavings": 32}], "foundationReuseRate": 50,
                "costSavingsThisMonth": 32, "avgChaptersPerFoundation": 3,
                "mostReusedFoundations": [{"title": "The Tram at Night", "genre": "noir", "reuse_count": 4, "total_savings": 32}],
                # 32 saved of 8 + 8 + 3 * 5 spent and those.
                "cacheEfficiencyScore": Decimal("50.79")}
            flush(connection)


def test_a_tenant_learns_its_own_figures_alone(database):
    with temporary_roles(database.cluster, "authenticated", "service_role"), database.connect() as connection:
        connection.execute("SELECT cache_grant_tenant('authenticated'), cache_grant_service('service_role')")
        nothing = analytics(connection)
        for user, hits in ((ALICE, 2), (BOB, 5)):
            upsert(connection, "1", (user, "story_foundation", "k"), token_cost=1, metadata='{"genre": "noir"}')
            for _ in range(hits):
                lookup(connection, (user, "story_foundation", "k"))
        for _ in range(2):
            with acting(connection, ALICE):
                assert analytics(connection, ALICE)["totalTokensSaved"] == 2 and analytics(connection, ALICE)["topGenres"][0]["totalSavings"] == 2
                assert analytics(connection, BOB) == nothing
            with acting(connection, ALICE, "service_role"):
                assert analytics(connection, BOB)["totalTokensSaved"] == 5
            flush(connection)


def test_moments_that_are_none_and_hits_of_what_is_gone(database):
    with database.connect() as connection:
        connection.execute(f"CREATE TABLE later PARTITION OF {CACHE} FOR VALUES FROM ('2100-01-01 00:00+00') TO (MAXVALUE)")
        connection.execute(f"CREATE TABLE sooner PARTITION OF {CACHE} FOR VALUES FROM (MINVALUE) TO ('2000-01-01 00:00+00')")
        for number, (created, last) in enumerate([("infinity", "infinity"), ("-infinity", "-infinity"), ("4713-01-01 BC", "now"), ("now", "294276-12-31"), ("now", "4713-01-01 BC"),
                                                  ("2100-01-01", None)]):
            connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at, last_accessed, hit_count, token_cost_saved) "
                               "VALUES (%s, 'tone', %s, '1', %s, 'infinity', %s, 10, 20)", (ALICE, f"k{number}", created, last))
        found = analytics(connection)
        assert found["totalTokensSaved"] == 120 and found["costSavingsThisMonth"] <= 120
        assert all(0 <= day["hits"] <= 60 for day in found["dailyPerformance"])
        # A hit in memory of an entry that is no more saved nobody's entry anything.
        upsert(connection, "1", (ALICE, "themes", "k"), token_cost=7)
        lookup(connection, (ALICE, "themes", "k"))
        assert analytics(connection)["totalTokensSaved"] == 127
        connection.execute("SELECT cache_invalidate(%s, 'themes', 'k')", (ALICE,))
        assert analytics(connection)["totalTokensSaved"] == 120


def test_of_two_versions_of_a_key_the_newest_has_the_hits_in_memory(database):
    with database.connect() as connection:
        connection.execute("SELECT create_monthly_cache_partition(%s)", (month(-1).date(),))
        for created in (month(-1), "now"):
            connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at, token_cost) "
                               "VALUES (%s, 'tone', 'k', '1', %s, 'infinity', 2)", (ALICE, created))
        for _ in range(3):
            lookup(connection, (ALICE, "tone", "k"))
        [(found,)] = connection.execute("SELECT get_infinite_pages_analytics(%s)", (ALICE,)).fetchall()
        assert (found["total_cache_hits"], found["total_tokens_saved"], found["totalTokensSaved"], found["cacheHitRateByType"]) == (3, 6, 6, {"tone": 60})


def test_a_key_of_the_original_is_in_the_docs():
    page = (ROOT / "docs/monitoring.md").read_text()
    assert all(f"| `{key}` |" in page for key in KEYS)
