"""A role that was granted nothing is told how it gets its rights; the server's own error stays what it is."""

import pytest

from harness.entries import ALICE, BOB, CACHE
from harness.roles import acting, outcome, temporary_roles

CALLS = [f"cache_lookup('{ALICE}', 't', 'k')", f"cache_get('{ALICE}', 't', 'k')", f"cache_lookup_many('{ALICE}', 't', '{{k}}')",
         f"cache_search('{ALICE}', 't', '{{}}')", f"cache_upsert('{ALICE}', 't', 'k', '1')",
         f"""cache_upsert_many('[{{"user_id": "{ALICE}", "content_type": "t", "cache_key": "k", "content": 1}}]')""",
         f"cache_touch('{ALICE}', 't', 'k', '1 day')", f"cache_invalidate('{ALICE}', 't', 'k')", f"cache_invalidate_content_type('{ALICE}', 't')",
         f"""cache_invalidate_where('{ALICE}', '{{"a": 1}}')""", f"cache_invalidate_dependents('{ALICE}', 'f')", f"get_infinite_pages_analytics('{ALICE}')",
         "user_cache_analytics()", f"cache_explain('{ALICE}', 't', 'k')", "cache_refresh_candidates()",
         f"cache_fetch('{ALICE}', 't', 'k')"]


@pytest.fixture
def roles_of_mine(cluster):
    with temporary_roles(cluster, "nothing", '"No Rights"', "app", "reader", "stats"):
        yield


@pytest.fixture(params=["public", '"Größe 1"'])
def placed(request, roles_of_mine, empty_database):
    empty_database.schema = request.param
    empty_database.execute(f"CREATE SCHEMA IF NOT EXISTS {request.param}; CREATE EXTENSION infinite_pages_cache SCHEMA {request.param}; "
                           f'GRANT USAGE ON SCHEMA {request.param} TO nothing, "No Rights", reader, stats')
    return empty_database


def hint(schema, role, grant="tenant"):
    return f"As the owner of the extension: SELECT {schema}.cache_grant_{grant}('{role}');"


@pytest.mark.parametrize("call", CALLS)
def test_a_role_without_grants_is_told_how_to_get_them(placed, call):
    with placed.connect() as connection:
        for role, name in (("nothing", "nothing"), ('"No Rights"', "No Rights")):
            found = outcome(connection, f"SELECT * FROM {placed.schema}.{call}", ALICE, role)
            assert found[0] == "42501" and found[1] in (f"permission denied for table {CACHE}", "permission denied for table cache_content_policies")
            assert found[2:] == (None, hint(placed.schema, name))


def test_what_the_hint_says_helps(placed):
    with placed.connect() as connection:
        connection.execute(f"SET search_path = {placed.schema}")
        for call in CALLS:
            statement = f"SELECT * FROM {placed.schema}.{call}"
            [_, _, _, way_out] = outcome(connection, statement, ALICE, '"No Rights"')
            connection.execute(way_out.split(": ")[1])
            assert not isinstance(outcome(connection, statement, ALICE, '"No Rights"'), tuple), call
            connection.execute('DROP OWNED BY "No Rights"')
            connection.execute(f'GRANT USAGE ON SCHEMA {placed.schema} TO "No Rights"')


def test_whether_there_is_an_entry_makes_no_difference(placed):
    def errors():
        with placed.connect() as connection:
            return {call: outcome(connection, f"SELECT * FROM {placed.schema}.{call}", BOB, "nothing") for call in CALLS}

    before = errors()
    placed.execute(f"SELECT {placed.schema}.cache_upsert('{ALICE}', 't', 'k', '1')")
    assert errors() == before


def test_a_role_that_has_a_part_of_the_rights(placed):
    placed.execute(f"GRANT SELECT ON {placed.schema}.{CACHE} TO reader")
    with placed.connect() as connection:
        found = {call: outcome(connection, f"SELECT {placed.schema}.{call}", ALICE, "reader") for call in CALLS}
        # What reads, and what finds nothing to change, is answered.
        denied = {call: (error[0], error[3]) for call, error in found.items() if isinstance(error, tuple)}
        assert {call.split("(")[0] for call in denied} >= {"cache_upsert", "cache_upsert_many", "cache_invalidate_where"}
        assert set(denied.values()) == {("42501", hint(placed.schema, "reader"))}


def test_a_role_that_may_execute_a_report_and_read_nothing(placed):
    placed.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {placed.schema} TO stats")
    with placed.connect() as connection:
        for report in ("cache_alerts", "cache_performance_metrics", "partition_health_metrics", "cache_maintenance_log", "cache_maintenance_status",
                       "verify_production_cache"):
            found = outcome(connection, f"SELECT * FROM {placed.schema}.{report}()", None, "stats")
            assert (found[0], found[3]) == ("42501", hint(placed.schema, "stats", "monitor")), report


def test_the_month_that_a_role_with_rights_on_the_tables_alone_may_not_make(placed):
    placed.execute(f"GRANT ALL ON {placed.schema}.{CACHE}, {placed.schema}.cache_content_policies TO reader")
    with placed.connect() as connection:
        month = connection.execute("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')").fetchone()[0]
        connection.execute(f"DROP TABLE {placed.schema}.infinite_pages_cache_{month}")
        found = outcome(connection, f"SELECT {placed.schema}.{CALLS[4]}", ALICE, "reader")
        assert found == ("42501", "permission denied for function cache_create_current_partition", None, hint(placed.schema, "reader"))


def test_errors_of_anothers_making_get_no_such_hint(roles_of_mine, database):
    """A restrictive policy, and a trigger that may not do what it tries, are no matter of grants on the cache."""
    database.execute("SELECT cache_grant_tenant('app'); CREATE TABLE secret (x integer); "
                     "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM * FROM public.secret; RETURN NEW; END'; "
                     f"CREATE TRIGGER t BEFORE INSERT ON {CACHE} FOR EACH ROW EXECUTE FUNCTION f()")
    with database.connect() as connection:
        assert outcome(connection, f"SELECT {CALLS[4]}", ALICE, "app") == ("42501", "permission denied for table secret", None, None)
        connection.execute(f"DROP TRIGGER t ON {CACHE}; CREATE POLICY p ON {CACHE} AS RESTRICTIVE FOR INSERT TO app WITH CHECK (false)")
        found = outcome(connection, f"SELECT {CALLS[4]}", ALICE, "app")
        assert found[0] == "42501" and "cache_grant" not in str(found[3])
        assert "another user" in outcome(connection, f"SELECT {CALLS[4]}", BOB, "app")[1]


def test_the_transaction_goes_on_from_a_savepoint_after_it(roles_of_mine, database):
    with database.connect() as connection, acting(connection, ALICE, "nothing"):
        for call in CALLS * 3:
            connection.execute("SAVEPOINT s")
            try:
                connection.execute(f"SELECT * FROM {call}")
            except Exception as error:
                assert error.sqlstate == "42501"
            connection.execute("ROLLBACK TO s")
        assert connection.execute("SELECT current_user").fetchone() == ("nothing",)
