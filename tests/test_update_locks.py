"""An update that cannot have its locks in time gives up, changes nothing, and holds nobody up any longer."""

from concurrent.futures import ThreadPoolExecutor

from catalog import state
from conftest import ALICE, is_waiting, sqlstate_of, wait_until
from upgrade import UPDATE, checks, known, old, rows, works  # noqa: F401


def test_an_update_with_a_lock_timeout_gives_up_and_changes_nothing(cluster, known):
    database = old(cluster)
    before = rows(database), state(database)
    with database.connect(autocommit=False) as reader, database.connect() as operator, database.connect() as client, ThreadPoolExecutor() as pool:
        reader.execute("SELECT cache_lookup(%s, 'tone', 'k0')", (ALICE,))
        operator.execute("SET lock_timeout = '2s'")
        update = pool.submit(sqlstate_of, lambda: operator.execute(UPDATE))
        wait_until(lambda: is_waiting(database, operator))
        # A lookup waits behind it, and no longer than it waits.
        lookup = pool.submit(client.execute, "SELECT cache_lookup(%s, 'setting', 'k5') -> 'n'", (ALICE,))
        wait_until(lambda: is_waiting(database, client))
        assert update.result(30).sqlstate == "55P03"
        assert lookup.result(5).fetchone() == (5,)
    assert (rows(database), state(database)) == before
    database.execute(UPDATE)
    assert checks(database) == {}
    works(database)
    database.drop()
