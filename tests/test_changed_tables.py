"""What an operator has made of the tables: errors that tell what is in the way, and no more of them than need be."""

import pytest

from conftest import ALICE, sqlstate_of
from test_lookups import lookup, upsert
from test_tenants import acting

CACHE = "infinite_pages_cache_partitioned"
KEY = (ALICE, "tone", "k")


@pytest.fixture
def client(database):
    with database.connect() as connection:
        upsert(connection, "1", KEY)
        yield connection


def explained(error, sqlstate):
    assert (error.sqlstate, bool(error.message_detail), bool(error.message_hint)) == (sqlstate, True, True), str(error)


@pytest.mark.parametrize("change", [
    f"CREATE POLICY kept ON {CACHE} AS RESTRICTIVE FOR UPDATE TO authenticated USING (false)",
    f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {CACHE} FOR EACH ROW EXECUTE FUNCTION refuse()""",
])
def test_who_can_never_write_is_not_told_to_try_again(roles, empty_database, change):
    empty_database.execute("CREATE EXTENSION infinite_pages_cache")
    with empty_database.connect() as connection:
        upsert(connection, "1", KEY)
        connection.execute(change)
        with acting(connection, ALICE, keep=False):
            explained(sqlstate_of(lambda: upsert(connection, "2", KEY)), "42501")
        assert lookup(connection, KEY) == 1


def test_a_default_partition_in_the_way_is_named(client):
    client.execute(f"CREATE TABLE others PARTITION OF {CACHE} DEFAULT")
    client.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at) VALUES ('{ALICE}', 't', 'k', '1', '2031-05-05')")
    error = sqlstate_of(lambda: client.execute("SELECT create_monthly_cache_partition('2031-05-01')"))
    explained(error, "23514")
    assert "others" in error.message_primary
    # A month of which it holds nothing is made.
    client.execute("SELECT create_monthly_cache_partition('2031-06-01')")
    # Once it is gone, that one, too.
    client.execute("DROP TABLE others")
    client.execute("SELECT create_monthly_cache_partition('2031-05-01')")


@pytest.mark.parametrize("column, of_type, calls", [
    ("content", "json USING content::json", ["cache_lookup(%s, 'tone', 'k')", "cache_get(%s, 'tone', 'k')", "cache_search(%s, 'tone', '{}')"]),
    ("content", "text USING content::text", ["cache_lookup(%s, 'tone', 'k')", "cache_get(%s, 'tone', 'k')", "cache_search(%s, 'tone', '{}')",
                                             "cache_lookup_many(%s, 'tone', '{k}')"]),
    ("expires_at", "timestamp USING now() + interval '1 day'", ["cache_get(%s, 'tone', 'k')", "cache_search(%s, 'tone', '{}')"]),
])
def test_a_column_of_another_type_is_told(client, column, of_type, calls):
    client.execute(f"ALTER TABLE {CACHE} ALTER COLUMN {column} TYPE {of_type}")
    for call in calls:
        explained(sqlstate_of(lambda: client.execute(f"SELECT * FROM {call}", (ALICE,))), "42804")


def test_costs_may_be_of_another_type(client):
    """As in tables that clients have brought."""
    client.execute(f"ALTER TABLE {CACHE} ALTER COLUMN token_cost TYPE double precision")
    upsert(client, "1", KEY, token_cost=2)
    assert client.execute("SELECT token_cost FROM cache_get(%s, 'tone', 'k')", (ALICE,)).fetchone() == (2,)
    assert client.execute("SELECT token_cost FROM cache_search(%s, 'tone', '{}')", (ALICE,)).fetchone() == (2,)


def test_an_entry_of_no_finite_age(client):
    client.execute(f"CREATE TABLE later PARTITION OF {CACHE} FOR VALUES FROM ('2100-01-01 00:00+00') TO (MAXVALUE)")
    client.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at) VALUES ('{ALICE}', 'tone', 'for ever', '2', 'infinity')")
    assert client.execute("SELECT content, age FROM cache_get(%s, 'tone', 'for ever')", (ALICE,)).fetchone() == (2, None)
    assert {content for (content,) in client.execute("SELECT content FROM cache_search(%s, 'tone', '{}')", (ALICE,)).fetchall()} == {1, 2}
