"""The columns of an entry: what a client gives, by name, gets into the column of that name, whichever way it is stored."""

import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from harness.entries import ALICE, CACHE
from harness.errors import refused
from harness.reports import columns_of

GIVEN = {
    "user_id": UUID(ALICE), "content_type": "t", "cache_key": "k", "content": {"answer": 42}, "metadata": {"genre": "noir"},
    "token_cost": Decimal("1.25"), "prompt_template": "Tell me", "prompt_variables": {"of": "Lisbon"},
    "story_id": UUID("5702e000-0000-4000-8000-000000000001"), "foundation_dependency": "f", "priority_tier": 1,
    "semantic_similarity_hash": "h", "reuse_score": Decimal("7.5"), "expires_at": datetime(2999, 1, 1, tzinfo=timezone.utc)}
# What the cache fills in, and what it leaves to the application.
FILLED = {"id", "created_at", "last_accessed", "hit_count", "adaptation_count", "token_cost_saved", "access_frequency", "compression_applied"}


def arguments(connection):
    return connection.execute("SELECT proargnames FROM pg_proc WHERE proname = 'cache_upsert'").fetchone()[0]


def store_one(connection, given):
    values = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in given.items()}
    connection.execute(f"SELECT cache_upsert({', '.join(f'{name} => %({name})s' for name in values)})", values)


def store_many(connection, given):
    connection.execute("SELECT cache_upsert_many(%s)", (json.dumps([given], default=str),))


def row(connection):
    [found] = columns_of(connection, f"SELECT * FROM {CACHE}")
    return found


def test_the_fields_of_a_batch_are_the_arguments_of_an_upsert_and_become_the_columns_of_the_table(database):
    with database.connect() as connection:
        names = arguments(connection)
        assert set(names) == GIVEN.keys() | {"ttl", "lease"}
        store_one(connection, GIVEN)
        assert row(connection).keys() == GIVEN.keys() | FILLED
    error = refused(database, "SELECT cache_upsert_many('[{\"title\": 1}]')", "22023")
    assert error.message_hint == f"The fields are {', '.join(names)}."


@pytest.mark.parametrize("store", [store_one, store_many])
def test_each_value_is_in_its_column_of_a_new_entry_and_of_a_replaced_one(database, store):
    with database.connect() as connection:
        store(connection, GIVEN)
        new = row(connection)
        assert {name: new[name] for name in GIVEN} == GIVEN
        assert (new["hit_count"], new["adaptation_count"], new["token_cost_saved"], new["access_frequency"]) == (0, 0, 0, 1)
        connection.execute(f"UPDATE {CACHE} SET hit_count = 2, adaptation_count = 3, token_cost_saved = 4, access_frequency = 5")
        store(connection, {"user_id": ALICE, "content_type": "t", "cache_key": "k", "content": {}})
        replaced = row(connection)
        defaults = {"content": {}, "metadata": {}, "prompt_template": None, "prompt_variables": {}, "story_id": None,
                    "foundation_dependency": None, "semantic_similarity_hash": None, "reuse_score": 5, "token_cost": 1, "priority_tier": 3}
        assert {name: replaced[name] for name in defaults} == defaults
        kept = ("id", "last_accessed")
        assert [replaced[name] for name in kept] == [new[name] for name in kept]
        assert (replaced["hit_count"], replaced["adaptation_count"], replaced["token_cost_saved"], replaced["access_frequency"]) == (2, 3, 4, 5)
        store(connection, GIVEN)
        again = row(connection)
        assert {name: again[name] for name in GIVEN} == GIVEN


@pytest.mark.parametrize("store", [store_one, store_many])
def test_a_time_to_live_becomes_the_expiry(database, store):
    with database.connect() as connection:
        store(connection, {name: value for name, value in GIVEN.items() if name != "expires_at"} | {"ttl": "36 hours"})
        stored = row(connection)
        assert stored["expires_at"] - stored["created_at"] == timedelta(hours=36)
