"""An update that cannot have its locks in time gives up, changes nothing, and holds nobody up any longer."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.catalog import state
from harness.entries import ALICE, CACHE
from harness.errors import sqlstate_of
from harness.reports import checks
from harness.upgrade import UPDATE, old, rows, works
from harness.waiting import is_waiting, wait_until

LOOKUP = f"SELECT cache_lookup('{ALICE}', 'setting', 'k5') -> 'n'"
POLICY = "SELECT token_cost FROM cache_content_policies WHERE content_type = 'Gedicht'"
# From 0.1.0 the tables are locked whole, first that of the policies and then the cache's; from 0.2.0 that of the policies.
CLIENTS = [("0.1.0", CACHE, LOOKUP, 5), ("0.1.0", CACHE, POLICY, 2.5), ("0.2.0", "cache_content_policies", POLICY, 2.5)]


@pytest.mark.parametrize("version, held, statement, found", CLIENTS)
def test_an_update_with_a_lock_timeout_gives_up_and_changes_nothing(cluster, known, version, held, statement, found):
    database = old(cluster, version)
    before = rows(database), state(database)
    with database.connect(autocommit=False) as reader, database.connect() as operator, database.connect() as client, ThreadPoolExecutor() as pool:
        reader.execute(f"SELECT count(*) FROM {held}")
        operator.execute("SET lock_timeout = '2s'")
        update = pool.submit(sqlstate_of, lambda: operator.execute(UPDATE))
        wait_until(lambda: is_waiting(database, operator))
        # A client waits behind it, and no longer than it waits.
        waiting = pool.submit(client.execute, statement)
        wait_until(lambda: is_waiting(database, client))
        assert update.result(30).sqlstate == "55P03"
        assert waiting.result(5).fetchone() == (found,)
    assert (rows(database), state(database)) == before
    database.execute(UPDATE)
    assert checks(database) == {}
    works(database)
    database.drop()
