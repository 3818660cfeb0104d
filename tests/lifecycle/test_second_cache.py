"""Whoever creates the extension in another schema than before gets a second, empty cache, and is told of the first one."""

import re

import pytest

from harness.entries import ALICE, CACHE
from harness.errors import sqlstate_of, warnings_of
from harness.roles import temporary_roles

DROP = "DROP EXTENSION infinite_pages_cache CASCADE"
MESSAGE = "this database already has a cache in another schema"


@pytest.mark.parametrize("schema", ["old", '"Größe 1"'])
def test_a_cache_that_is_left_in_another_schema_is_told_of(empty_database, schema):
    database = empty_database
    create = f"CREATE SCHEMA {schema}; CREATE EXTENSION infinite_pages_cache SCHEMA {schema}"
    assert warnings_of(database, create) == []
    database.execute(f"SELECT {schema}.cache_upsert('{ALICE}', 't', 'k', '1')")
    database.execute(DROP)
    [(message, detail, hint)] = warnings_of(database, "CREATE EXTENSION infinite_pages_cache")
    assert message == MESSAGE and f"schema {schema}," in detail and "in public." in detail
    assert database.value(f"SELECT cache_lookup('{ALICE}', 't', 'k')") is None
    # Once is enough: the new one's tables are there now.
    assert warnings_of(database, "SELECT cache_setup()") == []
    # What the hint says is what helps.
    statements = re.search(r"(DROP EXTENSION .*?); (CREATE EXTENSION .*?);", hint).groups()
    database.execute(statements[0])
    assert warnings_of(database, statements[1]) == []
    assert database.value(f"SELECT {schema}.cache_lookup('{ALICE}', 't', 'k')") == 1


def test_in_the_same_schema_the_cache_is_taken_up_again_without_a_word(database):
    database.execute(f"SELECT cache_upsert('{ALICE}', 't', 'k', '1')")
    database.execute(DROP)
    assert warnings_of(database, "CREATE EXTENSION infinite_pages_cache") == []
    assert database.value(f"SELECT cache_lookup('{ALICE}', 't', 'k')") == 1


@pytest.mark.parametrize("table", [
    f"CREATE TABLE other.{CACHE} (user_id uuid, content_type text, cache_key text, content jsonb, created_at timestamptz, expires_at timestamptz)",
    f"CREATE TABLE other.{CACHE} (created_at timestamptz) PARTITION BY RANGE (created_at)",
    f"CREATE TABLE other.{CACHE} (user_id uuid, content_type text, cache_key text, content jsonb, created_at timestamptz, expires_at timestamptz) "
    f"PARTITION BY RANGE (created_at); ALTER TABLE other.{CACHE} OWNER TO stranger",
], ids=["plain", "of another shape", "of a role whose tables are not adopted"])
def test_what_could_not_be_adopted_is_no_other_cache(empty_database, table):
    with temporary_roles(empty_database.cluster, "stranger"):
        empty_database.execute(f"CREATE SCHEMA other; {table}")
        assert warnings_of(empty_database, "CREATE EXTENSION infinite_pages_cache") == []


def test_drop_extension_refuses_and_with_cascade_leaves_every_row(database):
    assert sqlstate_of(lambda: database.execute("DROP EXTENSION infinite_pages_cache")).sqlstate == "2BP01"
    database.execute(f"SELECT cache_upsert('{ALICE}', 't', 'k', '1')")
    database.execute(DROP)
    assert database.value(f"SELECT count(*) FROM {CACHE}") == 1
