"""One database for all tests of a module, since each test has some dozens of cases, and the sessions that are interleaved."""

import pytest

from harness.entries import duplicates
from harness.interleaving import Session, Watched, forget
from harness.months import partitions
from harness.tally import counting_cluster, flush


@pytest.fixture(scope="module")
def cluster():
    """One in which hits wait for a flush."""
    cluster = counting_cluster()
    yield cluster
    cluster.remove()


@pytest.fixture(scope="module")
def shared(cluster):
    database = Watched(cluster)
    yield database
    database.drop()


@pytest.fixture
def database(shared):
    """One for all tests here: a test finds it without entries, audit rows, statistics, and other months than the usual."""
    usual = partitions(shared)
    yield shared
    flush(shared.kept)
    forget(shared.kept)
    shared.execute("TRUNCATE cache_statistics_hourly")
    for name in partitions(shared) - usual:
        shared.execute(f"DROP TABLE {name}")


@pytest.fixture
def sessions(database):
    """Makes sessions; in the end there is one row of a key."""
    made = []

    def make(level, number=2):
        made.extend(Session(database, level) for _ in range(number))
        return made[-number:]

    yield make
    for session in made:
        session.close()
    assert duplicates(database) == []
