"""Behind a real PgBouncer in transaction mode, where one connection to the server serves all clients in turn."""

import json
import os
import random
import subprocess
import sys

import psycopg
import pytest

from harness.bouncer import ONE_FOR_ALL, Bouncer, of_the_guide
from harness.cluster import ROOT
from harness.entries import ALICE, BOB, lookup, upsert

CONFIGURATIONS = {
    "no prepared statements": {**ONE_FOR_ALL, "max_prepared_statements": 0},
    "prepared statements": {**ONE_FOR_ALL, "max_prepared_statements": 100},
}


@pytest.fixture(params=[*CONFIGURATIONS, "the guide's"])
def bouncer(request, cluster):
    bouncer = Bouncer(cluster, CONFIGURATIONS.get(request.param) or of_the_guide())
    yield bouncer
    bouncer.stop()


def test_the_guide_pools_by_transaction():
    assert of_the_guide()["pool_mode"] == "transaction" and of_the_guide()["server_reset_query"] == "DISCARD ALL"


class Client:
    """An application's: claims and role are set for the transaction."""

    def __init__(self, bouncer, database, user):
        self.connection, self.user = bouncer.connect(database.name), user

    def transact(self, dice, claim):
        """Returns the server process, whom the session acted for, and what a lookup of each user's entry found."""
        with self.connection.transaction():
            if self.user:
                claims, setting = (json.dumps({"sub": self.user}), "request.jwt.claims") if claim == "claims" else (self.user, "infinite_pages_cache.user_id")
                self.connection.execute("SELECT set_config(%s, %s, true)", (setting, claims))
            self.connection.execute("SET LOCAL ROLE authenticated")
            if self.user:
                upsert(self.connection, json.dumps(self.user), (self.user, "t", f"k{dice.randrange(3)}"))
            pid, acting = self.connection.execute("SELECT pg_backend_pid(), cache_current_user_id()::text").fetchone()
            found = [self.connection.execute("SELECT content FROM cache_lookup_many(%s, 't', '{k0,k1,k2}') WHERE content IS NOT NULL", (user,)).fetchall()
                     for user in (ALICE, BOB)]
            found += [[(lookup(self.connection, (user, "t", "k0")),)] for user in (ALICE, BOB)]
            if dice.random() < 0.3:
                # What fails ends the transaction, and with it what was set.
                with pytest.raises(psycopg.errors.InvalidParameterValue), self.connection.transaction():
                    lookup(self.connection, (self.user or ALICE, "", ""))
            if dice.random() < 0.2:
                raise psycopg.Rollback
        return pid, acting, {content for rows in found for content, in rows}


@pytest.mark.parametrize("claim", ["claims", "setting"])
def test_claims_of_one_client_never_reach_the_next(bouncer, database, roles, claim):
    database.execute("SELECT cache_grant_tenant('authenticated')")
    clients = [Client(bouncer, database, user) for user in (ALICE, BOB, None, ALICE, BOB, None)]
    dice, pids = random.Random(1), set()
    for _ in range(120):
        client = dice.choice(clients)
        pid, acting, found = client.transact(dice, claim) or (None, client.user, set())
        pids.add(pid)
        assert acting == client.user
        assert found <= {client.user, None}
    # PgBouncer may not have taken a connection back yet when the next client comes.
    assert len(pids - {None}) <= min(bouncer.pool_size, len(clients) - 1), "clients have shared connections"
    for client in clients:
        client.connection.close()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_clients_work_as_they_do_without_it(name):
    """All tests of these modules but the one in which two transactions are open at a time, which cannot share a connection. In other
    modules that is common, or sessions set what is to last, which the next client would get."""
    modules = ("lookups", "keys", "pages", "reference", "tenants", "partitions", "statistics", "statistics_views", "audit_reads", "generated_input")
    tests = [str(next((ROOT / "tests").glob(f"*/test_{module}.py"))) for module in modules]
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not keeps_its_snapshot", *tests], cwd=ROOT, text=True,
                         capture_output=True, env={**os.environ, "IPC_BOUNCER": json.dumps({**CONFIGURATIONS[name], "query_wait_timeout": 10})})
    assert ran.returncode == 0, ran.stdout[-3000:]
