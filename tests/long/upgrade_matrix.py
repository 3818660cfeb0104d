"""pg_upgrade keeps everything: from each major to the next, by copy and by link, with the library preloaded and without.
`make test-restore` runs it; MAJORS names the versions."""

import subprocess

import pytest

from harness.catalog import state
from harness.cluster import Cluster, as_server_user
from harness.database import Database
from harness.dumps import ROLES, compress_with_lz4, fill_for_years, same, with_lz4, works
from harness.entries import ALICE
from harness.majors import MAJORS, bindir, of_both_versions
from harness.worker import wait_until

PAIRS = [(major, major + 1) for major in MAJORS if major + 1 in MAJORS]
ATTRIBUTE_VERSIONS = "SELECT count(*) FROM pg_attribute WHERE array_to_string(attoptions, ' ') LIKE '%pg_attver=%'"


def upgrade(old, new, *options):
    """Both are stopped, and the new one is empty."""
    command = [new.bindir / "pg_upgrade", "-b", old.bindir, "-B", new.bindir, "-d", old.data, "-D", new.data, "-U", "postgres",
               "-s", new.directory, *options]
    done = subprocess.run(as_server_user([str(word) for word in command]), cwd=new.directory, text=True, capture_output=True)
    errors = [line for log in new.data.glob("pg_upgrade_output.d/*/log/*") for line in log.read_text(errors="replace").splitlines() if "ERROR:" in line]
    assert done.returncode == 0, "\n".join([done.stdout, done.stderr, *errors])


@pytest.mark.parametrize("options", [(), ("--link",)], ids=["copy", "link"])
@pytest.mark.parametrize("library", ["infinite_pages_cache", ""], ids=["preloaded", "not preloaded"])
@pytest.mark.parametrize("majors", PAIRS, ids=lambda pair: "from {} to {}".format(*pair))
def test_an_upgrade_keeps_everything(request, majors, library, options):
    old, new = (Cluster({"shared_preload_libraries": library}, bindir=bindir(major)) for major in majors)
    for cluster in (old, new):
        request.addfinalizer(cluster.remove)
    old.execute("; ".join(f"CREATE ROLE {role}" for role in ROLES))
    lz4 = [with_lz4(cluster) for cluster in (old, new)]
    database = Database(old)
    if lz4 == [True, False]:
        # pg_upgrade has no way to a server that lacks what the old one compresses with.
        for (table,) in database.execute("SELECT relid::text FROM pg_partition_tree('infinite_pages_cache_partitioned')"):
            database.execute(f"ALTER TABLE {table} ALTER COLUMN content SET COMPRESSION pglz")
    fill_for_years(database)
    if old.execute(ATTRIBUTE_VERSIONS) != [(0,)] and new.execute(ATTRIBUTE_VERSIONS) == [(0,)]:
        # Minors of November 2026 keep an option of their own with each column of a view, which no earlier one takes, of any major.
        database.execute("""
            SET allow_system_table_mods = on;
            UPDATE pg_attribute SET attoptions = nullif(ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%'), '{}')
            WHERE attrelid >= 16384 AND attoptions IS NOT NULL""")
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
    if lz4 == [False, True]:
        compress_with_lz4(upgraded)
    if library:
        wait_until(lambda: upgraded.value("SELECT count(*) FROM verify_production_cache() WHERE NOT ok") == 0)
        works(upgraded, "public")
    else:
        assert upgraded.value("SELECT cache_lookup(%s, 'setting', 'k5') -> 'n'", (ALICE,)) == 5
    if not options:
        # The old cluster is as it was.
        old.start()
        same(state(database), before)
