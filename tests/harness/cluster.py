"""A private cluster: a server of its own, and the client programs of its version. tests/tools/cluster.sh creates, starts and stops it,
as it does for the demo. This class adds the settings of a test, connections, and a look at the server's log."""

import os
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


PG_CONFIG = os.environ.get("PG_CONFIG") or subprocess.check_output([ROOT / "tests/tools/pg_config.sh"], text=True).strip()
BINDIR = bindir_of(PG_CONFIG)
# Clusters live in memory where there is plenty: creating a database takes a third of the time.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 4 << 30 else None


# PostgreSQL refuses to run as root.
SERVER_USER = os.environ.get("CLUSTER_USER", "postgres") if os.geteuid() == 0 else None


def as_server_user(command):
    """The command that runs a command as the user that owns the cluster's files."""
    return ["runuser", "-u", SERVER_USER, "--", *command] if SERVER_USER else list(command)


class Cluster:
    """A cluster of its own, for as long as a test or a benchmark lasts."""

    # A PgBouncer that clients of its databases connect to instead.
    bouncer = None
    # Where its directory is created; None stands for the directory of temporary files.
    parent = MEMORY

    def __init__(self, settings=None, environment=None, bindir=BINDIR):
        settings = dict(settings or {})
        self.bindir = bindir
        if "infinite_pages_cache.naptime" not in settings:
            # The worker runs, but its ticks do nothing, so that no tick comes between what a test does and what it sees.
            settings.setdefault("infinite_pages_cache.skip_steps", ", ".join(STEPS))
        self.directory = Path(tempfile.mkdtemp(prefix="ipc-test-", dir=self.parent))
        self.directory.chmod(0o755)
        if SERVER_USER:
            shutil.chown(self.directory, SERVER_USER)
        self.data = self.directory / "data"
        self.environment = {**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})}
        try:
            self.create()
            self.configure({"unix_socket_directories": str(self.directory), **settings})
            self.start()
        except BaseException:
            self.remove()
            raise

    def script(self, action, *arguments, environment=None):
        """Run tests/tools/cluster.sh for this cluster."""
        subprocess.run([ROOT / "tests/tools/cluster.sh", action, self.directory, *arguments], check=True, stdout=subprocess.DEVNULL,
                       env={**(environment or self.environment), "PG_CONFIG": str(self.bindir / "pg_config")})

    def create(self):
        self.script("create", "--locale=C.UTF-8", environment=os.environ)
        self.configure({"listen_addresses": "", "fsync": "off", "max_connections": 120})

    def configure(self, settings):
        """Append settings to postgresql.conf, where the last one of a name counts."""
        with open(self.data / "postgresql.conf", "a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def run_server(self, program, *arguments):
        """Run a program of the server's version as the server's user."""
        subprocess.run(as_server_user([str(self.bindir / program), *map(str, arguments)]), check=True, cwd="/",
                       env=self.environment, stdout=subprocess.DEVNULL)

    def start(self):
        self.script("start", "-")

    def stop(self, mode="fast"):
        # The script stops what runs. A server that has ended by itself is a defect here.
        os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), 0)
        self.script("stop", mode)

    def restart(self, mode="fast"):
        self.stop(mode)
        self.start()

    def kill(self):
        """Kill the postmaster, and wait until its children are gone, because the server cannot be started before."""
        postmaster = (self.data / "postmaster.pid").read_text().split()[0]
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        os.kill(int(postmaster), signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 10)

    def remove(self):
        """Delete the cluster, even an unfinished one. Fails if the server's log tells of a defect."""
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        found = defects(self.log())
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not found, "the server's log tells of defects:\n" + "\n".join(found[:20])

    def log(self):
        log = self.directory / "log"
        return log.read_text(errors="replace") if log.exists() else ""

    def connect(self, dbname="postgres", user="postgres", **options):
        options.setdefault("autocommit", True)
        return psycopg.connect(host=str(self.directory), dbname=dbname, user=user, **options)

    def execute(self, sql, parameters=None):
        with self.connect() as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else None

    def set(self, **settings):
        """Set settings of the extension for the whole server; None resets one."""
        with self.connect() as connection:
            for name, value in settings.items():
                name = f"infinite_pages_cache.{name}"
                connection.execute(f"ALTER SYSTEM RESET {name}" if value is None else f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("SELECT pg_reload_conf()")

    def wait_until_up(self, timeout=30):
        """Wait until a server that recovers from a crash takes connections again."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self.connect().close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self.log()[-4000:]
                time.sleep(0.05)

    def client(self, program, *arguments, **options):
        """Run psql, pg_dump … against the cluster. Raises if it fails, unless check=False."""
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
