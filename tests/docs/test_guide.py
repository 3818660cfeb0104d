"""The deployment guide: every statement in it runs as it stands and does what the text says."""

import re
from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest

from harness.database import Database
from harness.entries import ALICE, BOB, upsert
from harness.roles import temporary_roles
from harness.waiting import wait_until

GUIDE = (Path(__file__).parent / "guide" / "deployment-guide.md").read_text()


def statements_of(block):
    """The statements of a block of SQL; none of the guide's has a semicolon or two hyphens in a literal."""
    return [text for part in re.sub(r"--.*", "", block).split(";") if (text := part.strip())]


BLOCKS = [statements_of(block) for block in re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)]
COMMANDS = re.findall(r'^psql -c "(.*)"$', GUIDE, re.MULTILINE)
STATEMENTS = [statement for block in BLOCKS for statement in block]

# Columns of the views that clients read by name, in their order.
VIEW_COLUMNS = {
    "cache_performance_metrics": "content_type, total_entries, cache_hits, avg_hit_count, avg_tokens_saved, expired_entries, "
                                 "high_priority_entries, last_activity, hit_rate_percentage",
    "partition_health_metrics": "schemaname, partition_name, size, row_count_estimate, partition_age_days",
    "cache_connection_metrics": "database_name, total_connections, active_connections, idle_connections, "
                                "idle_in_transaction, avg_query_duration_seconds",
    "user_cache_analytics": "user_id, total_cache_entries, content_types_used, total_cache_hits, total_tokens_saved, "
                            "avg_reuse_score, last_cache_access, avg_hits_per_entry",
}


@pytest.fixture(scope="module", params=[True, False], ids=["roles", "no_roles"])
def guided(cluster, request):
    """A database in use, where the roles of Supabase exist and where they do not."""
    with temporary_roles(cluster, "anon", "authenticated", "service_role") if request.param else nullcontext():
        database = Database(cluster)
        database.has_roles = request.param
        with database.connect() as connection:
            for number in range(3):
                upsert(connection, '"a"', (ALICE, "story_foundation", f"a{number}"))
            for number in range(4):
                upsert(connection, '"b"', (BOB, "tone", f"b{number}"))
        yield database
        database.drop()


def test_the_copy_is_the_guide_and_all_its_statements_are_found():
    assert len(BLOCKS) == GUIDE.count("```sql") == 6
    assert len(COMMANDS) == GUIDE.count("psql -c") == 7
    assert len(STATEMENTS) == 13


@pytest.mark.parametrize("statement", [s for s in STATEMENTS if not s.startswith("SET role")])
def test_statements_of_the_blocks(guided, statement):
    if "some-uuid" in statement:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            guided.execute(statement)
        statement = statement.replace("some-uuid", ALICE)
    assert guided.execute(statement)


@pytest.mark.parametrize("statement", COMMANDS)
def test_commands_of_psql(guided, cluster, statement):
    cluster.client("psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", guided.name, "-c", statement)


def the(text, among=STATEMENTS):
    """The one statement that contains a text."""
    [statement] = [statement for statement in among if text in statement]
    return statement


def test_a_tenant_sees_only_its_own_rows(guided):
    [block] = [block for block in BLOCKS if "SET role authenticated" in block]
    count = block[-1]
    assert guided.value(count) == 7
    with guided.connect() as connection:
        if not guided.has_roles:
            with pytest.raises(psycopg.errors.InvalidParameterValue, match='role "authenticated" does not exist'):
                connection.execute("SET role authenticated")
            return
        for statement in block[:-1]:
            connection.execute(statement)
        for user, rows in ((None, 0), (ALICE, 3), (BOB, 4)):
            claims = f'{{"sub": "{user}", "role": "authenticated"}}' if user else ""
            connection.execute("SELECT set_config('request.jwt.claims', %s, false)", (claims,))
            assert connection.execute(count).fetchone() == (rows,)
            assert connection.execute("SELECT count(*) FROM user_cache_analytics").fetchone() == (min(rows, 1),)


def test_row_security_is_on_for_every_listed_table(guided):
    tables = dict(guided.execute(the("rowsecurity")))
    # The parent, the current month, and three ahead.
    assert len(tables) >= 5 and "infinite_pages_cache_partitioned" in tables
    assert set(tables.values()) == {True}


@pytest.mark.parametrize("view", VIEW_COLUMNS)
def test_views_have_the_columns_that_clients_use(guided, view):
    with guided.connect() as connection:
        columns = [column.name for column in connection.execute(the(f"FROM {view}")).description]
    assert set(VIEW_COLUMNS[view].split(", ")) <= set(columns)


def test_monitoring_shows_what_is_there(guided):
    performance = guided.execute("SELECT content_type, total_entries FROM cache_performance_metrics ORDER BY 1")
    assert performance == [("story_foundation", 3), ("tone", 4)]
    assert guided.execute("SELECT user_id::text, total_cache_entries FROM user_cache_analytics ORDER BY 2") == [(ALICE, 3), (BOB, 4)]
    # The connections of earlier statements may still be closing.
    wait_until(lambda: guided.value("SELECT total_connections FROM cache_connection_metrics "
                                    "WHERE database_name = current_database()") == 1)
    assert sorted(guided.execute(the("avg(hit_count)"))) == [("story_foundation", 3, 0), ("tone", 4, 0)]


