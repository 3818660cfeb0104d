"""A cluster in which nothing is counted or stored by itself."""

import pytest

from harness.tally import counting_cluster


@pytest.fixture(scope="module")
def cluster():
    """One in which hits wait for a flush."""
    cluster = counting_cluster()
    yield cluster
    cluster.remove()
