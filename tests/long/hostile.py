#!/usr/bin/env python
"""A hostile run: clients look up and write, in transactions that roll back, are cancelled and terminated, while others move,
detach, drop and make anew what they use. Checks each answer, prints what was done, and fails on a wrong answer, on an error
that none of this can lead to, and on anything in the server's log that tells of a defect.

    python tests/long/hostile.py                        10 minutes
    HOSTILE_SECONDS=60 python tests/long/hostile.py     a short one
"""

import collections
import contextlib
import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from harness.cluster import PG_CONFIG, Cluster
from harness.database import Database
from harness.entries import CACHE
from harness.server_log import defects
from harness.worker import wait_until
from long.hostile_clients import OWNER, READER, TENANT, Client, check_all
from long.hostile_ddl import OF_ITSELF, Grantor, Indexer, Killer, Maintainer, Months, Mover, Reader, Rights
from long.hostile_ledger import Ledger

SECONDS = float(os.environ.get("HOSTILE_SECONDS", "600"))
CLIENTS = 16

SETTINGS = {
    "infinite_pages_cache.naptime": "1s", "log_line_prefix": "%m [%p] %q%a %e ", "deadlock_timeout": "200ms",
    # So that what is kept beyond its time is noticed, and plans and catalogs are read anew often.
    "autovacuum_naptime": "5s", "shared_buffers": "16MB",
}


# Errors that no user should ever see, by their code, or in what the worker tells of a step that has failed.
INTERNAL = re.compile(r" XX\w{3} (ERROR|FATAL|WARNING):|WARNING:  .*(cache lookup failed|could not open relation with OID|tuple concurrently| is gone)")


def set_up(database):
    database.execute(f"""
        CREATE SCHEMA cache; CREATE SCHEMA elsewhere; CREATE EXTENSION infinite_pages_cache SCHEMA cache;
        CREATE ROLE {OWNER} NOLOGIN; ALTER DATABASE {database.name} OWNER TO {OWNER}; CREATE ROLE {TENANT} NOLOGIN; CREATE ROLE hostile_members NOLOGIN;
        CREATE ROLE {READER} NOLOGIN BYPASSRLS; GRANT hostile_members TO {READER};
        GRANT USAGE, CREATE ON SCHEMA cache, elsewhere TO {OWNER};
        DO $$ DECLARE t regclass; BEGIN
            FOR t IN SELECT c.oid FROM pg_class c WHERE relnamespace = 'cache'::regnamespace AND relkind IN ('r', 'p') LOOP
                EXECUTE format('ALTER TABLE %s OWNER TO {OWNER}', t);
            END LOOP;
        END $$;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cache TO {OWNER};
        SELECT cache.cache_grant_tenant('{TENANT}');
        GRANT USAGE ON SCHEMA cache TO hostile_members; GRANT SELECT ON cache.{CACHE} TO hostile_members;
        -- A function that a session can call without the schema: only what it calls needs the rights.
        CREATE FUNCTION public.read_for_hostile(uuid, text, text) RETURNS jsonb LANGUAGE plpgsql AS $$
        BEGIN
            RETURN cache.cache_lookup($1, $2, $3);
        EXCEPTION WHEN invalid_schema_name OR undefined_function THEN
            RETURN renamed.cache_lookup($1, $2, $3);
        END $$""")


def hostile(cluster):
    database = Database(cluster, extension=False)
    set_up(database)
    ledger, rights = Ledger(), Rights()
    clients = [Client(database, ledger, number) for number in range(CLIENTS)]
    readers = [Reader(database, ledger, rights, number) for number in range(2)]
    disruptors = [Months(database, ledger, 0), Months(database, ledger, 1), Mover(database), Indexer(database), Grantor(database, rights), Maintainer(database)]
    killer = Killer(database, clients + readers + disruptors)
    actors = [*clients, *readers, *disruptors, killer]
    for actor in actors:
        actor.start()
    started = time.monotonic()
    while (left := SECONDS - (time.monotonic() - started)) > 0:
        time.sleep(min(30, left))
        count = sum(sum(client.done.values()) for client in clients)
        problems = len(ledger.problems) + sum(len(actor.problems) for actor in actors)
        print(f"{time.monotonic() - started:6.0f} s: {count} operations, {ledger.checked} answers checked, {ledger.hits} of them hits, {problems} problems", flush=True)
    # The killer last: what hangs is cancelled as before.
    for group in (clients + readers + disruptors, [killer]):
        for actor in group:
            actor.stop.set()
        for actor in group:
            actor.join(60)
    problems = [f"{actor.name} hangs" for actor in actors if actor.is_alive()]
    problems += ledger.problems + [problem for actor in actors for problem in actor.problems]
    problems += in_the_end(database, ledger)
    show(clients, readers, disruptors, killer)
    log = cluster.log()
    problems += defects(log) + [line for line in log.splitlines() if INTERNAL.search(line) and not OF_ITSELF.search(line)]
    return problems


def in_the_end(database, ledger):
    """With everything brought home, the cache is whole, and both ways lead to the newest version of each entry."""
    problems = []
    with database.connect() as connection:
        home = connection.execute("SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'infinite_pages_cache'").fetchone()[0]
        connection.execute(f"SET search_path = {home}, public")
        pending = connection.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhdetachpending").fetchall()
        for (partition,) in pending:
            connection.execute(f"ALTER TABLE {CACHE} DETACH PARTITION {partition} FINALIZE")
        # What an interrupted statement has left behind an operator drops.
        for (index,) in connection.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid").fetchall():
            connection.execute(f"DROP INDEX {index}")
        connection.execute("SELECT cache_setup()")
        seen = connection.execute("SELECT last_run FROM cache_maintenance_status").fetchone()[0]
        for _ in range(12):
            # A reload has the worker try at once what failed, if the launcher is there to hear of it.
            connection.execute("SELECT pg_reload_conf()")
            with contextlib.suppress(AssertionError):
                wait_until(lambda: connection.execute("SELECT last_success > %s FROM cache_maintenance_status", (seen,)).fetchone()[0], 5)
                break
        problems += [f"verify: {row}" for row in connection.execute(
            "SELECT name, detail FROM verify_production_cache() WHERE NOT ok AND name <> 'no maintenance step failed lately'").fetchall()]
        problems += check_all(connection, ledger)
    return problems


def show(clients, readers, disruptors, killer):
    print(f"PostgreSQL of {PG_CONFIG}")
    for name, group in (("clients", clients), ("readers", readers), *((actor.name, [actor]) for actor in (*disruptors, killer))):
        done = sum((actor.done for actor in group), collections.Counter())
        errors = sum((actor.errors for actor in group), collections.Counter())
        for title, counter in (("did", done), ("was told", errors)):
            print(f"{name:>11} {title:>8}: " + ", ".join(f"{what} {count}" for what, count in sorted(counter.items())))


def main():
    cluster = Cluster(SETTINGS)
    try:
        problems = hostile(cluster)
        print(f"{len(problems)} problems", *problems[:100], sep="\n")
    finally:
        if "HOSTILE_LOG" in os.environ:
            Path(os.environ["HOSTILE_LOG"]).write_text(cluster.log())
        cluster.remove()
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
