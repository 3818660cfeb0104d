"""Maintenance by hand, its steps, and triggers that slow it down."""

import time

from harness.entries import CACHE

# The steps of maintenance, in the order of a run by hand. The tests compare the server with this list: it must do these steps, in this order, and
# take their names in skip_steps. So the list is written down here, not asked for.
STEPS = ["premake partitions", "premake audit partitions", "summarize", "analyze", "trim statistics", "trim maintenance log",
         "flush statistics", "enforce limits", "delete expired entries", "secure partitions", "drop dead months", "retention",
         "trim audit log"]
# Seconds: what tests of waits set infinite_pages_cache.lock_timeout to.
LOCK_TIMEOUT = 0.3


def run(database, **settings):
    """Run maintenance, under settings of the extension. Returns status, affected and detail of each step."""
    with database.connect() as connection:
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (f"infinite_pages_cache.{name}", str(value)))
        return {step: row for step, *row in connection.execute("SELECT step, status, affected, detail FROM cache_run_maintenance()")}


def maintained(connection, seconds=30):
    """Run maintenance, after the worker's run if there is one. Returns step, status and detail of each step."""
    deadline = time.monotonic() + seconds
    while True:
        steps = connection.execute("SELECT step, status, detail FROM cache_run_maintenance()").fetchall()
        if steps != [("run", "skipped", "another run is in progress")] or time.monotonic() > deadline:
            return steps
        time.sleep(0.05)


def slow_down_deletions(database, condition, seconds):
    """Let each deletion of a row that meets a condition take so many seconds."""
    database.execute(f"""
        CREATE FUNCTION slow_down() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END';
        CREATE TRIGGER slow_down AFTER DELETE ON {CACHE} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION slow_down()""")


def speed_up_deletions(database):
    database.execute(f"DROP TRIGGER slow_down ON {CACHE}; DROP FUNCTION slow_down()")
