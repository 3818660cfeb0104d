"""A private cluster: a server of its own, and the client programs of its version."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from harness.maintenance import STEPS
from harness.server_log import defects
from harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


def bindir_of(pg_config):
    return Path(subprocess.check_output([pg_config, "--bindir"], text=True).strip())


PG_CONFIG = os.environ.get("PG_CONFIG", "/usr/lib/postgresql/15/bin/pg_config")
BINDIR = bindir_of(PG_CONFIG)
# Clusters live in memory where there is plenty: creating a database takes a third of the time.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 4 << 30 else None


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
