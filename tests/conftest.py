"""A private cluster for the whole run, and a fresh database with the extension for each test."""

import contextlib
import itertools
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest
from harness.server_log import defects

ROOT = Path(__file__).resolve().parent.parent
# Suites import from each other.
sys.path += [str(folder) for folder in Path(__file__).parent.iterdir() if folder.is_dir()]


def bindir_of(pg_config):
    return Path(subprocess.check_output([pg_config, "--bindir"], text=True).strip())


PG_CONFIG = os.environ.get("PG_CONFIG", "/usr/lib/postgresql/15/bin/pg_config")
BINDIR = bindir_of(PG_CONFIG)

# Clusters live in memory where there is plenty: creating a database takes a third of the time.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 4 << 30 else None

# The steps of maintenance, in the order of a run by hand.
STEPS = ["premake partitions", "premake audit partitions", "summarize", "analyze", "trim statistics", "trim maintenance log",
         "flush statistics", "enforce limits", "delete expired entries", "secure partitions", "drop dead months", "retention",
         "trim audit log"]

ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"


def as_server_user(command):
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else list(command)


class Cluster:
    """A cluster of its own: initdb, start, stop, and the client programs of its version."""

    # What clients of its databases connect to instead, if anything.
    bouncer = None
    # Where its programs are.
    bindir = BINDIR

    def __init__(self, settings=None, environment=None, bindir=BINDIR):
        settings = dict(settings or {})
        self.bindir = bindir
        if "infinite_pages_cache.naptime" not in settings:
            # The worker runs, and leaves the tables alone: no tick comes between what a test does and sees.
            settings.setdefault("infinite_pages_cache.skip_steps", ", ".join(STEPS))
        self.directory = Path(tempfile.mkdtemp(prefix="ipc-test-", dir=MEMORY))
        self.directory.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(self.directory, pwd.getpwnam("postgres").pw_uid, -1)
        self.data = self.directory / "data"
        self.environment = {**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})}
        self.create()
        self.configure({"unix_socket_directories": str(self.directory), **settings})
        self.start()

    def create(self):
        self.run_server("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                        "--locale=C.UTF-8", "--no-sync", environment=os.environ)
        self.configure({"listen_addresses": "", "fsync": "off", "max_connections": 120,
                        "shared_preload_libraries": "infinite_pages_cache"})

    def configure(self, settings):
        lines = "".join(f"{name} = '{value}'\n" for name, value in settings.items())
        subprocess.run(as_server_user(["tee", "-a", str(self.data / "postgresql.conf")]), input=lines, text=True,
                       check=True, stdout=subprocess.DEVNULL)

    def run_server(self, program, *arguments, environment=None):
        subprocess.run(as_server_user([str(self.bindir / program), *map(str, arguments)]), check=True, cwd="/",
                       env=environment or self.environment, stdout=subprocess.DEVNULL)

    def start(self):
        self.run_server("pg_ctl", "-D", self.data, "-l", self.directory / "log", "-w", "start")

    def stop(self, mode="fast"):
        self.run_server("pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def restart(self, mode="fast"):
        self.stop(mode)
        self.start()

    def kill(self):
        """Kills the postmaster; every other process has to notice, or the server cannot be started again."""
        postmaster = (self.data / "postmaster.pid").read_text().split()[0]
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        os.kill(int(postmaster), signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 10)

    def remove(self):
        """Fails when the server's log tells of a defect."""
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        found = defects(self.log())
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not found, "the server's log tells of defects:\n" + "\n".join(found[:20])

    def log(self):
        return (self.directory / "log").read_text(errors="replace")

    def connect(self, dbname="postgres", user="postgres", **options):
        options.setdefault("autocommit", True)
        return psycopg.connect(host=str(self.directory), dbname=dbname, user=user, **options)

    def execute(self, sql, parameters=None):
        with self.connect() as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else None

    def set(self, **settings):
        """Sets settings of the extension for the whole server, None to take one back."""
        with self.connect() as connection:
            for name, value in settings.items():
                name = f"infinite_pages_cache.{name}"
                connection.execute(f"ALTER SYSTEM RESET {name}" if value is None else f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")

    def wait_until_up(self, timeout=30):
        """Waits until a server that recovers from a crash takes connections again."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self.connect().close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self.log()[-4000:]
                time.sleep(0.05)

    def client(self, program, *arguments, **options):
        """Runs psql, pg_dump … against the cluster; raises when it fails, unless check=False."""
        options.setdefault("check", True)
        environment = {**os.environ, "PGHOST": str(self.directory), "PGUSER": "postgres",
                       **options.pop("environment", {})}
        try:
            return subprocess.run([str(self.bindir / program), *map(str, arguments)], env=environment, text=True,
                                  capture_output=True, **options)
        except subprocess.CalledProcessError as error:
            print(error.stderr, file=sys.stderr)
            raise


class Standby(Cluster):
    """A streaming standby of a running cluster."""

    def __init__(self, primary, settings=None):
        self.primary = primary
        super().__init__(settings)

    def create(self):
        self.run_server("pg_basebackup", "-h", self.primary.directory, "-U", "postgres", "-D", self.data,
                        "--write-recovery-conf", "--checkpoint=fast", "--no-sync")

    def wait_until_caught_up(self):
        [(sent,)] = self.primary.execute("SELECT pg_current_wal_flush_lsn()")
        wait_until(lambda: self.execute("SELECT pg_last_wal_replay_lsn() >= %s", (sent,))[0][0])


class ClockCluster(Cluster):
    """A cluster whose clock the test sets, by tests/harness/clock.c. (libfaketime hangs now and then in signal handlers, and
    shows the true time to background workers of PostgreSQL 15 and older.)"""

    def __init__(self, settings=None, bindir=BINDIR):
        self.clock = Path(tempfile.mkdtemp(prefix="ipc-clock-"))
        self.clock.chmod(0o755)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", self.clock / "clock.so", ROOT / "tests/harness/clock.c"], check=True)
        (self.clock / "offset").write_bytes(bytes(8))
        super().__init__(settings, {"LD_PRELOAD": str(self.clock / "clock.so"), "CLOCK_FILE": str(self.clock / "offset")}, bindir)

    def set_clock(self, moment):
        """From now on the server's clock runs from this moment."""
        microseconds = (moment - datetime.now(timezone.utc)) // timedelta(microseconds=1)
        with open(self.clock / "offset", "r+b", buffering=0) as file:
            file.write(microseconds.to_bytes(8, sys.byteorder, signed=True))

    def remove(self):
        try:
            super().remove()
        finally:
            shutil.rmtree(self.clock, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster():
    cluster = Cluster()
    if settings := os.environ.get("IPC_BOUNCER"):
        from harness.bouncer import Bouncer
        cluster.bouncer = Bouncer(cluster, json.loads(settings))
    yield cluster
    if cluster.bouncer:
        cluster.bouncer.stop()
    cluster.remove()


@pytest.fixture(scope="session")
def worker_cluster():
    """A cluster whose worker ticks five times a second."""
    cluster = Cluster({"infinite_pages_cache.naptime": "200ms", "autovacuum": "off", "statement_timeout": "60s"})
    yield cluster
    cluster.remove()


@pytest.fixture
def served(worker_cluster):
    """A database that the worker serves."""
    database = Database(worker_cluster)
    yield database
    database.drop()


@pytest.fixture(scope="session")
def clock_cluster():
    cluster = ClockCluster()
    yield cluster
    cluster.remove()


_numbers = itertools.count()


class Database:
    """A database with the extension."""

    def __init__(self, cluster, extension=True):
        self.cluster = cluster
        self.name = f"test_{next(_numbers)}"
        with cluster.connect() as connection:
            connection.execute(f"CREATE DATABASE {self.name}")
        if extension:
            self.execute("CREATE EXTENSION infinite_pages_cache")

    @classmethod
    def existing(cls, cluster, name):
        """One that the test has not made by this class."""
        database = cls.__new__(cls)
        database.cluster, database.name = cluster, name
        return database

    def connect(self, user="postgres", **options):
        return (self.cluster.bouncer or self.cluster).connect(self.name, user, **options)

    def execute(self, sql, parameters=None):
        """Runs statements on a connection of their own; returns the rows of the last one, if it has any."""
        with self.connect() as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else None

    def value(self, sql, parameters=None):
        return self.execute(sql, parameters)[0][0]

    def contents(self):
        """Every row of every table of the extension's schema, digested: equal when nothing has changed."""
        with self.connect() as connection:
            tables = connection.execute(
                "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_extension e ON e.extnamespace = c.relnamespace "
                "WHERE e.extname = 'infinite_pages_cache' AND c.relkind = 'r' ORDER BY 1").fetchall()
            return {table: connection.execute(
                f"SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {table} t").fetchone()
                for (table,) in tables}

    def drop(self):
        with self.cluster.connect() as connection:
            connection.execute(f"DROP DATABASE {self.name} WITH (FORCE)")


@pytest.fixture
def database(cluster):
    database = Database(cluster)
    yield database
    database.drop()


@pytest.fixture
def empty_database(cluster):
    """A database without the extension."""
    database = Database(cluster, extension=False)
    yield database
    database.drop()


@pytest.fixture
def roles(cluster):
    """The roles of PostgREST and Supabase; dropped after the test, so that others run without them."""
    with temporary_roles(cluster, "anon", "authenticated", "service_role") as names:
        yield names


@contextlib.contextmanager
def temporary_roles(cluster, *names):
    with cluster.connect() as connection:
        for name in names:
            connection.execute(f"CREATE ROLE {name} NOLOGIN")
    try:
        yield list(names)
    finally:
        with cluster.connect() as connection:
            databases = connection.execute("SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0'").fetchall()
            for (name,) in databases:
                with cluster.connect(name) as other:
                    for role in names:
                        other.execute(f"DROP OWNED BY {role}")
            for name in names:
                connection.execute(f"DROP ROLE {name}")


def together(*actions):
    """Runs actions at the same time, each in a thread; returns their results, raises their first error."""
    with ThreadPoolExecutor(len(actions)) as pool:
        return [future.result() for future in [pool.submit(action) for action in actions]]


def wait_until(condition, timeout=20, pause=0.01):
    """Waits until a condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(pause)


def is_waiting(database, connection):
    """Whether a connection waits for a lock."""
    return database.value("SELECT coalesce(max(wait_event_type) = 'Lock', false) FROM pg_stat_activity WHERE pid = %s",
                          (connection.info.backend_pid,))


def sqlstate_of(action):
    """The SQLSTATE, message, DETAIL and HINT of the error that an action raises."""
    with pytest.raises(psycopg.Error) as caught:
        action()
    return caught.value.diag
