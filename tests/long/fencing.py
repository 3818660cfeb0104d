#!/usr/bin/env python
"""The adversary of leases: sixteen clients edit, invalidate, generate and store at random, are cancelled and terminated, and now and then
the server crashes. No snapshot may show an answer that was made from an older source than it shows, no key may have two holders,
nobody may wait in the fence for an open transaction, and no tenant may change what becomes of another's answers.

    python tests/long/fencing.py                        10 minutes
    FENCING_SECONDS=60 python tests/long/fencing.py     a short one
"""

import collections
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from harness.cluster import PG_CONFIG, Cluster
from harness.database import Database
from harness.server_log import defects
from harness.waiting import wait_until
from long.fencing_clients import KIND, QUIET, SOURCES, TENANT, USERS, Client, Flooder, Quiet
from long.hostile_clients import Actor, Failed

SECONDS = float(os.environ.get("FENCING_SECONDS", "600"))
CLIENTS = 16
# How long a session may be met in the fence's wait. What it waits for is past its last statement.
LONGEST_WAIT = 2

SETTINGS = {"infinite_pages_cache.naptime": "1s", "log_line_prefix": "%m [%p] %q%a %e ", "deadlock_timeout": "200ms", "restart_after_crash": "on",
            "infinite_pages_cache.max_fetch_waiters": "8",
            # Between its last check and its visibility a commit takes some milliseconds, for others to come in.
            "fsync": "on", "commit_delay": "3000", "commit_siblings": "0"}


def set_up(database):
    database.execute(f"""
        CREATE TABLE source (user_id uuid, name text, version bigint, PRIMARY KEY (user_id, name));
        CREATE TABLE edited (user_id uuid, name text, version bigint, way text);
        CREATE SEQUENCE versions;
        CREATE ROLE {TENANT} NOLOGIN; SELECT cache_grant_tenant('{TENANT}');
        GRANT ALL ON source, edited, versions TO {TENANT}; GRANT SELECT ON cache_leases TO {TENANT};
        INSERT INTO cache_content_policies (content_type, ttl, stale_ttl, lease_ttl) VALUES ('{KIND}', '1 day', '1 hour', '1 second')""")
    for user in USERS:
        for name in SOURCES:
            database.execute("INSERT INTO source VALUES (%s, %s, nextval('versions'))", (user, name))


class Watcher(Actor):
    """Looks who holds what, and who waits for whom."""

    allowed = {"57P01"}

    def __init__(self, database):
        super().__init__(database, "watcher", 1)
        self.met = {}

    def act(self):
        held = self.execute("SELECT user_id, content_type, entry_digest, count(*) FROM cache_leases WHERE state = 'held' GROUP BY 1, 2, 3").fetchall()
        self.done["looks"] += 1
        self.done["leases seen"] += len(held)
        self.problems += [f"two holders of one key: {row}" for row in held if row[3] > 1]
        now = time.monotonic()
        waiting = self.execute("SELECT pid, query_start, query FROM pg_stat_activity WHERE wait_event_type = 'Extension' "
                               "AND backend_type = 'client backend' AND query NOT LIKE '%cache_fetch%'").fetchall()
        self.met = {key: self.met.get(key, now) for key in waiting}
        for key, since in self.met.items():
            if now - since > LONGEST_WAIT:
                self.problems.append(f"waits in the fence for {now - since:.1f} s: {key}")
        time.sleep(0.02)


class Killer(Actor):
    """Cancels and terminates clients; `crash_each` seconds it kills one with -9, and all others go down with it."""

    allowed = {"57P01"}

    def __init__(self, database, clients, crash_each):
        super().__init__(database, "killer", 2)
        self.clients, self.crash_each, self.crashed_at = clients, crash_each, time.monotonic()

    def act(self):
        time.sleep(self.dice.random() * 0.3)
        pid = self.dice.choice(self.clients).pid
        if pid is None:
            return
        if self.crash_each and time.monotonic() - self.crashed_at > self.crash_each:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.done["kill -9"] += 1
            self.crashed_at = time.monotonic()
            self.database.cluster.wait_until_up()
            return
        how = self.dice.choice(("pg_cancel_backend", "pg_cancel_backend", "pg_terminate_backend"))
        self.execute(f"SELECT {how}(%s)", (pid,))
        self.done[how] += 1


