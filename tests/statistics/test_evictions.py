"""What limits take away is told: by type, in the statistics, in the log, by an alert; and its page shows the limits there are."""

import re
from decimal import Decimal

import pytest

from harness.cluster import ROOT
from harness.entries import ALICE, BOB, CACHE
from harness.maintenance import run
from harness.reports import report
from harness.tally import ONE, flush
from harness.upgrade import UPDATE, old

RULE = "entries evicted by max_entries in the last 24 hours"


def warm_up(database, user, content_type, entries):
    database.execute("SELECT cache_upsert_many((SELECT jsonb_agg(jsonb_build_object('user_id', %s::text, 'content_type', %s::text, "
                     "'cache_key', 'k' || n, 'content', n)) FROM generate_series(1, %s) n))", (user, content_type, entries))


def evictions(database, source="cache_statistics()", column="evictions"):
    return {content_type: number for content_type, number in
            database.execute(f"SELECT content_type, sum({column}) FROM {source} GROUP BY 1") if number}


def alert(database):
    [row] = [row for row in report(database, "cache_alerts") if row["rule"] == RULE]
    return row


def test_a_warm_up_that_the_installed_limits_cut_is_told(database):
    """5,000 entries of a type that keeps 1,000 of a user, as installed."""
    warm_up(database, ALICE, "main_characters", 5000)
    warm_up(database, BOB, "main_characters", 1000)
    warm_up(database, ALICE, "tone", 205)
    assert (alert(database)["value"], alert(database)["firing"]) == (0, False)
    # A run by hand has little time.
    found = []
    while not found or found[-1][1]:
        found.append(run(database)["enforce limits"])
    assert sum(affected for _, affected, _ in found) == 4005 and {status for status, _, _ in found} == {"ok"}
    assert found[-1] == ["ok", 0, None]
    by_type = {}
    for _, _, detail in found[:-1]:
        assert detail.startswith("over max_entries: ")
        for name, number in re.findall(r"(main_characters|tone) (\d+)", detail):
            by_type[name] = by_type.get(name, 0) + int(number)
    expected = {"main_characters": 4000, "tone": 5}
    assert by_type == expected
    assert database.execute(f"SELECT user_id::text, content_type, count(*) FROM {CACHE} GROUP BY 1, 2 ORDER BY 1, 2") == [
        (ALICE, "main_characters", 1000), (ALICE, "tone", 200), (BOB, "main_characters", 1000)]
    with database.connect() as connection:
        flush(connection)
    assert evictions(database) == expected == evictions(database, "cache_statistics_hourly")
    assert evictions(database, "cache_statistics(pending => true)") == {}
    assert evictions(database, "cache_performance_metrics", "evictions_last_day") == expected
    row = alert(database)
    assert (row["severity"], row["value"], row["threshold"], row["firing"]) == ("warning", 4005, 0, True)
    for word in ("max_entries", "cache_content_policies", "main_characters, tone"):
        assert word in row["what_to_do"]


def test_evictions_show_before_a_flush_and_a_rollback_takes_them_back(database):
    database.execute("UPDATE cache_content_policies SET max_entries = 2 WHERE content_type = 'tone'")
    warm_up(database, ALICE, "tone", 5)
    with database.connect() as connection:
        with connection.transaction(force_rollback=True):
            connection.execute("SELECT * FROM cache_run_maintenance()")
        assert evictions(database) == {}
        connection.execute("SELECT * FROM cache_run_maintenance()")
    assert evictions(database, "cache_statistics(pending => true)") == {"tone": 3} == evictions(database)
    assert evictions(database, "cache_performance_metrics", "evictions_last_day") == {"tone": 3}
    assert alert(database)["value"] == 3


def test_an_expired_entry_that_a_limit_takes_is_no_eviction(database):
    database.execute("UPDATE cache_content_policies SET max_entries = 2 WHERE content_type = 'tone'")
    warm_up(database, ALICE, "tone", 3)
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) "
                     f"SELECT '{ALICE}', 'tone', 'old' || n, '1', '2020-01-01' FROM generate_series(1, 4) n")
    assert run(database)["enforce limits"] == ["ok", 5, "over max_entries: tone 5"]
    assert database.execute("SELECT evictions, expirations FROM cache_statistics()") == [(1, 4)]


def test_the_log_names_the_ten_types_that_lost_most(database):
    database.execute("UPDATE cache_content_policies SET max_entries = 1 WHERE content_type = '*'")
    for number in range(2, 15):
        warm_up(database, ALICE, f"type {number:02}", number)
    status, affected, detail = run(database)["enforce limits"]
    assert (status, affected) == ("ok", sum(range(1, 14)))
    assert detail == "over max_entries: " + ", ".join(f"type {number:02} {number - 1}" for number in range(14, 4, -1)) + ", and 3 more types"
    assert alert(database)["what_to_do"].count("type ") == 10 + 1


