"""A few rounds of tests/long/crash.py, which runs fifty."""

from harness.cluster import Cluster
from long.crash import SETTINGS, Crashes


def test_after_crashes_under_load_everything_is_as_it_was_acknowledged():
    cluster = Cluster(SETTINGS)
    try:
        crashes = Crashes(cluster, seed=2)
        for number in range(3):
            crashes.round(number)
        assert crashes.problems == []
        assert sum(crashes.done.values()) == 3 and crashes.ledger.hits > 100
    finally:
        cluster.remove()
