"""The worker is never in the way of DDL on a database, and follows what becomes of it."""

import subprocess
import time

import pytest

from harness.cluster import Cluster, as_server_user
from harness.database import Database
from harness.entries import NEVER, add_entries, count, expired
from harness.maintenance import slow_down_deletions, speed_up_deletions
from harness.waiting import timed
from harness.worker import WORKER, is_served, processes, status, wait_for_step, wait_for_ticks, wait_until

# How long such a statement may take while a cleanup is in progress.
BOUND = 5
ROUNDS = range(5)


@pytest.fixture(scope="module")
def busy():
    """A server whose worker ticks ten times a second, and a database that it cleans for as long as the tests last."""
    cluster = Cluster({"infinite_pages_cache.naptime": "100ms", "infinite_pages_cache.cleanup_batch_size": 20, "autovacuum": "off", "statement_timeout": "60s"})
    database = Database(cluster)
    add_entries(database, 20, NEVER, prefix="live")
    slow_down_deletions(database, "OLD.cache_key LIKE 'e%'", 0.05)
    add_entries(database, 20_000)
    yield database
    cluster.remove()


def statement(cluster, sql):
    with cluster.connect() as connection:
        connection.execute(sql)


def goes_on(database):
    """Its long cleanup does, under whatever name it has."""
    wait_for_step(database.cluster, database.name)
    before = expired(database)
    wait_until(lambda: expired(database) < before)
    assert count(database, "cache_key LIKE 'live%'") == 20


@pytest.mark.parametrize("round", ROUNDS)
def test_create_database_from_a_served_one(busy, round):
    wait_for_step(busy.cluster, busy.name)
    copy = Database.existing(busy.cluster, f"copy_{round}")
    assert timed(lambda: statement(busy.cluster, f"CREATE DATABASE {copy.name} TEMPLATE {busy.name}")) < BOUND
    goes_on(copy)
    goes_on(busy)
    # Served while it is dropped.
    wait_for_step(busy.cluster, copy.name)
    assert timed(lambda: statement(busy.cluster, f"DROP DATABASE {copy.name}")) < BOUND


@pytest.mark.parametrize("round", ROUNDS)
def test_rename_a_served_database(busy, round):
    wait_for_step(busy.cluster, busy.name)
    new = f"renamed_{round}"
    assert timed(lambda: statement(busy.cluster, f"ALTER DATABASE {busy.name} RENAME TO {new}")) < BOUND
    busy.name = new
    goes_on(busy)


def test_move_a_served_database(busy):
    place = busy.cluster.directory / "tablespace"
    subprocess.run(as_server_user(["mkdir", str(place)]), check=True)
    statement(busy.cluster, f"CREATE TABLESPACE elsewhere LOCATION '{place}'")
    for tablespace in ("elsewhere", "pg_default"):
        wait_for_step(busy.cluster, busy.name)
        assert timed(lambda: statement(busy.cluster, f"ALTER DATABASE {busy.name} SET TABLESPACE {tablespace}")) < BOUND
        goes_on(busy)


def test_close_and_open_a_served_database(busy):
    wait_for_step(busy.cluster, busy.name)
    statement(busy.cluster, f"ALTER DATABASE {busy.name} ALLOW_CONNECTIONS false")
    wait_until(lambda: not processes(busy.cluster, WORKER, busy.name))
    time.sleep(0.5)
    assert processes(busy.cluster, WORKER, busy.name) == []
    statement(busy.cluster, f"ALTER DATABASE {busy.name} ALLOW_CONNECTIONS true")
    goes_on(busy)


def test_drops_in_a_row_and_a_new_database_of_the_same_name(busy):
    """Each is created, served at once, and dropped in the middle of its cleanup."""
    statement(busy.cluster, f"CREATE DATABASE pattern TEMPLATE {busy.name} IS_TEMPLATE true")
    for _ in ROUNDS:
        statement(busy.cluster, "CREATE DATABASE again TEMPLATE pattern")
        wait_for_step(busy.cluster, "again")
        assert timed(lambda: statement(busy.cluster, "DROP DATABASE again")) < BOUND
    assert "PANIC" not in busy.cluster.log()


@pytest.fixture
def quick(busy):
    database = Database(busy.cluster)
    yield database
    database.drop()


@pytest.mark.parametrize("ending", ["ROLLBACK", "COMMIT"])
def test_drop_extension_while_the_worker_ticks(quick, ending):
    add_entries(quick, 10, NEVER, prefix="live")
    for _ in range(3):
        wait_for_ticks(quick)
        with quick.connect() as connection:
            connection.execute("BEGIN; SET LOCAL statement_timeout = '5s'; DROP EXTENSION infinite_pages_cache CASCADE")
            time.sleep(0.5)
            connection.execute(ending)
        if ending == "COMMIT":
            # Nobody serves tables without an extension.
            time.sleep(0.5)
            add_entries(quick, 5)
            time.sleep(0.5)
            assert expired(quick) == 5
            assert timed(lambda: quick.execute("CREATE EXTENSION infinite_pages_cache")) < BOUND
            wait_until(lambda: expired(quick) == 0)
        is_served(quick)
        wait_until(lambda: status(quick)["consecutive_failures"] == 0)
    assert count(quick, "cache_key LIKE 'live%'") == 10


def test_create_extension_that_is_rolled_back_or_takes_long(busy):
    """A tick that comes before the commit finds nothing, and must not put the database off for long."""
    database = Database(busy.cluster, extension=False)
    with database.connect() as connection:
        for ending in ("ROLLBACK", "COMMIT"):
            connection.execute("BEGIN; CREATE EXTENSION infinite_pages_cache")
            time.sleep(1)
            connection.execute(ending)
    is_served(database, timeout=5)
    database.execute("DROP EXTENSION infinite_pages_cache CASCADE")
    database.drop()


def test_ddl_on_the_tables_beside_the_worker(quick):
    """What an operator may do to the cache's tables is not held up either."""
    slow_down_deletions(quick, "OLD.cache_key LIKE 'e%'", 0.02)
    add_entries(quick, 2000)
    for _ in range(3):
        wait_for_step(quick.cluster, quick.name)
        with quick.connect() as connection:
            connection.execute("SET lock_timeout = '5s'")
            connection.execute("ALTER TABLE infinite_pages_cache_partitioned ADD COLUMN note text")
            connection.execute("ALTER TABLE infinite_pages_cache_partitioned DROP COLUMN note")
            connection.execute("SELECT cache_setup()")
    speed_up_deletions(quick)
    wait_until(lambda: expired(quick) == 0)
    is_served(quick)
