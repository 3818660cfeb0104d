"""reports and maintenance of a large cache

Entries of 1 to 2 kB of 30 content types, a hundred for each user; 400 days of hourly statistics and 30 days of
maintenance every five minutes. Each report is called once before it is measured. A report should take less than 50 ms."""

import time

from .. import data, server
from ..measure import alternating, progress, table
from ..targets import TARGETS, Reached

TARGET = TARGETS["views"][-1]
ROUNDS = 5
PLACES = 65_536

# Views that a monitoring system polls, whole.
METRICS = ("cache_alerts", "cache_performance_metrics", "partition_health_metrics", "cache_connection_metrics", "user_cache_analytics")

# Reports are read as docs/monitoring.md reads them.
REPORTS = {
    "cache_alerts": "SELECT * FROM cache_alerts",
    "cache_performance_metrics": "SELECT * FROM cache_performance_metrics",
    "partition_health_metrics": "SELECT * FROM partition_health_metrics",
    "cache_connection_metrics": "SELECT * FROM cache_connection_metrics",
    "user_cache_analytics": "SELECT * FROM user_cache_analytics",
    "user_cache_analytics, 10 rows": "SELECT * FROM user_cache_analytics LIMIT 10",
    "cache_maintenance_log": "SELECT * FROM cache_maintenance_log",
    "cache_maintenance_log, 10 rows": "SELECT * FROM cache_maintenance_log LIMIT 10",
    "cache_maintenance_status": "SELECT * FROM cache_maintenance_status",
    "cache_statistics_hourly, a day": "SELECT * FROM cache_statistics_hourly WHERE hour >= now() - interval '1 day'",
    "cache_statistics()": "SELECT * FROM cache_statistics()",
    "cache_pending_hits()": "SELECT * FROM cache_pending_hits()",
    "verify_production_cache()": "SELECT * FROM verify_production_cache()",
    "check_partition_health()": "SELECT * FROM check_partition_health()",
    "get_infinite_pages_analytics()": "SELECT get_infinite_pages_analytics(md5('user 7')::uuid)",
}

HISTORY = """
    INSERT INTO cache_statistics_hourly (hour, content_type, hits, misses, upserts, tokens_spent, tokens_saved, lookup_us, upsert_us)
    SELECT hour, content_type, 3000, 1000, 1000, 2000, 6000,
           (SELECT array_agg(greatest(0, 100 - abs(bucket - 20) * 10)) FROM generate_series(1, 60) bucket),
           (SELECT array_agg(greatest(0, 100 - abs(bucket - 40) * 10)) FROM generate_series(1, 60) bucket)
    FROM generate_series(date_trunc('hour', now()) - interval '400 days', now(), '1 hour') hour, cache_content_policies
    WHERE content_type <> '*'
    ON CONFLICT DO NOTHING;
    INSERT INTO cache_maintenance_runs (run_at, step, status, affected, duration_ms, role)
    SELECT run_at, 'step ' || step, 'ok', step, step, session_user
    FROM generate_series(now() - interval '30 days', now(), '5 minutes') run_at, generate_series(1, 10) step;
    ANALYZE cache_statistics_hourly, cache_maintenance_runs"""


def run(options):
    with server.start(options.entries) as one, one.connect() as connection:
        progress("views: history …")
        connection.execute(HISTORY)
        connection.execute("VACUUM cache_statistics_hourly")
        progress("views: maintenance …")
        yield maintenance(connection)
        reports = {name: sql for name, sql in REPORTS.items() if exists(connection, name)}
        progress("views: reports …")
        without = measured(connection, reports)
        pending = min(PLACES, options.entries)
        one.execute(f"""SELECT count(cache_lookup({data.user(options.entries)}, {data.content_type(options.entries)}, {data.cache_key()}))
                        FROM (SELECT number * {options.entries // pending} AS n FROM generate_series(0, {pending - 1}) number) k""")
        found = connection.execute("SELECT count(*) FROM cache_pending_hits()").fetchone()[0]
        progress(f"views: reports with {found:,} pending hits …")
        summarized = connection.execute("SELECT count(*) FROM cache_entry_summary").fetchone()[0] > 0
        with_hits = measured(connection, reports)
        yield table(
            (f"{options.entries:,} entries, {'summarized' if summarized else 'not summarized'}", "rows", "target, ms",
             "no hits pending, ms", f"hits of {found:,} entries pending, ms"),
            [(name, f"{with_hits[name]['rows'].median:,.0f}", f"< {TARGET}", f"{without[name]['ms']:.1f}", f"{with_hits[name]['ms']:.1f}")
             for name in reports])
        slowest, figure = max(((name, found[name]["ms"]) for found in (without, with_hits) for name in METRICS), key=lambda pair: pair[1].median)
        yield Reached("views", figure, work=f"slowest metrics view, {options.entries:,} entries, ms", against=slowest)


def exists(connection, name):
    """Returns whether this version has the relation or function."""
    name = name.split(",")[0].split("(")[0]
    return connection.execute("SELECT to_regclass(%s) IS NOT NULL OR to_regproc(%s) IS NOT NULL", (name, name)).fetchone()[0]


def measured(connection, reports):
    return alternating(ROUNDS, **{name: lambda sql=sql: timed(connection, sql) for name, sql in reports.items()})


def timed(connection, sql):
    """Returns the time until the client has all rows."""
    began = time.monotonic()
    cursor = connection.execute(sql)
    return {"ms": (time.monotonic() - began) * 1000, "rows": cursor.rowcount}


def maintenance(connection):
    """Measures the steps of maintenance in the first run, and in those after it."""
    def run():
        rows = connection.execute("SELECT step, status, duration_ms, affected, detail FROM cache_run_maintenance()").fetchall()
        failed = [row for row in rows if row[1] != "ok"]
        if failed:
            raise RuntimeError(f"maintenance has failed: {failed}")
        return {row[0]: float(row[2]) for row in rows} | {"all": float(sum(row[2] for row in rows))}

    first = run()
    later = alternating(ROUNDS, maintenance=run)["maintenance"]
    return table(("step of maintenance", "first run, ms", "later runs, ms"),
                 [(name, f"{first[name]:.1f}", f"{figure:.1f}") for name, figure in later.items()])
