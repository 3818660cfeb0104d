"""Dumps lose nothing, and dropping the extension deletes nothing."""


import pytest

from harness.catalog import state
from harness.database import Database
from harness.dumps import ROLES, WAYS, dumped_as_script, fill, same, works
from harness.entries import ALICE, BOB
from harness.errors import sqlstate_of
from harness.roles import temporary_roles


@pytest.fixture(scope="module", params=["public", "pages"])
def source(cluster, request):
    schema = request.param
    with temporary_roles(cluster, *ROLES):
        database = Database(cluster, extension=False)
        database.schema = schema
        database.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE EXTENSION infinite_pages_cache SCHEMA {schema}")
        fill(database, schema)
        database.execute("INSERT INTO {}.infinite_pages_cache_partitioned (user_id, content_type, cache_key, content, expires_at) "
                         "VALUES ('{}', 'x', 'expired', '0', now())".format(schema, ALICE))
        database.state = state(database, schema)
        yield database
        database.drop()


@pytest.fixture
def target(cluster, source):
    database = Database(cluster, extension=False)
    yield database
    database.drop()


def test_the_source_is_what_the_tests_need(source):
    assert all(valid for _, _, valid in source.state["indexes"])
    assert source.state["rows"]["infinite_pages_cache_partitioned"][0] == 23
    # The second expired entry was there when maintenance ran.
    assert source.state["rows"]["cache_audit_archive"][0] == 1
    names = {row[0] for row in source.state["indexes"]}
    assert {"cache_audit_log_2026_01", "infinite_pages_cache_2025_12"} <= names
    assert not any("TABLE" in member.upper().split()[0] for (member,) in source.state["members"])


@pytest.mark.parametrize("way", WAYS)
def test_dump_and_restore_lose_nothing(source, target, tmp_path, way):
    dump_and_restore, *options = WAYS[way]
    dump_and_restore(source, target, tmp_path / "dump", *options)
    same(state(target, source.schema), source.state)
    works(target, source.schema)


def test_a_restored_database_dumps_the_same_again(cluster, source, target, tmp_path):
    dumped_as_script(source, target, tmp_path / "dump")
    third = Database(cluster, extension=False)
    dumped_as_script(target, third, tmp_path / "dump2")
    same(state(third, source.schema), source.state)
    third.drop()


def test_drop_extension_refuses_and_cascade_keeps_every_row(source, target, tmp_path):
    dumped_as_script(source, target, tmp_path / "dump")
    rows = source.state["rows"]
    refused = sqlstate_of(lambda: target.execute("DROP EXTENSION infinite_pages_cache"))
    assert refused.sqlstate == "2BP01"
    same(state(target, source.schema), source.state)

    target.execute("DROP EXTENSION infinite_pages_cache CASCADE")
    assert state(target, source.schema)["rows"] == rows

    target.execute(f"CREATE EXTENSION infinite_pages_cache SCHEMA {source.schema}")
    after = state(target, source.schema)
    assert after["rows"] == rows
    # Adopted as they were; only what an operator granted on functions and views has to be granted again.
    for part in ("columns", "relations", "indexes", "constraints", "policies", "members", "functions"):
        assert after[part] == source.state[part], part
    target.execute(f"SELECT {source.schema}.cache_grant_tenant('app_tenant'); SELECT {source.schema}.cache_grant_service('app_service')")
    works(target, source.schema)


def test_without_the_extension_tenants_see_nothing_of_the_rows_left_behind(source, target, tmp_path):
    dumped_as_script(source, target, tmp_path / "dump")
    target.execute("DROP EXTENSION infinite_pages_cache CASCADE")
    with target.connect() as connection:
        connection.execute("SET ROLE app_tenant")
        connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (BOB,))
        assert connection.execute(f"SELECT count(*) FROM {source.schema}.infinite_pages_cache_partitioned").fetchone() == (0,)
