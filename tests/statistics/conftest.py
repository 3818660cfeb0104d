"""A cluster in which nothing is counted or stored by itself."""

import pytest

from harness.tally import Client, counting_cluster


@pytest.fixture(scope="module")
def cluster():
    """One in which hits wait for a flush."""
    cluster = counting_cluster()
    yield cluster
    cluster.remove()


@pytest.fixture
def client(database):
    """A client that tallies what it does in the database."""
    with database.connect() as connection:
        client = Client(connection)
        client.database = database
        yield client
