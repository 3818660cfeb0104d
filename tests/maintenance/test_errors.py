"""An error says which line of the source raised it, and logs of maintenance keep all that it said."""

import re

import pytest

from harness.cluster import ROOT
from harness.entries import ALICE, CACHE, add_entries
from harness.errors import sqlstate_of
from harness.maintenance import run
from harness.months import add_month, bounds, name_of
from harness.reports import report
from harness.worker import log_of, status, wait_until

# Each refused by another line.
CALLS = [
    f"cache_upsert('{ALICE}', 't', NULL, '1')", f"cache_upsert('{ALICE}', 't', '', '1')", f"cache_upsert('{ALICE}', 't', repeat('k', 2000), '1')",
    f"cache_upsert('{ALICE}', 't', 'k', NULL)", f"cache_upsert('{ALICE}', 't', 'k', '1', priority_tier => 4)",
    f"cache_upsert('{ALICE}', 't', 'k', '1', token_cost => -1)", f"cache_upsert('{ALICE}', 't', 'k', '1', reuse_score => 11)",
    f"cache_upsert('{ALICE}', 't', 'k', '1', ttl => '1 day', expires_at => 'infinity')",
    f"cache_upsert('{ALICE}', 't', 'k', '1', expires_at => '2020-01-01')", f"cache_upsert('{ALICE}', 't', 'k', '1', ttl => '-1 day')",
    "cache_upsert_many('{}')", "cache_upsert_many('[1]')", "cache_upsert_many('[{\"odd\": 1}]')", "cache_upsert_many('[{\"user_id\": \"odd\"}]')",
    "cache_key((repeat('[', 200) || repeat(']', 200))::jsonb)", f"cache_search('{ALICE}', 't', '[]')", f"cache_search('{ALICE}', 't', '{{}}', 0)",
    "drop_old_cache_partitions(0)", "drop_old_cache_partitions(NULL)", "archive_audit_logs('-1 day')", "cache_grant_tenant('nobody of this name')",
    f"cache_invalidate_where('{ALICE}', '{{}}')", "cache_latency_ms('{1}', 2)",
]
RAISES = re.compile(r"Refusal::new\(|\b(missing|invalid|too_large)\(")


def test_an_error_is_located_at_the_line_that_raised_it(database):
    places = set()
    with database.connect() as connection:
        for call in CALLS:
            error = sqlstate_of(lambda: connection.execute(f"SELECT * FROM {call}"))
            file, line = error.source_function, int(error.source_line)
            assert file.startswith("src/") and file.endswith(f"/{error.source_file}"), (call, file)
            assert RAISES.search((ROOT / file).read_text().splitlines()[line - 1]), (call, file, line)
            places.add((file, line))
    assert len(places) == len(CALLS)


def test_psql_and_the_servers_log_show_the_place_of_an_error(database):
    error = sqlstate_of(lambda: database.execute("SELECT drop_old_cache_partitions(0)"))
    place = f"LOCATION:  src/partition/drop.rs, drop.rs:{error.source_line}"
    shown = database.cluster.client("psql", "-X", "-d", database.name, "-f", "-", check=False,
                                    input="SET log_error_verbosity = verbose;\nSELECT drop_old_cache_partitions(0);\n\\errverbose\n")
    assert place in shown.stderr + shown.stdout
    wait_until(lambda: place in database.cluster.log())


REASON = "nothing is deleted here (SQLSTATE 42501). DETAIL: It is wanted. HINT: Drop the trigger."


def forbid_deletions(database):
    database.execute(f"""
        CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN RAISE 'nothing is deleted here' USING ERRCODE = '42501', DETAIL = 'It is wanted.', HINT = 'Drop the trigger.'; END$$;
        CREATE TRIGGER forbid BEFORE DELETE ON {CACHE} FOR EACH ROW EXECUTE FUNCTION forbid()""")
    add_entries(database, 1)


def test_a_step_that_fails_is_logged_with_all_that_the_error_said(database):
    forbid_deletions(database)
    assert run(database)["delete expired entries"] == ["failed", 0, REASON]
    [failed] = [row for row in report(database, "cache_maintenance_log") if row["status"] != "ok"]
    assert failed["detail"] == REASON


def test_the_worker_tells_all_that_the_error_said(served):
    forbid_deletions(served)
    wait_until(lambda: log_of(served, "delete expired entries"))
    assert log_of(served, "delete expired entries")[0]["detail"] == REASON
    wait_until(lambda: status(served)["last_error"] == f"delete expired entries: {REASON}")
    assert f'maintenance step "delete expired entries" failed: {REASON}\n' in served.cluster.log()


def test_a_month_that_cannot_be_dropped_is_kept_with_the_reason(database):
    add_month(database, -8)
    database.execute(f"CREATE VIEW mine AS SELECT * FROM {name_of(-8)}")
    [(name, dropped, detail)] = database.execute("SELECT partition_name, dropped, detail FROM drop_old_cache_partitions()")
    assert (name, dropped) == (name_of(-8), False)
    assert detail == (f"kept: cannot drop table public.{name_of(-8)} because other objects depend on it (SQLSTATE 2BP01). "
                      f"DETAIL: view public.mine depends on table public.{name_of(-8)} HINT: Use DROP ... CASCADE to drop the dependent objects too.")
    assert name_of(-8) in bounds(database)


@pytest.mark.parametrize("held", ["the cache", "the month"])
def test_a_month_that_is_in_use_is_kept_with_the_sqlstate(database, held):
    add_month(database, -8)
    with database.connect(autocommit=False) as reader:
        reader.execute(f"LOCK TABLE ONLY {CACHE if held == 'the cache' else name_of(-8)} IN ACCESS SHARE MODE")
        [(detail,)] = database.execute("SELECT detail FROM drop_old_cache_partitions()")
    assert re.fullmatch(r"kept: .* \(SQLSTATE 55P03\)", detail)
