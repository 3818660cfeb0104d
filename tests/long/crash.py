#!/usr/bin/env python
"""Crashes under load: clients write and look up while the worker deletes and drops; at a random moment a process is killed, or the
server stopped at once. Once it is back every acknowledged write must be there and nothing that has expired or was rolled back;
heap and indexes must agree, and maintenance must end what it had begun. Then the disk of a partition runs full.

    python tests/long/crash.py                   50 rounds
    CRASH_ROUNDS=5 python tests/long/crash.py    fewer
"""

import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).parent.parent))
from harness.cluster import PG_CONFIG, Cluster
from harness.database import Database
from harness.entries import CACHE, LONG_AGO, add_entries, expired
from harness.maintenance import slow_down_deletions
from harness.months import add_month, month, name_of
from harness.server_log import defects
from harness.worker import LAUNCHER, WORKER, wait_for_step, wait_until
from long.hostile import set_up
from long.hostile_clients import Client, check_all
from long.hostile_ledger import Ledger

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "50"))
CLIENTS = 8

SETTINGS = {
    "infinite_pages_cache.naptime": "100ms", "log_line_prefix": "%m [%p] %q%a %e ", "restart_after_crash": "on",
    # Checkpoints at any moment, and pages that leave memory.
    "fsync": "on", "max_wal_size": "32MB", "min_wal_size": "32MB", "checkpoint_timeout": "30s", "shared_buffers": "16MB", "autovacuum_naptime": "5s",
}

# What the worker is met at, in the middle of it or not.
STEPS = (None, None, "delete expired entries", "drop dead months", "flush statistics")


def kill_a(kind):
    """Kills one process of a kind."""
    def kill(database, dice):
        pids = [pid for (pid,) in database.cluster.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = %s AND pid <> pg_backend_pid()", (kind,))]
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(pids), signal.SIGKILL)
        return bool(pids)
    kill.__name__ = f"kill -9 of {kind}"
    return kill


def stop_at_once(database, dice):
    database.cluster.restart("immediate")
    return True


def kill_the_postmaster(database, dice):
    database.cluster.kill()
    database.cluster.start()
    return True


CRASHES = (kill_a("client backend"), kill_a("client backend"), kill_a(WORKER), kill_a(LAUNCHER), kill_a("checkpointer"), kill_a("walwriter"),
           stop_at_once, stop_at_once, kill_the_postmaster)


