"""pg_upgrade keeps everything: by copy and by link, with the library preloaded and without. `make test-restore` runs it.

The pairs are those that the installations of tests/postgresql.sh can do. 14 and 17 come without programs of their own, pg_upgrade
takes no other version's, and the pg_dump of the 16 and 18 there is older than what the newest 15 has in its catalogs."""

import subprocess

import pytest

from catalog import state
from conftest import ALICE, Cluster, Database, as_server_user
from restore_matrix import MAJORS, bindir, of_both_versions
from test_restore import ROLES, same, works
from test_worker_restore import fill_for_years
from worker import wait_until

PAIRS = [(15, 15), (16, 18)]


def upgrade(old, new, *options):
    """Both are stopped, and the new one is empty."""
    command = [new.bindir / "pg_upgrade", "-b", old.bindir, "-B", new.bindir, "-d", old.data, "-D", new.data, "-U", "postgres",
               "-s", new.directory, *options]
    done = subprocess.run(as_server_user([str(word) for word in command]), cwd=new.directory, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("options", [(), ("--link",)], ids=["copy", "link"])
@pytest.mark.parametrize("library", ["infinite_pages_cache", ""], ids=["preloaded", "not preloaded"])
@pytest.mark.parametrize("majors", [pair for pair in PAIRS if set(pair) <= set(MAJORS)], ids=lambda pair: "from {} to {}".format(*pair))
def test_an_upgrade_keeps_everything(request, majors, library, options):
    old, new = (Cluster({"shared_preload_libraries": library}, bindir=bindir(major)) for major in majors)
    for cluster in (old, new):
        request.addfinalizer(cluster.remove)
    old.execute("; ".join(f"CREATE ROLE {role}" for role in ROLES))
    database = Database(old)
    fill_for_years(database)
    before = state(database)
    old.stop()
    new.stop()
    if majors[1] >= 18 > majors[0]:
        # Since 18 a cluster has checksums unless told otherwise, and both must have the same.
        new.run_server("pg_checksums", "--disable", "-D", new.data)
    upgrade(old, new, *options)
    new.start()
    upgraded = Database.existing(new, database.name)
    after = state(upgraded)
    same(of_both_versions(after, *majors), of_both_versions(before, *majors))
    assert all(valid for _, _, valid in after["indexes"])
    if library:
        wait_until(lambda: upgraded.value("SELECT count(*) FROM verify_production_cache() WHERE NOT ok") == 0)
        works(upgraded, "public")
    else:
        assert upgraded.value("SELECT cache_lookup(%s, 'setting', 'k5') -> 'n'", (ALICE,)) == 5
    if not options:
        # The old cluster is as it was.
        old.start()
        same(state(database), before)
