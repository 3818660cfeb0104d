"""The fixtures of all suites: a private cluster for the whole run, a fresh database with the extension for each test, and roles."""

import json
import os

import pytest

# Their assertions explain themselves, as those of a test do.
pytest.register_assert_rewrite("harness")

from harness import sample, upgrade
from harness.bouncer import Bouncer
from harness.clock import ClockCluster
from harness.cluster import Cluster
from harness.database import Database
from harness.roles import temporary_roles


@pytest.fixture(scope="session")
def cluster():
    cluster = Cluster()
    if settings := os.environ.get("IPC_BOUNCER"):
        cluster.bouncer = Bouncer(cluster, json.loads(settings))
    yield cluster
    if cluster.bouncer:
        cluster.bouncer.stop()
    cluster.remove()


@pytest.fixture(scope="session")
def worker_cluster():
    """A cluster whose worker ticks five times a second."""
    cluster = Cluster({"infinite_pages_cache.naptime": "200ms", "autovacuum": "off", "statement_timeout": "60s"})
    yield cluster
    cluster.remove()


@pytest.fixture(scope="session")
def clock_cluster():
    cluster = ClockCluster()
    yield cluster
    cluster.remove()


@pytest.fixture
def database(cluster):
    database = Database(cluster)
    yield database
    database.drop()


@pytest.fixture
def empty_database(cluster):
    """A database without the extension."""
    database = Database(cluster, extension=False)
    yield database
    database.drop()


@pytest.fixture
def served(worker_cluster):
    """A database that the worker serves."""
    database = Database(worker_cluster)
    yield database
    database.drop()


@pytest.fixture
def owned(database):
    """A cache whose tables belong to a role that is no superuser."""
    with temporary_roles(database.cluster, "cache_owner", "deputy"):
        database.execute("""
            GRANT CREATE ON SCHEMA public TO cache_owner;
            DO $$ DECLARE t regclass; BEGIN
                FOR t IN SELECT c.oid FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') LOOP
                    EXECUTE format('ALTER TABLE %s OWNER TO cache_owner', t);
                END LOOP;
            END $$;
            GRANT cache_owner TO deputy;
            GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO cache_owner""")
        yield database


@pytest.fixture
def used(database):
    """A database with entries of three users in three months with random numbers; the same ones in Python."""
    database.entries, database.now = sample.fill(database)
    return database


@pytest.fixture
def roles(cluster):
    """The roles of PostgREST and Supabase; dropped after the test, so that others run without them."""
    with temporary_roles(cluster, "anon", "authenticated", "service_role") as names:
        yield names


@pytest.fixture(scope="module")
def known(cluster):
    """The roles that dumps of released versions name."""
    with temporary_roles(cluster, *upgrade.ROLES):
        yield
