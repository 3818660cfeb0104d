"""What an operator has made of the tables: errors that tell what is in the way, and no more of them than need be."""

import psycopg
import pytest

from harness.entries import ALICE, BOB, CACHE, lookup, upsert
from harness.errors import sqlstate_of
from harness.roles import acting

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


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
@pytest.mark.parametrize("stored", [False, True], ids=["new", "there"])
@pytest.mark.parametrize("index, sqlstate", [
    ("ALTER TABLE {table} ADD CONSTRAINT of_my_own UNIQUE (user_id, story_id)", "23505"),
    ("CREATE UNIQUE INDEX of_my_own ON {table} (user_id, story_id)", "23505"),
    ("ALTER TABLE {table} ADD CONSTRAINT of_my_own EXCLUDE (story_id WITH =)", "23P01"),
])
def test_a_unique_index_in_the_way_is_named(client, level, stored, index, sqlstate):
    """One of the operator's own, on the partition of the month."""
    story, other = "57000000-0000-4000-8000-000000000001", "57000000-0000-4000-8000-000000000002"
    [(table,)] = client.execute(f"SELECT tableoid::regclass::text FROM {CACHE}").fetchall()
    client.execute(index.format(table=table))
    upsert(client, "1", KEY, story_id=story)
    second = (ALICE, "tone", "second")
    if stored:
        upsert(client, "1", second, story_id=other)
    client.execute(f"SET default_transaction_isolation = '{level}'")
    error = sqlstate_of(lambda: upsert(client, "2", second, story_id=story))
    explained(error, sqlstate)
    assert "of_my_own" in error.message_primary and "policy" not in str(error.message_detail)
    assert story in error.message_detail
    batch = [{"user_id": ALICE, "content_type": "tone", "cache_key": "second", "content": 2, "story_id": story}]
    error = sqlstate_of(lambda: client.execute("SELECT cache_upsert_many(%s)", (psycopg.types.json.Jsonb(batch),)))
    explained(error, sqlstate)
    assert "of_my_own" in error.message_primary
    assert lookup(client, second) == (1 if stored else None)
    upsert(client, "3", KEY, story_id=story)


def test_a_tenant_is_told_of_a_unique_index_but_not_of_anothers_values(roles, empty_database):
    empty_database.execute("CREATE EXTENSION infinite_pages_cache")
    with empty_database.connect() as connection:
        upsert(connection, "1", KEY)
        [(table,)] = connection.execute(f"SELECT tableoid::regclass::text FROM {CACHE}").fetchall()
        connection.execute(f"CREATE UNIQUE INDEX of_my_own ON {table} (content_type, foundation_dependency)")
        upsert(connection, "1", KEY, foundation_dependency="secret")
        with acting(connection, BOB, keep=False):
            error = sqlstate_of(lambda: upsert(connection, "2", (BOB, "tone", "k"), foundation_dependency="secret"))
            explained(error, "23505")
            assert "of_my_own" in error.message_primary and "secret" not in error.message_detail


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