def test_evictions_of_the_last_24_hours_only(database):
    database.execute("INSERT INTO cache_statistics_hourly (hour, content_type, evictions) SELECT "
                     "date_trunc('hour', clock_timestamp(), 'UTC') - h * interval '1 hour', 'tone', 10 ^ (h / 10) FROM unnest(ARRAY[0, 10, 30]) h")
    assert alert(database)["value"] == 11
    database.execute("DELETE FROM cache_statistics_hourly WHERE hour > now() - interval '25 hours'")
    assert (alert(database)["value"], alert(database)["firing"]) == (0, False)


# ── tables and functions of an earlier version ───────────────────────────────────────────────────

def test_a_roll_up_without_the_column_gets_all_else_and_the_evictions_later(database):
    """As after the restore of an old dump, until cache_setup()."""
    database.execute("ALTER TABLE cache_statistics_hourly DROP COLUMN evictions")
    database.execute("UPDATE cache_content_policies SET max_entries = 2 WHERE content_type = 'tone'")
    warm_up(database, ALICE, "tone", 5)
    with database.connect() as connection:
        for hits in (1, 2):
            assert run(database)["enforce limits"][0] == "ok"
            connection.execute(ONE, (ALICE, "tone", database.value(f"SELECT min(cache_key) FROM {CACHE}")))
            flush(connection)
            assert database.execute("SELECT hits, upserts FROM cache_statistics_hourly") == [(hits, 5)]
            for _ in range(2):
                assert evictions(database, "cache_statistics(pending => true)") == {"tone": 3}
                assert evictions(database, "cache_performance_metrics", "evictions_last_day") == {"tone": 3}
                assert alert(database)["value"] == 3
                # There is nothing else to store.
                assert flush(connection) == (0, 0, 0, 0)
        connection.execute("SELECT cache_setup()")
        assert database.execute("SELECT attnotnull FROM pg_attribute WHERE attrelid = 'cache_statistics_hourly'::regclass AND attname = 'evictions'") == [(True,)]
        assert flush(connection) == (0, 0, 1, 0)
    assert database.execute("SELECT hits, upserts, evictions FROM cache_statistics_hourly") == [(2, 5, 3)]
    assert alert(database)["value"] == 3


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_evictions_with_the_sql_of_an_old_version(cluster, known, version):
    """It has no column for them: they are told by the alert once the update has added it."""
    database = old(cluster, version)
    database.execute("UPDATE cache_content_policies SET max_entries = 5 WHERE content_type = 'setting'")
    with database.connect() as connection:
        flush(connection)
        [(status, affected, detail)] = connection.execute(
            "SELECT status, affected, detail FROM cache_run_maintenance() WHERE step = 'enforce limits'").fetchall()
        assert status == "ok" and affected > 0 and detail == f"over max_entries: setting {affected}"
        assert connection.execute("SELECT count(*) FROM cache_statistics() WHERE content_type = 'setting'").fetchone() == (1,)
        flush(connection)
        assert len(connection.execute("SELECT * FROM cache_performance_metrics").description) == 20
        assert len(connection.execute("SELECT * FROM cache_statistics()").description) == 13
    assert (alert(database)["value"], alert(database)["firing"]) == (0, False)
    with database.connect() as connection:
        connection.execute(UPDATE)
        flush(connection)
    assert alert(database)["value"] == affected == evictions(database, "cache_statistics_hourly")["setting"]
    database.drop()


# ── what is installed ────────────────────────────────────────────────────────────────────────────

def test_the_page_of_content_policies_shows_those_that_are_installed(database):
    shown = re.search(r"^\| content type \| ttl \| token_cost \| max_entries \| priority_tier \|\n\|[-| ]+\n((?:\|.*\n)+)",
                      (ROOT / "docs/content-policies.md").read_text(), re.M)[1]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in shown.splitlines()]
    installed = database.execute("SELECT content_type, ttl, token_cost, max_entries, priority_tier FROM cache_content_policies")
    found = {content_type: (days, Decimal(cost), limit, int(tier)) for content_type, days, cost, limit, tier in rows}
    assert len(rows) == len(found) == len(installed) == 32
    assert found == {content_type: (f"{ttl.days} day{'s' if ttl.days > 1 else ''}", cost, str(limit) if limit else "–", tier)
                     for content_type, ttl, cost, limit, tier in installed}
