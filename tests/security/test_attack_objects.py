"""Every object of the extension, and what each role may do with it. The objects come from the catalogs: one that is not in
the tables below fails the test until somebody has decided who may use it."""

import re

import psycopg
import pytest

from harness.entries import ALICE, BOB, CACHE
from harness.months import this_month
from harness.roles import acting, default_privileges, outcome, temporary_roles
from harness.tenants import fill_for_alice, function_statements

ALL = {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"}
ROWS = {"SELECT", "INSERT", "UPDATE", "DELETE"}
READ = {"SELECT"}
# One that was granted to be, and the predefined role.
MONITORS = {"monitor": READ, "pg_monitor": READ}
# The role that the owner of the database is a member of: what it may call acts for the owner of the tables only.
DATABASE_OWNER = {"pg_database_owner": READ}

# Of anon, which has no rights, nothing is said; the owner of the tables has all of them.
TABLES = {
    CACHE: {"authenticated": ROWS, "service_role": ROWS},
    "cache_content_policies": {"authenticated": READ, "service_role": ROWS, **MONITORS},
    "cache_audit_log": {"service_role": READ | {"DELETE"}},
    "cache_audit_archive": {"service_role": READ | {"DELETE"}},
    **dict.fromkeys(["cache_statistics_hourly", "cache_entry_summary", "cache_user_summary"], {"service_role": READ, **MONITORS}),
    # An error in it may quote any row.
    "cache_maintenance_runs": {"service_role": READ},
    "cache_audit_log_id_seq": {},
    # A partition of either table.
    "infinite_pages_cache_YYYY_MM": {},
    "cache_audit_log_YYYY_MM": {},
}
# Views belong to the extension, not to the owner of the tables.
VIEWS = {
    **dict.fromkeys(["user_cache_analytics", "cache_leases"], {"authenticated": READ, "service_role": READ, **MONITORS, **DATABASE_OWNER}),
    **dict.fromkeys(["cache_performance_metrics", "partition_health_metrics", "cache_connection_metrics", "cache_alerts", "cache_maintenance_log",
                     "cache_maintenance_status", "cache_maintenance_progress"], {"service_role": READ, **MONITORS, **DATABASE_OWNER}),
}

CASTS = {f"cast from {name} to cache_ttl" for name in ("interval", "smallint", "integer", "bigint", "numeric", "real", "double precision")}

# By who may execute them. What everybody may execute does nothing but compute, or works with the caller's rights on the tables.
COMPUTE = {"cache_key(jsonb)", "cache_entry_digest(text,text)", "cache_current_user_id()", "cache_latency_ms(double precision[],double precision)",
           "cache_ttl_in(cstring)", "cache_ttl_out(cache_ttl)", "cache_ttl_from_interval(interval)"}
WITH_CALLERS_RIGHTS = {
    "cache_lookup(uuid,text,text)", "cache_fetch(uuid,text,text,interval,text)", "cache_get(uuid,text,text)", "cache_lookup_many(uuid,text,text[])", "cache_search(uuid,text,jsonb,integer)",
    "cache_upsert(uuid,text,text,jsonb,cache_ttl,jsonb,double precision,text,jsonb,uuid,text,integer,text,double precision,timestamp with time zone,uuid)",
    "cache_upsert_many(jsonb)", "cache_touch(uuid,text,text,cache_ttl)", "cache_invalidate(uuid,text,text)",
    "cache_invalidate_content_type(uuid,text)", "cache_invalidate_where(uuid,jsonb)", "cache_invalidate_dependents(uuid,text)",
    "get_infinite_pages_analytics(uuid)", "user_cache_analytics()",
    "cache_explain(uuid,text,text,jsonb)", "cache_refresh_candidates(interval,integer)"}
# They work on shared memory, where no right on a table is asked for: only what is the caller's own is shown or ended.
OWN_ONLY = {"cache_pending_hits()", "cache_pending_hits_by(text)", "cache_leases()", "cache_release(uuid,boolean,interval)",
            "cache_extend_lease(uuid,interval)", "cache_end_leases(uuid,text)"}
TENANT = {"cache_create_current_partition()"}
SERVICE_AND_WATCHER = {"verify_production_cache()", "check_partition_health()", "cache_statistics(boolean)", "cache_pending_invalidations()"} | {
    f"{view}()" for view, roles in VIEWS.items() if "authenticated" not in roles}
SERVICE = {"cleanup_expired_cache_entries_production()", "cache_forget_user(uuid)", "cache_invalidate_content_type_for_all_users(text)",
           "create_monthly_cache_partition(timestamp without time zone)", "drop_old_cache_partitions(integer,boolean)"}
OWNER = {"cache_setup()", "cache_run_maintenance()", "cache_flush_statistics()", "archive_audit_logs(interval)"}
# They are for who has created the extension, to whom functions and views belong.
GRANTING = {"cache_grant_tenant(text)", "cache_grant_service(text)", "cache_grant_monitor(text)"}
EVERYBODY = COMPUTE | WITH_CALLERS_RIGHTS | OWN_ONLY
EXECUTE = {
    "anon": EVERYBODY,
    "authenticated": EVERYBODY | TENANT,
    "service_role": EVERYBODY | TENANT | SERVICE | SERVICE_AND_WATCHER,
    "pg_read_all_data": EVERYBODY | SERVICE_AND_WATCHER,
    "monitor": EVERYBODY | SERVICE_AND_WATCHER,
    "pg_monitor": EVERYBODY | SERVICE_AND_WATCHER,
    "pg_database_owner": EVERYBODY | TENANT | SERVICE | SERVICE_AND_WATCHER | OWNER,
    "cache_owner": EVERYBODY,
}
# Without a search_path of their own: they run no statement, or qualify every name in it.
WITHOUT_SEARCH_PATH = COMPUTE | {"cache_lookup(uuid,text,text)", "cache_fetch(uuid,text,text,interval,text)", "cache_statistics(boolean)"}
ROLES = ["anon", "authenticated", "service_role", "monitor", "pg_monitor", "pg_database_owner", "cache_owner"]


@pytest.fixture(params=["plain", "supabase"])
def guarded(request, roles, empty_database):
    """A database with every kind of object, whose tables belong to a role that is no superuser; as it is installed, and under default
    privileges that open all of it."""
    with temporary_roles(empty_database.cluster, "cache_owner", "monitor"):
        if request.param == "supabase":
            empty_database.execute(default_privileges("IN SCHEMA public"))
        empty_database.execute("CREATE EXTENSION infinite_pages_cache; GRANT CREATE ON SCHEMA public TO cache_owner; "
                               "SELECT cache_grant_monitor('monitor')")
        fill_for_alice(empty_database)
        with empty_database.connect() as connection:
            # A month that a tenant's write has made.
            connection.execute(f"DROP TABLE infinite_pages_cache_{this_month(connection)}, cache_audit_log_{this_month(connection)}")
            with acting(connection, ALICE):
                connection.execute("SELECT cache_upsert(%s, 't', 'k', '1')", (ALICE,))
            for name, kind in relations(connection):
                if kind in "rp":
                    connection.execute(f"ALTER TABLE {name} OWNER TO cache_owner")
        yield empty_database


def relations(connection):
    return connection.execute("SELECT relname::text, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace "
                              "AND relkind NOT IN ('i', 'I', 't') ORDER BY 1").fetchall()


def reviewed(name):
    """The name that an object has in the tables above."""
    return re.sub(r"^(infinite_pages_cache|cache_audit_log)_\d{4}_\d\d$", r"\1_YYYY_MM", name)


def test_each_privilege_on_each_relation(guarded):
    with guarded.connect() as connection:
        found = {}
        for name, kind in relations(connection):
            privileges = ["SELECT", "UPDATE"] if kind == "S" else sorted(ALL)
            function = "has_sequence_privilege" if kind == "S" else "has_table_privilege"
            for role in ROLES:
                held = {privilege for privilege in privileges
                        if connection.execute(f"SELECT {function}(%s, %s::regclass, %s)", (role, name, privilege)).fetchone()[0]}
                # A right on a single column would be one, too.
                if kind != "S":
                    held |= {privilege for privilege in ("SELECT", "INSERT", "UPDATE", "REFERENCES") if connection.execute(
                        "SELECT has_any_column_privilege(%s, %s::regclass, %s)", (role, name, privilege)).fetchone()[0]}
                expected = {**TABLES, **VIEWS}[reviewed(name)].get(role, set())
                if role == "cache_owner":
                    expected = set() if name in VIEWS else set(privileges)
                found[role, name] = held, expected
        assert {key: held for key, (held, _) in found.items()} == {key: expected for key, (_, expected) in found.items()}
        assert {reviewed(name) for name, _ in relations(connection)} == set(TABLES) | set(VIEWS)
        assert connection.execute("SELECT r.rolname FROM pg_class c, aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee "
                                  "WHERE c.relnamespace = 'public'::regnamespace AND (a.grantee = 0 OR a.is_grantable AND a.grantee <> c.relowner)"
                                  ).fetchall() == []


# What needs the ownership of a table, and of what it is to be done to.
FOR_OWNERS = ["CREATE INDEX ON {name} ({column})", "ALTER TABLE {name} DISABLE ROW LEVEL SECURITY", "ALTER TABLE {name} FORCE ROW LEVEL SECURITY",
              "ALTER TABLE {name} ADD COLUMN x integer", "CREATE POLICY p ON {name} USING (true)", "DROP TABLE {name}", "CLUSTER {name}",
              "CREATE RULE r AS ON INSERT TO {name} DO INSTEAD NOTHING", "COMMENT ON TABLE {name} IS 'x'", "REINDEX TABLE {name}",
              "CREATE STATISTICS work.s ON {column}, tableoid FROM {name}", "ALTER TABLE {name} OWNER TO {role}", "ALTER TABLE {name} RENAME TO x",
              "ALTER TABLE {name} REPLICA IDENTITY FULL"]
BY_PRIVILEGE = {
    "SELECT": ["SELECT * FROM {name}", "SELECT FROM {name}", "COPY (SELECT * FROM {name}) TO STDOUT", "TABLE {name} LIMIT 0",
               "EXPLAIN SELECT * FROM {name}",
               "EXPLAIN (ANALYZE) SELECT * FROM {name}"],
    "INSERT": ["INSERT INTO {name} DEFAULT VALUES", "COPY {name} FROM STDIN"],
    "UPDATE": ["UPDATE {name} SET {column} = DEFAULT WHERE false"],
    "DELETE": ["DELETE FROM {name} WHERE false", "DELETE FROM {name}"],
    "TRUNCATE": ["TRUNCATE {name}", "TRUNCATE {name} CASCADE"],
    "TRIGGER": ["CREATE TRIGGER t BEFORE DELETE ON {name} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"],
    "REFERENCES": ["CREATE TABLE work.r ({key}, FOREIGN KEY ({key_names}) REFERENCES {name})"],
}


def primary_key(connection, name):
    return connection.execute(
        "SELECT quote_ident(a.attname), format_type(a.atttypid, a.atttypmod) FROM pg_index x JOIN pg_attribute a "
        "ON a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey) WHERE x.indrelid = %s::regclass AND x.indisprimary", (name,)).fetchall()


def is_denied(found):
    return isinstance(found, tuple) and found[0] == "42501" and re.match("permission denied for|must be owner of", found[1]) is not None


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role", "monitor"])
def test_each_statement_on_each_relation(guarded, role):
    """That the privileges above are what decides, and that nothing else opens a way."""
    guarded.execute(f"CREATE SCHEMA work; GRANT ALL ON SCHEMA work TO {role}")
    wrong, tried = [], 0
    with guarded.connect() as connection:
        for name, kind in relations(connection):
            expected = {**TABLES, **VIEWS}[reviewed(name)].get(role, set())
            [(column,)] = connection.execute("SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1",
                                             (name,)).fetchall()
            statements = [(text, privilege in expected) for privilege, texts in BY_PRIVILEGE.items() for text in texts]
            if kind in "rp":
                statements += [(text, False) for text in FOR_OWNERS]
            if kind == "S":
                statements = [(text, False) for text in ("SELECT nextval('{name}')", "SELECT setval('{name}', 1)", "SELECT last_value FROM {name}",
                                                         "SELECT currval('{name}')", "ALTER SEQUENCE {name} RESTART", "DROP SEQUENCE {name}")]
            for text, allowed in statements:
                # A view takes no rows, whoever asks; no role but the owner gets as far as that.
                if kind == "v" and not text.startswith(("SELECT", "TABLE", "COPY (", "EXPLAIN")):
                    continue
                key = primary_key(connection, name)
                # Without a key there is nothing to refer to.
                if "{key}" in text and not key:
                    continue
                statement = text.format(name=name, column=column, role=role, key=", ".join(f"{one} {kind}" for one, kind in key),
                                        key_names=", ".join(one for one, _ in key))
                found = outcome(connection, statement, BOB, role)
                tried += 1
                if is_denied(found) == allowed:
                    wrong.append((statement, allowed, found))
    assert wrong == []
    # So that a table of relations that comes back empty is noticed.
    assert tried > 400


def signatures(connection):
    """What the extension has made, by its signature, and what stands for it in the catalog."""
    return dict(connection.execute(
        "SELECT p.oid::regprocedure::text, p.oid FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid "
        "AND d.deptype = 'e' JOIN pg_extension e ON e.oid = d.refobjid WHERE e.extname = 'infinite_pages_cache'").fetchall())


def test_each_function_has_been_reviewed(guarded):
    with guarded.connect() as connection:
        known = signatures(connection)
        assert set(known) == EVERYBODY | TENANT | SERVICE | SERVICE_AND_WATCHER | OWNER | GRANTING
        # Nothing stands in the schema beside them.
        assert connection.execute("SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace").fetchone() == (len(known),)
        for role, expected in EXECUTE.items():
            held = {name for name, oid in known.items()
                    if connection.execute("SELECT has_function_privilege(%s, %s::oid, 'EXECUTE')", (role, oid)).fetchone()[0]}
            assert (role, held) == (role, expected)
        # PUBLIC may execute no function that only operators, services or tenants need.
        assert {name for (name,) in connection.execute(
            "SELECT p.oid::regprocedure::text FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a "
            "WHERE p.oid = ANY (%s) AND a.grantee = 0", (list(known.values()),))} == EVERYBODY
        # The inventory of what has other rights than its caller's, and of what the planner may run before row security.
        for column, expected in (("prosecdef", TENANT), ("proleakproof", {"cache_entry_digest(text,text)"}),
                                 ("proconfig IS NULL", WITHOUT_SEARCH_PATH), ("prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c')", set())):
            assert {name for (name,) in connection.execute(
                f"SELECT oid::regprocedure::text FROM pg_proc WHERE oid = ANY (%s) AND {column}", (list(known.values()),))} == expected
        assert connection.execute("SELECT DISTINCT proconfig FROM pg_proc WHERE oid = ANY (%s) AND proconfig IS NOT NULL", (list(known.values()),)
                                  ).fetchall() == [(["search_path=pg_catalog, pg_temp"],)]


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role", "monitor", "cache_owner"])
def test_each_function_called_by_each_role(guarded, role):
    with guarded.connect() as connection:
        names = {oid: name for name, oid in signatures(connection).items()}
        wrong = []
        for statement in function_statements(connection):
            [signature] = [name for name in names.values() if name.split("(")[0] == re.match(r"SELECT (\w+)\(", statement)[1]]
            found = outcome(connection, statement, BOB, role)
            if signature not in EXECUTE[role]:
                good = isinstance(found, tuple) and found[:2] == ("42501", f"permission denied for function {signature.split('(')[0]}")
            elif role in ("anon", "authenticated", "monitor") and signature.startswith(
                    ("cache_upsert(", "cache_upsert_many(", "cache_fetch(")):
                # The arguments are Alice's.
                good = isinstance(found, tuple) and found[0] == "42501" and found[1].startswith(
                    ("an entry of another user", "permission denied for table ")[:1 if role == "authenticated" else 2])
            elif (role == "anon" or role == "monitor" and signature != "user_cache_analytics()") and signature in WITH_CALLERS_RIGHTS:
                good = isinstance(found, tuple) and found[0] == "42501" and found[1].startswith("permission denied for table ")
            else:
                # One that fails for another reason has not been tried: give its arguments a value in ARGUMENTS.
                good = not isinstance(found, tuple)
            if not good:
                wrong.append((statement, found))
        assert wrong == []


def test_the_owner_has_what_it_is_given_and_no_more(guarded):
    """A role that owns the tables runs what the owner runs once it may execute it, and gets no right outside of its tables."""
    with guarded.connect() as connection:
        for signature, oid in signatures(connection).items():
            connection.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO cache_owner")
        for call, state in {"create_monthly_cache_partition('2031-07-01')": None,
                            "cache_run_maintenance()": None, "verify_production_cache()": None, "cache_flush_statistics()": None,
                            f"cache_forget_user('{ALICE}')": None, "archive_audit_logs('1 day')": None, "drop_old_cache_partitions(1)": None,
                            "cleanup_expired_cache_entries_production()": None,
                            # The functions and views are not the owner's to grant.
                            "cache_grant_tenant('authenticated')": "42501", "pg_read_file('PG_VERSION')": "42501",
                            "pg_stat_reset()": "42501"}.items():
            found = outcome(connection, f"SELECT * FROM {call}", None, "cache_owner")
            assert (call, found[0] if isinstance(found, tuple) else None) == (call, state), found


def test_nothing_else_belongs_to_the_extension(guarded):
    """No operator, rule, trigger, event trigger, language or server that the tables above would not show; and the policies as reviewed."""
    with guarded.connect() as connection:
        members = connection.execute(
            "SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid "
            "WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'infinite_pages_cache' "
            "AND d.classid <> 'pg_proc'::regclass").fetchall()
        # Since PostgreSQL 17 the row types of views are members, too, and the types of arrays.
        since_17 = {f"type {view}" for view in VIEWS} | {f"type {name}[]" for name in ("cache_ttl", *VIEWS)}
        assert {name for (name,) in members} - since_17 == {"type cache_ttl"} | CASTS | {f"view {view}" for view in VIEWS}
        assert connection.execute("SELECT tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE relnamespace = 'public'::regnamespace"
                                  ).fetchall() == []
        assert connection.execute("SELECT evtname FROM pg_event_trigger").fetchall() == []
        # A view reads nothing by itself: its rule would do so with its owner's rights.
        assert connection.execute(
            "SELECT r.ev_class::regclass::text, d.refobjid::regclass::text FROM pg_rewrite r "
            "JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass "
            "WHERE r.ev_class IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) AND d.refobjid <> r.ev_class"
        ).fetchall() == []
        policies = connection.execute(
            "SELECT tablename::text, policyname::text, permissive, roles::text[], cmd, qual, with_check FROM pg_policies "
            "WHERE schemaname = 'public'").fetchall()
        own = "(user_id = cache_current_user_id())"
        services = ["pg_database_owner", "service_role"]
        assert sorted((*policy[:3], sorted(policy[3]), *policy[4:]) for policy in policies) == sorted(
            [(CACHE, "tenant_isolation_cache_access", "PERMISSIVE", ["public"], "ALL", own, own)]
            + [(table, "analytics_readonly_access", "PERMISSIVE", ["pg_read_all_data"], "SELECT", "true", None)
               for table in (CACHE, "cache_audit_log", "cache_audit_archive")]
            + [(table, "admin_maintenance_access", "PERMISSIVE", services, "ALL", "true", "true")
               for table in (CACHE, "cache_audit_log", "cache_audit_archive", "cache_content_policies")]
            + [(table, "privileged_readonly_access", "PERMISSIVE", ["public"], "SELECT", "true", None)
               for table in ("cache_content_policies", "cache_maintenance_runs", "cache_statistics_hourly", "cache_entry_summary", "cache_user_summary")])
        # Row security is on everywhere.
        assert connection.execute("SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
                                  "AND NOT relrowsecurity").fetchall() == []


def test_a_new_object_fails_the_review(guarded):
    """The tests above see what comes to the schema."""
    guarded.execute("CREATE TABLE newcomer (); CREATE FUNCTION newcomer() RETURNS integer LANGUAGE sql AS 'SELECT 1'; "
                    "ALTER EXTENSION infinite_pages_cache ADD FUNCTION newcomer()")
    with pytest.raises(KeyError, match="newcomer"):
        test_each_privilege_on_each_relation(guarded)
    with pytest.raises(AssertionError):
        test_each_function_has_been_reviewed(guarded)
    with pytest.raises(AssertionError):
        test_each_function_called_by_each_role(guarded, "anon")


def test_copy_is_under_row_security(guarded):
    """COPY of a table under row security by a tenant copies its own rows; COPY into it is refused as a whole."""
    with guarded.connect() as connection:
        guarded.execute("SELECT cache_upsert(%s, 't', 'own', '1')", (BOB,))
        with acting(connection, BOB):
            with connection.cursor().copy(f"COPY (SELECT user_id, cache_key FROM {CACHE}) TO STDOUT") as copy:
                assert list(copy.rows()) == [(BOB, "own")]
        with acting(connection, BOB):
            with connection.cursor().copy(f"COPY {CACHE} (user_id, cache_key) TO STDOUT") as copy:
                # Of a partitioned table PostgreSQL before 18 copies nothing where row security applies.
                assert set(copy.rows()) <= {(BOB, "own")}
        with pytest.raises(psycopg.errors.FeatureNotSupported), acting(connection, BOB):
            with connection.cursor().copy(f"COPY {CACHE} (user_id, content_type, cache_key, content) FROM STDIN") as copy:
                copy.write_row((ALICE, "t", "forged", "1"))
        assert connection.execute(f"SELECT count(*) FROM {CACHE} WHERE cache_key = 'forged'").fetchone() == (0,)
