"""Behind PgBouncer by transaction, where clients share connections: a lease is of a client, and who waits does not starve who generates."""

import threading
import time

import pytest

from harness.bouncer import Bouncer
from harness.cluster import Cluster
from harness.database import Database
from harness.entries import ALICE, BOB, upsert
from harness.leases import counted, fetch, release
from harness.roles import acting
from harness.waiting import together


@pytest.fixture(scope="module")
def pooled():
    """A database behind a pool of two connections, of which one may be taken by a wait."""
    cluster = Cluster({"infinite_pages_cache.max_fetch_waiters": "1"})
    cluster.execute("CREATE ROLE authenticated")
    database = Database(cluster)
    bouncer = Bouncer(cluster, {"pool_mode": "transaction", "default_pool_size": 2, "max_prepared_statements": 100})
    cluster.bouncer = bouncer
    yield database
    bouncer.stop()
    cluster.remove()


def test_a_lease_is_granted_on_one_connection_and_filled_on_another(pooled):
    with pooled.connect() as one, pooled.connect() as other:
        lease = fetch(one).lease
        with one.transaction():
            # The first connection is busy.
            taken = one.execute("SELECT pg_backend_pid()").fetchone()
            assert other.execute("SELECT pg_backend_pid()").fetchone() != taken
            assert upsert(other, '"text"', lease=lease) is not None
        assert fetch(one).content == "text"


def test_clients_that_share_a_connection_are_told_apart_by_their_leases(pooled):
    clients = [pooled.connect() for _ in range(4)]
    keys = [(ALICE, "t", f"shared {number}") for number in range(4)]
    held = [fetch(client, key).lease for client, key in zip(clients, keys)]
    assert len(set(held)) == 4
    for client, key, lease in zip(clients, keys, held[1:] + held[:1]):
        # Of another key.
        with pytest.raises(Exception, match="the lease is of another entry"):
            upsert(client, '"text"', key, lease=lease)
    for client, key, lease in zip(reversed(clients), keys, held):
        assert upsert(client, '"text"', key, lease=lease) is not None
        client.close()


def test_tenants_that_share_a_connection_see_their_own_leases(pooled):
    with pooled.connect() as client:
        held = {}
        for user in (ALICE, BOB):
            with acting(client, user):
                held[user] = fetch(client, (user, "t", "tenants")).lease
        for user in (ALICE, BOB):
            with acting(client, user):
                assert client.execute("SELECT count(*) FROM cache_leases WHERE state = 'held'").fetchone() == (1,)
        with acting(client, BOB):
            assert release(client, held[ALICE]) is False and release(client, held[BOB]) is True
        with acting(client, ALICE):
            assert release(client, held[ALICE]) is True


def test_who_waits_does_not_starve_who_generates(pooled):
    """More clients wait than there are connections. One of them may hold a connection, and the generator gets the other."""
    # A type with a policy has counters of its own from the first call on.
    clients, key, asked, stored = 8, (ALICE, "tone", "k"), [], []
    lock = threading.Lock()

    def client():
        with pooled.connect() as connection:
            while True:
                found = fetch(connection, key, wait="5 seconds")
                if found.state == "hit":
                    return found.content
                if found.state == "generate":
                    with lock:
                        asked.append(found.lease)
                    time.sleep(0.5)
                    begun = time.monotonic()
                    assert upsert(connection, '"text"', key, lease=found.lease) is not None
                    stored.append(time.monotonic() - begun)
                else:
                    time.sleep(min(0.1, found.retry_after.total_seconds()))

    assert together(*[client] * clients) == ["text"] * clients
    assert len(asked) == 1 and None not in asked
    assert stored[0] < 1
    counts = counted(pooled, "tone")
    assert counts["leases_granted"] == counts["generations"] == 1 and counts["waits_hit"] <= counts["waits"]