def test_the_audit_log_shows_the_last_day_newest_first(guided):
    with guided.connect() as connection:
        cursor = connection.execute(the("FROM cache_audit_log"))
        columns = [column.name for column in cursor.description]
        rows = [dict(zip(columns, row)) for row in cursor]
    assert [row["cache_key"] for row in rows] == ["b3", "b2", "b1", "b0", "a2", "a1", "a0"]
    assert {(row["action"], row["success"], row["role"]) for row in rows} == {("upsert", True, "postgres")}


PARTITION = ("SELECT c.oid, pg_get_expr(c.relpartbound, c.oid) FROM pg_class c "
             "JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'infinite_pages_cache_partitioned'::regclass WHERE c.relname = %s")


def test_next_months_partition_is_created(guided, cluster):
    command = the("CURRENT_DATE + INTERVAL '1 month'", COMMANDS)
    name, first, after = guided.execute(
        "SELECT 'infinite_pages_cache_' || to_char(d, 'YYYY_MM'), d::text, (d + interval '1 month')::date::text "
        "FROM (SELECT date_trunc('month', CURRENT_DATE + INTERVAL '1 month')::date AS d) next")[0]
    guided.execute(f"DROP TABLE IF EXISTS {name}")
    answer = cluster.client("psql", "-XAt", "-d", guided.name, "-c", command).stdout.strip()
    assert answer == name
    [(oid, bounds)] = guided.execute(PARTITION, (name,))
    assert bounds == f"FOR VALUES FROM ('{first} 00:00:00+00') TO ('{after} 00:00:00+00')"
    # Once more is no error, and leaves it as it is.
    assert cluster.client("psql", "-XAt", "-d", guided.name, "-c", command).stdout.strip() == name
    assert guided.execute(PARTITION, (name,)) == [(oid, bounds)]


def test_a_partition_of_the_past_is_created_by_hand(guided):
    guided.execute("DROP TABLE IF EXISTS infinite_pages_cache_2024_02")
    assert guided.value(the("'2024-02-01'::DATE")) == "infinite_pages_cache_2024_02"
    [(_, bounds)] = guided.execute(PARTITION, ("infinite_pages_cache_2024_02",))
    assert bounds == "FOR VALUES FROM ('2024-02-01 00:00:00+00') TO ('2024-03-01 00:00:00+00')"


def test_partition_constraints_are_shown(guided):
    rows = guided.execute(the("pg_get_expr(relpartbound, oid)"))
    partitions = {name: bounds for _, name, bounds in rows if bounds}
    current = guided.value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")
    assert partitions[f"infinite_pages_cache_{current}"].startswith("FOR VALUES FROM ('" + current.replace("_", "-") + "-01 00:00:00+00')")


def test_the_plan_of_the_guides_slow_query_uses_an_index(guided):
    with guided.connect() as connection:
        # Few rows would be scanned whole.
        connection.execute("SET enable_seqscan = off")
        plan = "\n".join(line for (line,) in connection.execute(the("EXPLAIN ANALYZE").replace("some-uuid", ALICE)))
    assert "infinite_pages_cache" in plan and "user_id_content_type_idx" in plan


def test_cleanup_deletes_what_has_expired(guided, cluster):
    command = the("cleanup_expired_cache_entries_production", COMMANDS)
    guided.execute("INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content, expires_at) "
                   "VALUES (%s, 'x', 'x', '1', now())", (ALICE,))
    row = cluster.client("psql", "-XAt", "-d", guided.name, "-c", command).stdout.strip().split("|")
    current = guided.value("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')")
    assert (row[0], row[3]) == ("1", f"infinite_pages_cache_{current}")
    assert guided.value("SELECT count(*) FROM infinite_pages_cache_partitioned WHERE content_type = 'x'") == 0


@pytest.mark.parametrize("script, call", [
    ("scripts/verify-production-cache.js", "verify_production_cache()"),
    ("scripts/check-partition-health.js", "check_partition_health()"),
])
def test_each_script_of_the_guide_has_a_function_that_finds_nothing_wrong(guided, script, call):
    assert script in GUIDE
    assert guided.execute(f"SELECT * FROM {call} WHERE NOT ok") == []
    assert guided.value(f"SELECT count(*) FROM {call}") > 5


def test_archive_script_has_a_function(guided):
    assert "scripts/archive-audit-logs.js" in GUIDE
    guided.execute("CREATE TABLE cache_audit_log_2024_01 PARTITION OF cache_audit_log "
                   "FOR VALUES FROM ('2024-01-01 00:00:00+00') TO ('2024-02-01 00:00:00+00')")
    guided.execute("INSERT INTO cache_audit_log (action, \"timestamp\") VALUES ('upsert', '2024-01-31')")
    assert guided.execute("SELECT archived_partition, audit_rows FROM archive_audit_logs()") == [("cache_audit_log_2024_01", 1)]
    assert guided.value("SELECT count(*) FROM cache_audit_log WHERE \"timestamp\" < '2024-02-01'") == 0
    assert guided.value("SELECT count(*) FROM cache_audit_archive") == 1


def test_every_alerting_rule_of_the_guide_is_a_rule_of_cache_alerts(guided):
    rules = guided.execute("SELECT severity, rule FROM cache_alerts")
    for severity, words in [("critical", "hit rate below 40"), ("critical", "90 %"), ("critical", "200 ms"), ("critical", "1 GB"),
                            ("warning", "hit rate below 55"), ("warning", "failed"), ("warning", "expired"), ("warning", "unusual access")]:
        assert any(severity == found and words in rule for found, rule in rules), words
