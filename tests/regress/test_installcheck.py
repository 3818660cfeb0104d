"""make installcheck passes whatever the server is like, and says what it lacks."""

import os
import subprocess

from harness.cluster import PG_CONFIG, ROOT, Cluster
from harness.roles import temporary_roles


def installcheck(cluster, user="postgres"):
    """Run it: whether it passes, and what it prints."""
    [(port,)] = cluster.execute("SHOW port")
    environment = {**os.environ, "PG_CONFIG": PG_CONFIG, "PGHOST": str(cluster.directory), "PGPORT": port, "PGUSER": user}
    run = subprocess.run(["make", "installcheck"], cwd=ROOT, env=environment, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    differences = ROOT / "target/regress/regression.diffs"
    return run.returncode == 0, run.stdout + (differences.read_text() if differences.exists() else "")


def test_it_passes_while_the_worker_is_at_work(worker_cluster):
    passed, output = installcheck(worker_cluster)
    assert passed, output


def test_it_passes_without_the_library_preloaded_in_another_time_zone_and_with_other_roles():
    cluster = Cluster({"shared_preload_libraries": "", "timezone": "Asia/Kathmandu", "datestyle": "German", "intervalstyle": "iso_8601"})
    try:
        with temporary_roles(cluster, "anon", "authenticated", "service_role"):
            passed, output = installcheck(cluster)
            cluster.execute("DROP DATABASE contrib_regression")
        assert passed, output
    finally:
        cluster.remove()


def test_it_says_that_it_needs_a_superuser(cluster):
    with temporary_roles(cluster, "somebody"):
        cluster.execute("ALTER ROLE somebody LOGIN")
        passed, output = installcheck(cluster, "somebody")
    assert not passed and "make installcheck: CREATE EXTENSION needs a superuser" in output
