"""Sessions that write at the same time."""

import pytest


@pytest.fixture
def two(database):
    """Two sessions that give up after a while."""
    with database.connect(autocommit=False, options="-c lock_timeout=3s") as one, \
            database.connect(autocommit=False, options="-c lock_timeout=3s") as other:
        yield one, other
