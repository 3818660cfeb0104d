"""A PgBouncer in transaction mode before a cluster. tests/tools/pgbouncer.sh builds it."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

from harness.cluster import ROOT, as_server_user
from harness.waiting import wait_until

PROGRAM = ROOT / "target/tools/bin/pgbouncer"
# All clients of a database share one connection to the server.
ONE_FOR_ALL = {"pool_mode": "transaction", "default_pool_size": 1}


def of_the_guide():
    """The settings of the deployment guide's pgbouncer.ini."""
    guide = next((ROOT / "tests/docs/guide").glob("*.md")).read_text()
    section = re.search(r"```ini\n.*?\[pgbouncer\]\n(.*?)```", guide, re.S).group(1)
    return dict(re.findall(r"^(\w+) = (.+)$", section, re.M))


class Bouncer:
    def __init__(self, cluster, settings):
        self.knows_prepared_statements = int(settings.get("max_prepared_statements", 0)) > 0
        self.pool_size = int(settings["default_pool_size"])
        self.directory = Path(tempfile.mkdtemp(prefix="ipc-bouncer-"))
        port = (cluster.data / "postmaster.pid").read_text().split("\n")[3]
        lines = {"unix_socket_dir": self.directory, "listen_port": 6432, "auth_type": "trust", "auth_user": "postgres",
                 "auth_query": "SELECT rolname, NULL FROM pg_roles WHERE rolname = $1", "query_wait_timeout": 30, **settings}
        (self.directory / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={cluster.directory} port={port}\n[pgbouncer]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items()))
        self.directory.chmod(0o777)
        with open(self.directory / "log", "w") as log:
            self.process = subprocess.Popen(as_server_user([str(PROGRAM), str(self.directory / "pgbouncer.ini")]), stdout=log, stderr=log)
        wait_until(lambda: (self.directory / ".s.PGSQL.6432").exists() or self.process.poll() is not None)
        assert self.process.poll() is None, (self.directory / "log").read_text()

    def connect(self, dbname, user="postgres", **options):
        options.setdefault("autocommit", True)
        connection = psycopg.connect(host=str(self.directory), port=6432, dbname=dbname, user=user, **options)
        if not self.knows_prepared_statements:
            connection.prepare_threshold = None
        return connection

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.directory, ignore_errors=True)
