"""A dump is restored without a loss while the worker ticks in the database that it is restored into."""

import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.dumps import ROLES, fill_for_years, lasting_state, same, works
from harness.entries import add_entries
from harness.months import add_month, bounds
from harness.roles import temporary_roles
from harness.worker import WORKER, is_served, processes, settings, status, wait_until

# Enough for a restore to last some seconds: the worker has looked in often.
ENTRIES = 20_000


class Dumped:
    """A cache in use, its dumps, and what a restored one must be equal to."""

    def __init__(self, cluster, directory):
        self.cluster = cluster
        self.database = Database(cluster)
        fill_for_years(self.database)
        self.database.execute(f"""
            INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content, created_at, expires_at)
            SELECT ('00000000-0000-4000-8000-' || lpad((n % 100)::text, 12, '0'))::uuid, 'restored', 'restored ' || n, to_jsonb(repeat(md5(n::text), 10)),
                   c.relname_month + interval '10 days', 'infinity'
            FROM generate_series(1, {ENTRIES}) n,
                 LATERAL (SELECT (ARRAY['2025-12-01', '2026-02-01', '2026-03-01', date_trunc('month', now(), 'UTC')::text])[n % 4 + 1]::timestamptz
                          AS relname_month) c;
            ANALYZE""")
        self.state = lasting_state(self.database)
        self.archive, self.script = directory / "archive", directory / "script"
        cluster.client("pg_dump", "-d", self.database.name, "-Fc", "-f", self.archive)
        cluster.client("pg_dump", "-d", self.database.name, "-f", self.script)


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    cluster = Cluster({"infinite_pages_cache.naptime": "100ms", "max_wal_size": "4GB", "max_parallel_maintenance_workers": 0})
    with temporary_roles(cluster, *ROLES):
        with settings(cluster, naptime=0):
            dumped = Dumped(cluster, tmp_path_factory.mktemp("dump"))
        yield dumped
        dumped.database.drop()
    cluster.remove()


def archive(dumped, target, *options):
    dumped.cluster.client("pg_restore", "--exit-on-error", "-d", target.name, *options, dumped.archive)


def script(dumped, target):
    dumped.cluster.client("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", target.name, "-f", dumped.script)


WAYS = {
    "archive, 4 jobs": lambda dumped, target: archive(dumped, target, "-j4"),
    "archive, 4 jobs, again": lambda dumped, target: archive(dumped, target, "-j4"),
    "archive, one transaction": lambda dumped, target: archive(dumped, target, "-1"),
    "script": script,
    "script, again": script,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_restore_beside_the_worker_loses_nothing(dumped, way):
    target = Database(dumped.cluster, extension=False)
    WAYS[way](dumped, target)
    wait_until(lambda: status(target)["last_run"] is not None)
    same(lasting_state(target), dumped.state)
    is_served(target)
    assert status(target)["consecutive_failures"] == 0 and status(target)["last_error"] is None
    with settings(dumped.cluster, naptime="1h"):
        # What follows runs maintenance by hand, which a tick would skip.
        wait_until(lambda: not processes(dumped.cluster, WORKER))
        works(target, "public")
    target.drop()


def test_a_restore_that_replaces_a_served_database(dumped):
    """pg_restore --create --clean drops the database, with the worker in it every 100 ms, and makes it anew."""
    for _ in range(2):
        dumped.cluster.client("pg_restore", "--exit-on-error", "--create", "--clean", "--if-exists", "-j4", "-d", "postgres", dumped.archive)
        same(lasting_state(dumped.database), dumped.state)
        is_served(dumped.database)


def test_a_dump_beside_the_worker(dumped, tmp_path):
    """Entries expire and months end while they are dumped; what is live is in the dump, and no dump fails for want
    of a table or of a lock on one."""
    source, target = Database(dumped.cluster), Database(dumped.cluster, extension=False)
    add_entries(source, 20_000, "infinity", prefix="live")
    for number in range(3):
        add_entries(source, 10_000, prefix=f"{number} ")
        for offset in (-5, -4, -3):
            add_month(source, offset)
        dumped.cluster.client("pg_dump", "-d", source.name, "-Fd", "-j4", "-f", tmp_path / f"dump{number}")
    wait_until(lambda: source.value("SELECT count(*) FROM infinite_pages_cache_partitioned") == 20_000)
    wait_until(lambda: len(bounds(source)) == 4)
    dumped.cluster.client("pg_restore", "--exit-on-error", "-j4", "-d", target.name, tmp_path / "dump2")
    wait_until(lambda: target.value("SELECT count(*) FROM infinite_pages_cache_partitioned") == 20_000)
    source.drop()
    target.drop()