class Crashes:
    """A database that crashes again and again."""

    def __init__(self, cluster, seed=1):
        self.cluster, self.dice = cluster, random.Random(seed)
        self.database = Database(cluster, extension=False)
        set_up(self.database)
        self.database.execute(f"ALTER DATABASE {self.database.name} SET search_path = cache, public")
        # An installation without any of contrib, as one for 16 or 18 may be, has nothing that compares heap and indexes.
        self.amcheck = self.value("SELECT count(*) > 0 FROM pg_available_extensions WHERE name NOT IN ('infinite_pages_cache', 'plpgsql', 'vector')")
        if self.amcheck:
            self.database.execute("CREATE EXTENSION amcheck SCHEMA public")
        # Deletions of expired entries last long enough to be met.
        slow_down_deletions(self.database, "OLD.cache_key LIKE 'slow%'", 0.005)
        self.done, self.operations, self.problems = collections.Counter(), collections.Counter(), []
        self.ledger = Ledger()

    def round(self, number):
        """Load, a crash in the middle of it, and what must be true after it."""
        add_entries(self.database, 100, LONG_AGO, prefix=f"slow {number} ")
        add_month(self.database, -self.dice.randint(6, 20))
        clients = [Client(self.database, self.ledger, client) for client in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(self.dice.uniform(0.3, 2))
        if step := self.dice.choice(STEPS):
            with contextlib.suppress(AssertionError):
                wait_for_step(self.cluster, self.database.name, step, timeout=2)
        crash = self.dice.choice(CRASHES)
        if not crash(self.database, self.dice):
            # There is no such process at the moment.
            crash = stop_at_once
            crash(self.database, self.dice)
        self.done[crash.__name__] += 1
        # The server takes note of it in a moment; clients go on after it, and then come to rest.
        time.sleep(self.dice.uniform(0.2, 0.7))
        self.cluster.wait_until_up()
        for client in clients:
            client.stop.set()
        for client in clients:
            client.join(60)
            self.problems += [f"{client.name} hangs"] if client.is_alive() else []
            self.problems += client.problems
            self.operations += client.done
        found = self.database_problems() + self.ledger.problems
        self.ledger.settle()
        self.problems += [f"round {number}, {crash.__name__}: {problem}" for problem in found]
        self.ledger.problems.clear()

    def database_problems(self):
        with self.database.connect() as connection:
            problems = check_all(connection, self.ledger)
            [(restarted,)] = connection.execute("SELECT pg_postmaster_start_time()")
        problems += self.unless("maintenance does not succeed", lambda: self.value("SELECT last_success > %s FROM cache_maintenance_status", restarted))
        problems += self.unless("expired entries stay", lambda: expired(self.database) == 0)
        problems += self.unless("a dead month stays", lambda: self.value(
            f"SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^infinite_pages_cache_[0-9]{{4}}_' AND relname < %s", name_of(-5)) == 0)
        problems += [f"{table} belongs to nothing" for (table,) in self.rows(
            "SELECT relname FROM pg_class c WHERE relkind IN ('r', 'p') AND relname ~ '_[0-9]{4}_[0-9]{2}$' AND NOT relispartition")]
        problems += [f"verify: {row}" for row in self.rows("SELECT name, detail FROM verify_production_cache() WHERE NOT ok "
                                                            "AND name NOT LIKE 'no maintenance step%%'")]
        if self.amcheck:
            checked = self.cluster.client("pg_amcheck", "--heapallindexed", "--parent-check", "-d", self.database.name, check=False)
            if checked.returncode != 0:
                problems.append(f"pg_amcheck: {checked.stdout[-500:]} {checked.stderr[-500:]}")
        return problems

    def rows(self, sql, *parameters):
        return self.database.execute(sql, parameters or None)

    def value(self, sql, *parameters):
        return self.rows(sql, *parameters)[0][0]

    def unless(self, problem, condition):
        """The problem, unless the condition holds before long."""
        try:
            wait_until(condition, 30)
        except AssertionError:
            return [problem]
        return []


@contextlib.contextmanager
def small_disk(directory, megabytes):
    """A file system of its own; `grow` makes it larger."""
    def run(*command):
        subprocess.run([*([] if os.geteuid() == 0 else ["sudo"]), *command], check=True)
    owner = os.stat(directory.parent)
    directory.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700,uid={owner.st_uid},gid={owner.st_gid}", "none", str(directory))
    try:
        yield lambda size: run("mount", "-o", f"remount,size={size}m", str(directory))
    finally:
        run("umount", "-l", str(directory))


def fill_disk(crashes):
    """This month's partition lies on a disk of its own, which runs full: what was acknowledged stays, everything else goes on, and with
    room again writes do, too. Returns problems."""
    database, dice, problems, written = crashes.database, random.Random(1), [], {}
    partition = f"cache.{name_of(0)}"
    user = "5eed0000-0000-4000-8000-000000000005"

    def write(connection, number):
        text = dice.randbytes(10_000).hex()
        connection.execute("SELECT cache_upsert(%s, 'disk', %s, to_jsonb(%s::text), ttl => 'infinity')", (user, f"d{number}", text))
        written[f"d{number}"] = text

    def missing(connection):
        found = dict(connection.execute("SELECT * FROM cache_lookup_many(%s, 'disk', %s)", (user, list(written))).fetchall())
        return [key for key, text in written.items() if found[key] != text]

    with small_disk(crashes.cluster.directory / "small", 48) as grow:
        connection = database.connect()
        connection.execute(f"CREATE TABLESPACE small LOCATION '{crashes.cluster.directory / 'small'}'")
        connection.execute(f"ALTER TABLE {partition} SET TABLESPACE small")
        for number in range(20_000):
            try:
                write(connection, number)
            except psycopg.errors.DiskFull:
                break
        else:
            problems.append("the disk did not run full")
        problems += [f"{key} is lost while the disk is full" for key in missing(connection)]
        # Other months do not need that disk.
        connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) "
                           "VALUES (%s, 'disk', 'elsewhere', '1', %s, 'infinity')", (user, month(1)))
        crashes.cluster.restart("immediate")
        with database.connect() as connection:
            problems += [f"{key} is lost in a crash with a full disk" for key in missing(connection)]
            grow(96)
            for number in range(20_000, 20_100):
                write(connection, number)
            problems += [f"{key} is lost when there is room again" for key in missing(connection)]
            connection.execute(f"ALTER TABLE {partition} SET TABLESPACE pg_default")
            connection.execute("DROP TABLESPACE small")
            problems += [f"{key} is lost on another disk" for key in missing(connection)]
    print(f"a disk ran full with {len(written)} entries of 20 kB", flush=True)
    return problems + crashes.database_problems()


def crash_often(crashes):
    """Returns problems."""
    for number in range(1, ROUNDS + 1):
        crashes.round(number)
        print(f"round {number}: {sum(crashes.operations.values())} operations, {crashes.ledger.checked} answers checked, {crashes.ledger.hits} of them hits, "
              f"{len(crashes.problems)} problems", flush=True)
    print(*(f"{count:6} x {what}" for what, count in crashes.done.most_common()),
          "clients did: " + ", ".join(f"{what} {count}" for what, count in sorted(crashes.operations.items())), sep="\n")
    return crashes.problems


def on_a_cluster(action):
    """What the action, and the server's log, say is wrong."""
    cluster = Cluster(SETTINGS)
    try:
        return action(Crashes(cluster)) + defects(cluster.log())
    finally:
        if "CRASH_LOG" in os.environ:
            with open(os.environ["CRASH_LOG"], "a") as log:
                log.write(cluster.log())
        cluster.remove()


def main():
    print(f"PostgreSQL of {PG_CONFIG}")
    problems = on_a_cluster(fill_disk) + on_a_cluster(crash_often)
    print(f"{len(problems)} problems", *problems[:100], sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
