"""What docs/clients.md says of drivers: what they send, what they make of what they get, and what PostgreSQL does with it."""

import json

import psycopg
import pytest
from psycopg.types.json import Jsonb

from harness.cluster import Cluster, Standby
from harness.database import Database
from harness.entries import ALICE
from harness.errors import sqlstate_of

KEY = (ALICE, "t", "k")
UPSERT = "SELECT cache_upsert(%s, %s, %s, {})"


@pytest.fixture
def connection(database):
    with database.connect() as connection:
        yield connection


def looked_up(connection, key=KEY):
    return connection.execute("SELECT cache_lookup(%s, %s, %s)", key).fetchone()[0]


def test_plain_text_is_content_by_to_jsonb(connection):
    for text in ("The last tram had gone.", "12", "true", '{"a": 1}', '"quoted"', "", "naïve\n\\u0041"):
        connection.execute(UPSERT.format("to_jsonb(%s::text)"), (*KEY, text))
        assert looked_up(connection) == text
    # As it is, it is JSON or an error.
    assert sqlstate_of(lambda: connection.execute(UPSERT.format("%s"), (*KEY, "The last tram had gone."))).sqlstate == "22P02"
    connection.execute(UPSERT.format("%s"), (*KEY, "12"))
    assert looked_up(connection) == 12


def test_json_stringify_makes_content_of_any_value(connection):
    """As node-postgres sends it: a string as it is, and an array as an array of PostgreSQL's."""
    for value in ("plain", 12, True, ["x", "y"], {"a": [1, None]}, []):
        connection.execute(UPSERT.format("%s"), (*KEY, json.dumps(value)))
        assert looked_up(connection) == value
    assert sqlstate_of(lambda: connection.execute(UPSERT.format("%s"), (*KEY, '{"x","y"}'))).sqlstate == "22P02"


def test_jsonb_of_psycopg_makes_content_of_any_value(connection):
    for value in ("plain", 12, True, ["x", "y"], {"a": [1, None]}, []):
        connection.execute(UPSERT.format("%s"), (*KEY, Jsonb(value)))
        assert looked_up(connection) == value
    with pytest.raises(psycopg.ProgrammingError, match="cannot adapt"):
        connection.execute(UPSERT.format("%s"), (*KEY, {"a": 1}))
    assert sqlstate_of(lambda: connection.execute(UPSERT.format("%s"), (*KEY, ["x", "y"]))).sqlstate == "22P02"


def test_a_json_null_looks_like_a_miss_but_to_cache_get(connection):
    connection.execute(UPSERT.format("%s"), (*KEY, Jsonb(None)))
    assert looked_up(connection) is None and looked_up(connection, (ALICE, "t", "missing")) is None
    assert connection.execute("SELECT cache_lookup(%s, %s, %s) IS NULL", KEY).fetchone() == (False,)
    get = "SELECT content FROM cache_get(%s, %s, %s)"
    assert connection.execute(get, KEY).fetchall() == [(None,)] and connection.execute(get, (ALICE, "t", "missing")).fetchall() == []


def test_an_entry_that_never_expires_is_read_without_its_infinity(connection):
    connection.execute("SELECT cache_upsert(%s, %s, %s, '1', ttl => 'infinity')", KEY)
    get = "SELECT content, {} FROM cache_get(%s, %s, %s)"
    with pytest.raises(psycopg.DataError, match="timestamp too large"):
        connection.execute(get.format("expires_at"), KEY).fetchall()
    assert connection.execute(get.format("nullif(expires_at, 'infinity')"), KEY).fetchall() == [(1, None)]
    assert connection.execute(get.format("expires_at::text"), KEY).fetchall() == [(1, "infinity")]


@pytest.mark.parametrize("way", ["on", "off"])
def test_a_lookup_in_the_statement_of_an_upsert_does_not_see_it(connection, way):
    connection.execute(f"SET enable_indexscan = {way}")
    with connection.transaction():
        both = f"SELECT cache_upsert('{ALICE}', 't', 'k', '2') IS NOT NULL, cache_lookup('{ALICE}', 't', 'k')"
        assert connection.execute(both).fetchone() == (True, None)
        assert looked_up(connection) == 2
        assert connection.execute(f"WITH w AS MATERIALIZED (SELECT cache_upsert('{ALICE}', 't', 'k', '3')) SELECT cache_lookup('{ALICE}', 't', 'k') FROM w"
                                  ).fetchone() == (2,)
        assert looked_up(connection) == 3


def test_keys_with_commas_are_quoted_in_an_array_literal(connection):
    """supabase-js joins an array by commas in a GET; a string it passes as it is."""
    many = "SELECT cache_key FROM cache_lookup_many(%s, 't', %s)"
    assert connection.execute(many, (ALICE, "{noir, in Lisbon,western}")).fetchall() == [("noir",), ("in Lisbon",), ("western",)]
    assert connection.execute(many, (ALICE, '{"noir, in Lisbon",western}')).fetchall() == [("noir, in Lisbon",), ("western",)]


def test_what_reads_is_volatile_and_serves_read_only_transactions_on_a_standby():
    """PostgREST begins READ WRITE for a POST on a function that is VOLATILE, and READ ONLY for each GET."""
    primary = Cluster()
    database = Database(primary)
    database.execute(UPSERT.format("'1'"), KEY)
    readers = ("cache_lookup", "cache_get", "cache_lookup_many", "cache_search")
    assert set(database.execute("SELECT proname, provolatile::text FROM pg_proc WHERE proname = ANY (%s)", (list(readers),))) == {
        (name, "v") for name in readers}
    standby = Standby(primary)
    standby.wait_until_caught_up()
    with standby.connect(database.name) as connection:
        assert sqlstate_of(lambda: connection.execute("BEGIN READ WRITE")).sqlstate == "0A000"
        connection.execute("BEGIN READ ONLY")
        assert looked_up(connection) == 1
        assert connection.execute("SELECT content FROM cache_get(%s, %s, %s)", KEY).fetchall() == [(1,)]
        assert connection.execute("SELECT content FROM cache_lookup_many(%s, 't', '{k}')", KEY[:1]).fetchall() == [(1,)]
        assert connection.execute("SELECT content FROM cache_search(%s, 't', '{}')", KEY[:1]).fetchall() == [(1,)]
        connection.execute("COMMIT")
    for one in (standby, primary):
        one.remove()
