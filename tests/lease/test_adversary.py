"""Twenty seconds of tests/long/fencing.py, which runs ten minutes and crashes the server, too."""

from harness.cluster import Cluster
from long.fencing import SETTINGS, fencing


def test_nothing_outdated_is_served_while_sixteen_clients_edit_invalidate_generate_and_store():
    cluster = Cluster(SETTINGS)
    try:
        problems, done, errors = fencing(cluster, 20, progress=lambda line: None)
    finally:
        cluster.remove()
    assert problems == []
    # It has tried what it is there to try.
    clients = done["clients"]
    for what, least in {"edits": 50, "stored": 100, "refused": 10, "hits": 200, "own answers": 1, "fetched generate": 100, "fetched hit": 20}.items():
        assert clients[what] >= least, (what, clients)
    assert done["quiet"]["stored"] > 20 and done["watcher"]["leases seen"] > 0 and done["killer"]["pg_cancel_backend"] > 0
    assert set(errors) <= {"57014", "57P01", "40P01", "40001", "55P03"}