def fencing(cluster, seconds, crash_each=None, progress=print):
    """Runs the clients. Returns the problems, and what was done."""
    database = Database(cluster)
    set_up(database)
    clients = [Client(database, number) for number in range(CLIENTS)]
    others = [Quiet(database, crash_each), Flooder(database), Watcher(database)]
    killer = Killer(database, clients, crash_each)
    actors = [*clients, *others, killer]
    for actor in actors:
        actor.start()
    started = time.monotonic()
    while (left := seconds - (time.monotonic() - started)) > 0:
        time.sleep(min(30, left))
        done = sum((client.done for client in clients), collections.Counter())
        progress(f"{time.monotonic() - started:6.0f} s: {done['edits']} edits, {done['stored']} answers stored, {done['refused']} refused, "
                 f"{done['hits']} hits compared, {sum(len(actor.problems) for actor in actors)} problems")
    # The killer last: what hangs is cancelled as before.
    for group in ([*clients, *others], [killer]):
        for actor in group:
            actor.stop.set()
        for actor in group:
            actor.join(60)
    problems = [f"{actor.name} hangs" for actor in actors if actor.is_alive()]
    problems += [problem for actor in actors for problem in actor.problems]
    problems += in_the_end(database)
    done = {name: sum((actor.done for actor in group), collections.Counter()) for name, group in
            (("clients", clients), *((actor.name, [actor]) for actor in (*others, killer)))}
    errors = sum((actor.errors for actor in actors), collections.Counter())
    return problems, done, errors


def in_the_end(database):
    """Nobody is at work: nothing is left of whoever was killed but the time of its lease, and what is served is what the sources are."""
    problems = []
    database.cluster.wait_until_up()
    with contextlib.suppress(AssertionError):
        wait_until(lambda: database.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == 1)
    left = database.execute("SELECT state, storing_pid, waiters FROM cache_leases WHERE state = 'storing' OR storing_pid IS NOT NULL OR waiters > 0")
    problems += [f"a lease that nobody fills or waits for: {row}" for row in left]
    problems += [f"an invalidation that is pending for ever: {row}" for row in database.execute("SELECT * FROM cache_pending_invalidations()")]
    judge = Client(database, 0)
    judge.connect()
    for user in USERS:
        for _ in range(20):
            with contextlib.suppress(Failed):
                judge.check(user)
    judge.connection.close()
    problems += judge.problems
    # Every key can be generated, once what its dead holders had is over.
    time.sleep(1.2)
    for user in (*USERS, QUIET):
        for name in SOURCES:
            state, lease = database.execute("SELECT state, lease FROM cache_fetch(%s, %s, %s)", (user, KIND, f"{name} in the end"))[0]
            if state != "generate" or lease is None:
                problems.append(f"in the end a new key of {user} is told {state} with lease {lease}")
    return problems


def main():
    cluster = Cluster(SETTINGS)
    try:
        print(f"PostgreSQL of {PG_CONFIG}")
        problems, done, errors = fencing(cluster, SECONDS, crash_each=30, progress=lambda line: print(line, flush=True))
        for name, counter in done.items():
            print(f"{name:>8} did: " + ", ".join(f"{what} {count}" for what, count in sorted(counter.items())))
        print("      all were told: " + ", ".join(f"{what} {count}" for what, count in sorted(errors.items())))
        problems += defects(cluster.log())
        print(f"{len(problems)} problems", *problems[:100], sep="\n")
    finally:
        if "FENCING_LOG" in os.environ:
            Path(os.environ["FENCING_LOG"]).write_text(cluster.log())
        cluster.remove()
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
