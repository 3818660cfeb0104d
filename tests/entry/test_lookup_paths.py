"""Two ways lead to an entry: the indexes of the partitions, and, where that is not allowed, a statement. Both give
the same answer whatever happens to the table between two lookups of a session."""

import contextlib
import datetime
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from harness.entries import ALICE, BOB
from harness.errors import sqlstate_of
from harness.roles import temporary_roles
from harness.waiting import is_waiting, wait_until

TABLE = "infinite_pages_cache_partitioned"
THIS = datetime.datetime.now(datetime.timezone.utc).replace(day=1)


def month(ago):
    number = THIS.year * 12 + THIS.month - 1 - ago
    return datetime.date(number // 12, number % 12 + 1, 1)


def partition(ago):
    return f"infinite_pages_cache_{month(ago):%Y_%m}"


def plans(session):
    """How many plans of lookups the session keeps."""
    return session.execute("SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'CachedPlanSource' "
                           "AND ident ~ '^SELECT (CASE|e.found)'").fetchone()[0]


def state(action):
    return sqlstate_of(action).sqlstate


class Both:
    """Sessions that stay, one for each way."""

    def __init__(self, database, stack, user="postgres", before=""):
        self.direct, self.planned = (stack.enter_context(database.connect(user=user)) for _ in range(2))
        for session in (self.direct, self.planned):
            if before:
                session.execute(before)
        self.planned.execute("SET enable_indexscan = off")

    def each(self):
        return (self.direct, self.planned)

    def lookup(self, key, user=ALICE):
        one, other = (session.execute("SELECT cache_lookup(%s, 't', %s)", (user, key)).fetchone()[0] for session in self.each())
        # A key that stands twice, and one that is not there, beside it.
        many = [session.execute("SELECT array_agg(content ORDER BY ordinality) FROM cache_lookup_many(%s, 't', %s) WITH ORDINALITY",
                                (user, [key, "none", key])).fetchone()[0] for session in self.each()]
        assert one == other
        assert many == [[one, None, one]] * 2
        return one


@pytest.fixture
def both(database):
    with contextlib.ExitStack() as stack:
        both = Both(database, stack)
        for ago in (1, 2):
            both.direct.execute("SELECT create_monthly_cache_partition(%s)", (month(ago),))
        yield both


def insert(session, key, content, ago=0, user=ALICE, table=TABLE):
    session.execute(f"INSERT INTO {table} (user_id, content_type, cache_key, content, created_at, expires_at) "
                    "VALUES (%s, 't', %s, %s::jsonb, %s::date + interval '2 hours', 'infinity')", (user, key, content, month(ago)))


def test_each_way_is_the_one_it_is_taken_for(both):
    insert(both.direct, "k", "1")
    assert both.lookup("k") == 1
    assert plans(both.direct) == 0
    assert plans(both.planned) == 2


def test_partitions_come_and_go(both):
    session = both.direct
    insert(session, "k", '"two months ago"', ago=2)
    assert both.lookup("k") == "two months ago"
    session.execute("SELECT create_monthly_cache_partition(%s)", (month(3),))
    insert(session, "old", '"three months ago"', ago=3)
    assert both.lookup("old") == "three months ago"
    session.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {partition(2)}")
    assert both.lookup("k") is None
    # Changed while it is away.
    session.execute(f"UPDATE {partition(2)} SET content = '2'")
    low, high = month(2), month(1)
    session.execute(f"ALTER TABLE {TABLE} ATTACH PARTITION {partition(2)} FOR VALUES FROM ('{low} 00:00+00') TO ('{high} 00:00+00')")
    assert both.lookup("k") == 2
    session.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {partition(2)} CONCURRENTLY")
    assert both.lookup("k") is None
    session.execute(f"DROP TABLE {partition(3)}")
    assert both.lookup("old") is None
    assert both.lookup("none") is None
    assert plans(session) == 0


def test_a_rename_or_a_move_of_the_table_is_followed_or_told(both):
    session = both.direct
    insert(session, "k", "1")
    assert both.lookup("k") == 1
    session.execute(f"ALTER TABLE {partition(0)} RENAME TO this_month")
    assert both.lookup("k") == 1
    session.execute("CREATE SCHEMA elsewhere")
    session.execute("ALTER TABLE this_month SET SCHEMA elsewhere")
    assert both.lookup("k") == 1
    session.execute(f"ALTER TABLE {TABLE} RENAME TO other")
    for one in both.each():
        assert state(lambda: one.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,))) == "42P01"
    session.execute(f"ALTER TABLE other RENAME TO {TABLE}")
    assert both.lookup("k") == 1


def test_what_is_rolled_back_is_forgotten(both):
    for session in both.each():
        insert(session, "k", '"old"', ago=1)
        with pytest.raises(ZeroDivisionError), session.transaction():
            session.execute(f"DROP TABLE {partition(1)}")
            assert session.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,)).fetchone() == (None,)
            raise ZeroDivisionError
        assert session.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,)).fetchone() == ("old",)
        with session.transaction():
            with pytest.raises(ZeroDivisionError), session.transaction():
                session.execute("SELECT create_monthly_cache_partition(%s)", (month(5),))
                insert(session, "older", "5", ago=5)
                assert session.execute("SELECT cache_lookup(%s, 't', 'older')", (ALICE,)).fetchone() == (5,)
                raise ZeroDivisionError
            # The partition is gone, and the list of them with it.
            assert session.execute("SELECT cache_lookup(%s, 't', 'older')", (ALICE,)).fetchone() == (None,)
            assert session.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,)).fetchone() == ("old",)
            with pytest.raises(psycopg.errors.InvalidParameterValue), session.transaction():
                session.execute("SELECT cache_lookup(%s, 't', 'k'), cache_lookup(%s, 't', '')", (ALICE, ALICE))
            assert session.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,)).fetchone() == ("old",)
        session.execute("SELECT cache_invalidate(%s, 't', 'k')", (ALICE,))


@pytest.mark.parametrize("change", [
    f"DROP INDEX {partition(0)}_user_id_cache_entry_digest_idx",
    f"CREATE TABLE rest PARTITION OF {TABLE} DEFAULT",
    f"CREATE TABLE sub PARTITION OF {TABLE} FOR VALUES FROM ('2001-01-01') TO ('2001-02-01') PARTITION BY RANGE (created_at)",
], ids=["without an index", "with a default partition", "with a partition that has some of its own"])
def test_what_the_indexes_cannot_answer_a_statement_does(both, change):
    insert(both.direct, "k", "1")
    insert(both.direct, "k", "0", ago=1)
    assert (both.lookup("k"), plans(both.direct)) == (1, 0)
    both.direct.execute(change)
    assert (both.lookup("k"), plans(both.direct)) == (1, 2)


def test_an_index_made_anew_is_used(both):
    insert(both.direct, "k", "1")
    assert both.lookup("k") == 1
    both.direct.execute(f"REINDEX TABLE CONCURRENTLY {partition(0)}")
    assert both.lookup("k") == 1
    both.direct.execute(f"DROP INDEX {partition(0)}_user_id_cache_entry_digest_idx")
    assert both.lookup("k") == 1
    assert plans(both.direct) == 2
    both.direct.execute("DISCARD ALL")
    both.direct.execute("SELECT cache_setup()")
    assert both.lookup("k") == 1
    both.direct.execute(f"REINDEX TABLE {TABLE}")
    both.direct.execute(f"VACUUM FULL {partition(0)}")
    both.direct.execute(f"CLUSTER {partition(0)} USING {partition(0)}_user_id_cache_entry_digest_idx")
    assert both.lookup("k") == 1
    both.direct.execute(f"TRUNCATE {partition(0)}")
    assert both.lookup("k") is None


def test_a_partition_with_its_columns_in_another_order(both):
    session = both.direct
    columns = [f"{name} {kind}" for name, kind in session.execute(
        "SELECT quote_ident(attname), format_type(atttypid, atttypmod) FROM pg_attribute "
        f"WHERE attrelid = '{TABLE}'::regclass AND attnum > 0 ORDER BY attname DESC").fetchall()]
    session.execute(f"CREATE TABLE shuffled (gone text, {', '.join(columns)})")
    session.execute("ALTER TABLE shuffled DROP COLUMN gone")
    for (column,) in session.execute(f"SELECT attname FROM pg_attribute WHERE attrelid = '{TABLE}'::regclass AND attnum > 0 AND attnotnull").fetchall():
        session.execute(f"ALTER TABLE shuffled ALTER {column} SET NOT NULL")
    for name, rule in session.execute("SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
                                      f"WHERE conrelid = '{TABLE}'::regclass AND contype = 'c'").fetchall():
        session.execute(f"ALTER TABLE shuffled ADD CONSTRAINT {name} {rule}")
    session.execute("INSERT INTO shuffled (id, user_id, content_type, cache_key, content, created_at, expires_at, token_cost, priority_tier, hit_count, "
                    "adaptation_count, token_cost_saved) "
                    "VALUES (gen_random_uuid(), %s, 't', 'k', '\"shuffled\"', %s::date + 3, 'infinity', 2.5, 3, 0, 0, 0)", (ALICE, month(3)))
    session.execute(f"ALTER TABLE {TABLE} ATTACH PARTITION shuffled FOR VALUES FROM ('{month(3)} 00:00+00') TO ('{month(2)} 00:00+00')")
    assert both.lookup("k") == "shuffled"
    session.execute("SELECT cache_setup()")
    assert both.lookup("k") == "shuffled"
    insert(session, "k", '"newer"')
    assert both.lookup("k") == "newer"


def test_long_contents_and_keys_that_are_stored_out_of_line(both):
    session = both.direct
    # What does not compress: keys of the greatest length, contents of many pages.
    key = "".join(chr(33 + ord(c) % 90) for c in session.execute("SELECT string_agg(sha256(n::text::bytea)::text, '') FROM generate_series(1, 20) n").fetchone()[0])[:1024]
    for size in (1, 100, 3_000, 200_000):
        content = session.execute("SELECT jsonb_agg(md5(n::text)) FROM generate_series(1, %s / 32 + 1) n", (size,)).fetchone()[0]
        session.execute("SELECT cache_upsert(%s, 't', %s, %s)", (ALICE, key, psycopg.types.json.Jsonb(content)))
        assert both.lookup(key) == content
    assert plans(session) == 0


def test_privileges_are_those_of_a_select(both, database):
    with temporary_roles(database.cluster, "reader", "member"), contextlib.ExitStack() as stack:
        session = both.direct
        session.execute("ALTER ROLE reader LOGIN BYPASSRLS")
        insert(session, "k", "1")

        def refused():
            return [state(lambda one=one: one.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,))) for one in readers.each()]

        session.execute(f"GRANT SELECT ON {TABLE} TO reader")
        readers = Both(database, stack, "reader")
        assert readers.lookup("k") == 1
        session.execute(f"REVOKE SELECT ON {TABLE} FROM reader")
        assert refused() == ["42501"] * 2
        # As a member of a role that may.
        session.execute(f"GRANT SELECT ON {TABLE} TO member")
        session.execute("GRANT member TO reader")
        assert readers.lookup("k") == 1
        session.execute("REVOKE member FROM reader")
        assert refused() == ["42501"] * 2
        session.execute("GRANT member TO reader")
        assert readers.lookup("k") == 1
        # Row security begins for the role, and ends.
        session.execute("ALTER ROLE reader NOBYPASSRLS")
        assert readers.lookup("k") is None
        session.execute("ALTER ROLE reader BYPASSRLS")
        assert readers.lookup("k") == 1
        # A column is not the table.
        session.execute(f"REVOKE SELECT ON {TABLE} FROM member")
        session.execute(f"GRANT SELECT (content, user_id) ON {TABLE} TO reader")
        assert refused() == ["42501"] * 2


def test_row_security_is_that_of_a_select(both, database):
    with temporary_roles(database.cluster, "tenant", "member"), contextlib.ExitStack() as stack:
        session = both.direct
        session.execute("ALTER ROLE tenant LOGIN; ALTER ROLE member LOGIN; SELECT cache_grant_tenant('tenant'), cache_grant_tenant('member')")
        insert(session, "k", "1")
        insert(session, "k", "2", user=BOB, ago=1)
        # So that its plans can be counted.
        session.execute("GRANT SELECT ON pg_backend_memory_contexts TO tenant; GRANT EXECUTE ON FUNCTION pg_get_backend_memory_contexts() TO tenant")
        own = "tenant_isolation_cache_access"
        tenants = Both(database, stack, "tenant", f"SET infinite_pages_cache.user_id = '{ALICE}'")

        def seen():
            return tenants.lookup("k"), tenants.lookup("k", BOB)

        assert seen() == (1, None)
        assert plans(tenants.direct) == 0 and plans(tenants.planned) == 2
        # Another user, one of claims, nobody, and Alice again.
        for setting, value, sees in [("infinite_pages_cache.user_id", BOB, (None, 2)), ("request.jwt.claims", f'{{"sub": "{ALICE}"}}', (1, None)),
                                     ("request.jwt.claims", "{}", (None, None)), ("request.jwt.claims", "", (None, 2)),
                                     ("infinite_pages_cache.user_id", "", (None, None)), ("infinite_pages_cache.user_id", ALICE, (1, None))]:
            for one in tenants.each():
                one.execute("SELECT set_config(%s, %s, false)", (setting, value))
            assert seen() == sees, (setting, value)
        assert plans(tenants.direct) == 0
        # What other policies add, and take away.
        for policy, sees in [("AS PERMISSIVE FOR SELECT TO member USING (true)", (1, None)), ("FOR DELETE USING (true)", (1, None)),
                             ("FOR SELECT TO tenant USING (true)", (1, 2)), ("FOR ALL USING (created_at < now() - interval '1 hour')", (1, 2)),
                             ("USING (false)", (1, None)), ("AS RESTRICTIVE FOR SELECT USING (priority_tier = 1)", (None, None)),
                             ("AS RESTRICTIVE FOR SELECT USING (true)", (1, None)), ("AS RESTRICTIVE FOR UPDATE USING (false)", (1, None)),
                             ("AS RESTRICTIVE TO member USING (false)", (1, None)),
                             (f"USING (user_id <> cache_current_user_id() AND user_id = '{BOB}')", (1, 2)),
                             ("USING (story_id = cache_current_user_id())", (1, None))]:
            session.execute(f"CREATE POLICY another ON {TABLE} {policy}")
            assert seen() == sees, policy
            session.execute(f"DROP POLICY another ON {TABLE}")
            assert seen() == (1, None)
        session.execute(f"ALTER POLICY {own} ON {TABLE} USING (user_id = '{BOB}')")
        assert seen() == (None, 2)
        session.execute(f"ALTER POLICY {own} ON {TABLE} USING (cache_current_user_id() = user_id)")
        assert seen() == (1, None)
        # Not the extension's own function.
        session.execute(f"""CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO PUBLIC;
            CREATE FUNCTION other.cache_current_user_id() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT '{BOB}'::uuid $$;
            ALTER POLICY {own} ON {TABLE} USING (user_id = other.cache_current_user_id())""")
        assert seen() == (None, 2)
        # The extension's own, replaced.
        session.execute(f"ALTER POLICY {own} ON {TABLE} USING (user_id = cache_current_user_id())")
        assert seen() == (1, None)
        definition = session.execute("SELECT pg_get_functiondef('cache_current_user_id'::regproc)").fetchone()[0]
        session.execute(f"CREATE OR REPLACE FUNCTION cache_current_user_id() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT '{BOB}'::uuid $$")
        assert seen() == (None, 2)
        session.execute(definition)
        assert seen() == (1, None)
        session.execute(f"ALTER POLICY {own} ON {TABLE} TO member USING (user_id = cache_current_user_id())")
        assert seen() == (None, None)
        session.execute(f"ALTER POLICY {own} ON {TABLE} TO PUBLIC")
        assert seen() == (1, None)
        # With a role come its policies.
        session.execute("GRANT pg_read_all_data TO tenant")
        assert seen() == (1, 2)
        session.execute("REVOKE pg_read_all_data FROM tenant")
        assert seen() == (1, None)
        # Without row security there is nothing that it hides; with none to be had, an error.
        session.execute(f"ALTER TABLE {TABLE} DISABLE ROW LEVEL SECURITY")
        assert seen() == (1, 2)
        session.execute(f"ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY")
        assert seen() == (1, None)
        for other_role in ("GRANT", "REVOKE"):
            session.execute(f"{other_role} pg_read_all_data {'TO' if other_role == 'GRANT' else 'FROM'} tenant")
            for one in tenants.each():
                one.execute("SET row_security = off")
                assert state(lambda one=one: one.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,))) == "42501"
                one.execute("RESET row_security")
        assert seen() == (1, None)
        session.execute(f"DROP POLICY {own} ON {TABLE}")
        assert seen() == (None, None)


@pytest.mark.parametrize("definition", ["PARTITION BY LIST (user_id)", "PARTITION BY HASH (user_id)", "PARTITION BY RANGE (expires_at)", ""])
def test_another_table_in_the_place_of_the_cache(both, definition):
    """However it is made, a lookup finds what is in it."""
    session = both.direct
    assert both.lookup("k") is None
    session.execute(f"ALTER TABLE {TABLE} RENAME TO away; CREATE TABLE {TABLE} (LIKE away INCLUDING DEFAULTS) {definition}")
    bounds = {"L": [f"IN ('{ALICE}')", f"IN ('{BOB}')"], "H": ["WITH (MODULUS 2, REMAINDER 0)", "WITH (MODULUS 2, REMAINDER 1)"],
              "R": ["FROM (MINVALUE) TO ('2020-01-01')", "FROM ('2020-01-01') TO (MAXVALUE)"]}
    for number, bound in enumerate(bounds[definition.split()[2][0]] if definition else []):
        session.execute(f"CREATE TABLE part_{number} PARTITION OF {TABLE} FOR VALUES {bound}")
    insert(session, "k", "1")
    assert both.lookup("k") == 1


def test_one_session_of_many_roles(both, database):
    """What a role sees is not kept for the next."""
    with temporary_roles(database.cluster, "tenant", "service"), contextlib.ExitStack() as stack:
        session = both.direct
        session.execute("SELECT cache_grant_tenant('tenant'), cache_grant_service('service')")
        insert(session, "k", "1")
        insert(session, "k", "2", user=BOB)
        pooled = Both(database, stack)
        for role, user, sees in [("tenant", ALICE, (1, None)), ("service", ALICE, (1, 2)), ("tenant", BOB, (None, 2)), ("none", "", (1, 2)),
                                 ("tenant", "", (None, None))] * 2:
            for one in pooled.each():
                one.execute(f"SET ROLE {role}")
                one.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (user,))
            assert (pooled.lookup("k"), pooled.lookup("k", BOB)) == sees


def test_rights_that_come_with_the_database_go_with_it(both, database):
    with temporary_roles(database.cluster, "reader"), contextlib.ExitStack() as stack:
        session = both.direct
        session.execute("ALTER ROLE reader LOGIN BYPASSRLS")
        session.execute(f"GRANT SELECT ON {TABLE} TO pg_database_owner")
        insert(session, "k", "1")
        readers = Both(database, stack, "reader")
        for _ in range(2):
            session.execute(f"ALTER DATABASE {database.name} OWNER TO reader")
            answer = readers.lookup("k")
            session.execute(f"ALTER DATABASE {database.name} OWNER TO postgres")
            assert answer == 1
            for one in readers.each():
                assert state(lambda one=one: one.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,))) == "42501"


def test_a_partition_that_goes_while_it_is_looked_at(both, database):
    insert(both.direct, "k", "1", ago=1)
    insert(both.direct, "old", "2", ago=2)
    for way in ("on", "off"):
        with database.connect() as session, database.connect() as other:
            session.execute(f"SET enable_indexscan = {way}")
            number = 2 if way == "on" else 1
            with other.transaction():
                other.execute(f"LOCK TABLE ONLY {partition(number)} IN ACCESS EXCLUSIVE MODE")
                with ThreadPoolExecutor(1) as pool:
                    answer = pool.submit(lambda: session.execute("SELECT cache_lookup(%s, 't', 'old'), cache_lookup(%s, 't', 'k')", (ALICE, ALICE)).fetchone())
                    wait_until(lambda: is_waiting(database, session))
                    # What waits has not locked the table, so this can.
                    other.execute(f"DROP TABLE {partition(number)}")
                    other.execute("COMMIT")
                    assert answer.result() == (None, 1 if way == "on" else None)


def test_a_session_begins_though_others_never_cease_to_make_tables(both, database):
    """Of the changes that come while the session reads what it must know, none is of the cache."""
    insert(both.direct, "k", "1")
    over = threading.Event()

    def churn():
        with database.connect() as session:
            while not over.is_set():
                session.execute("DO $$ BEGIN FOR n IN 1..20 LOOP CREATE TEMP TABLE t (); DROP TABLE t; COMMIT; END LOOP; END $$")

    with ThreadPoolExecutor(4) as pool:
        churning = [pool.submit(churn) for _ in range(4)]
        try:
            for _ in range(10):
                with database.connect() as session:
                    session.execute("SET statement_timeout = '5s'")
                    assert session.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,)).fetchone() == (1,)
                    assert plans(session) == 0
        finally:
            over.set()
        for one in churning:
            one.result()


def test_the_schema_must_be_the_callers_to_use(empty_database):
    database = empty_database
    with temporary_roles(database.cluster, "reader"), contextlib.ExitStack() as stack, database.connect() as session:
        session.execute("ALTER ROLE reader LOGIN BYPASSRLS")
        session.execute("CREATE SCHEMA cache")
        session.execute("CREATE EXTENSION infinite_pages_cache SCHEMA cache")
        session.execute(f"GRANT SELECT ON cache.{TABLE} TO reader")
        # Through a function that the role may call without the schema.
        session.execute("CREATE FUNCTION ask(key text) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN "
                        f"RETURN cache.cache_lookup('{ALICE}', 't', key); END $$")
        session.execute("SELECT cache.cache_upsert(%s, 't', 'k', '1')", (ALICE,))
        session.execute("GRANT USAGE ON SCHEMA cache TO reader")
        readers = Both(database, stack, "reader")
        for one in readers.each():
            assert one.execute("SELECT ask('k')").fetchone() == (1,)
        session.execute("REVOKE USAGE ON SCHEMA cache FROM reader")
        for one in readers.each():
            # The function's own plan is kept, and with it the right to call cache_lookup.
            assert state(lambda: one.execute("SELECT ask('k')")) == "42501"


def test_roles_change_on_one_connection(roles, both):
    session = both.direct
    session.execute(f"GRANT SELECT ON {TABLE} TO authenticated")
    for user, content in ((ALICE, "1"), (BOB, "2")):
        insert(session, "k", content, user=user)
    claims = "SELECT set_config('infinite_pages_cache.user_id', %s, false)"
    for turn in range(3):
        for one in both.each():
            one.execute("RESET ROLE")
        assert (both.lookup("k"), both.lookup("k", BOB)) == (1, 2)
        for one in both.each():
            one.execute("SET ROLE authenticated")
            one.execute(claims, (ALICE if turn % 2 else BOB,))
        assert (both.lookup("k"), both.lookup("k", BOB)) == ((1, None) if turn % 2 else (None, 2))


def test_row_security_that_is_turned_on_for_the_owner(both, database):
    with temporary_roles(database.cluster, "landlord"), contextlib.ExitStack() as stack:
        session = both.direct
        insert(session, "k", "1")
        session.execute("ALTER ROLE landlord LOGIN")
        session.execute("GRANT USAGE, CREATE ON SCHEMA public TO landlord")
        session.execute(f"ALTER TABLE {TABLE} OWNER TO landlord")
        owners = Both(database, stack, "landlord")
        assert owners.lookup("k") == 1
        session.execute(f"ALTER TABLE {TABLE} FORCE ROW LEVEL SECURITY")
        assert owners.lookup("k") is None
        session.execute(f"ALTER TABLE {TABLE} DISABLE ROW LEVEL SECURITY")
        assert owners.lookup("k") == 1
        session.execute(f"ALTER TABLE {TABLE} OWNER TO postgres")


def test_cursors_and_transactions_keep_what_they_saw(both):
    insert(both.direct, "k", "1")
    for session in both.each():
        with session.transaction():
            session.execute("DECLARE c CURSOR FOR SELECT cache_lookup(%s, 't', 'k') FROM generate_series(1, 3)", (ALICE,))
            seen = [session.execute("FETCH c").fetchone()]
            session.execute(f"UPDATE {TABLE} SET content = '2'")
            seen.append(session.execute("FETCH c").fetchone())
            assert session.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,)).fetchone() == (2,)
            seen.append(session.execute("FETCH c").fetchone())
            assert seen == [(1,)] * 3
            session.execute(f"UPDATE {TABLE} SET content = '1'")


def test_a_serializable_lookup_conflicts_with_a_write(both, database):
    insert(both.direct, "a", "0")
    insert(both.direct, "b", "0")
    for session in both.each():
        with database.connect() as other:
            for one in (session, other):
                one.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            # Each reads what the other writes.
            for one, key in ((session, "a"), (other, "b")):
                one.execute("SELECT cache_lookup(%s, 't', %s)", (ALICE, key))
            session.execute(f"UPDATE {TABLE} SET content = '1' WHERE cache_key = 'b'")
            other.execute(f"UPDATE {TABLE} SET content = '1' WHERE cache_key = 'a'")
            session.execute("COMMIT")
            assert state(lambda: other.execute("COMMIT")) == "40001"


def test_a_lookup_keeps_its_locks_like_a_statement(both, database):
    insert(both.direct, "k", "1", ago=1)
    for session in both.each():
        with session.transaction(), database.connect() as other:
            session.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,))
            other.execute("SET lock_timeout = '50ms'")
            assert state(lambda: other.execute(f"DROP TABLE {partition(1)}")) == "55P03"
            assert session.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,)).fetchone() == (1,)


# ── in an open transaction ───────────────────────────────────────────────────────────────────────

@contextlib.contextmanager
def open_transactions(both, key="k"):
    """At READ COMMITTED, and with all locks held that a lookup takes."""
    with contextlib.ExitStack() as stack:
        for session in both.each():
            stack.enter_context(session.transaction())
            get(session, key)
        both.lookup(key)
        yield


def get(session, key, user=ALICE):
    found = session.execute("SELECT content FROM cache_get(%s, 't', %s)", (user, key)).fetchone()
    return found[0] if found else None


@pytest.mark.parametrize("first", ["get", "lookup"])
def test_an_open_transaction_sees_a_partition_made_since(both, database, first):
    insert(both.direct, "k", "1")
    with database.connect() as other, open_transactions(both):
        other.execute("SELECT create_monthly_cache_partition(%s)", (month(3),))
        insert(other, "old", "3", ago=3)
        if first == "get":
            assert [get(session, "old") for session in both.each()] == [3, 3]
        assert both.lookup("old") == 3
        assert plans(both.direct) == 0


def test_an_open_transaction_ends_to_see_what_is_revoked(both, database):
    insert(both.direct, "k", "1")
    with temporary_roles(database.cluster, "reader"), contextlib.ExitStack() as stack, database.connect() as other:
        other.execute(f"ALTER ROLE reader LOGIN BYPASSRLS; GRANT SELECT ON {TABLE} TO reader")
        readers = Both(database, stack, "reader")
        for change in (f"REVOKE SELECT ON {TABLE} FROM reader", "REVOKE USAGE ON SCHEMA public FROM PUBLIC"):
            for session in readers.each():
                session.execute("BEGIN")
            assert readers.lookup("k") == 1
            other.execute(change)
            assert [state(lambda session=session: session.execute("SELECT cache_lookup(%s, 't', 'k')", (ALICE,)))
                    for session in readers.each()] == ["42501"] * 2
            for session in readers.each():
                session.execute("ROLLBACK")
            other.execute(f"GRANT SELECT ON {TABLE} TO reader; GRANT USAGE ON SCHEMA public TO PUBLIC")


def test_an_open_transaction_follows_memberships(both, database):
    insert(both.direct, "k", "1")
    with temporary_roles(database.cluster, "tenant", "suspended"), contextlib.ExitStack() as stack, database.connect() as other:
        other.execute(f"ALTER ROLE tenant LOGIN; SELECT cache_grant_tenant('tenant'); "
                      f"CREATE POLICY suspended ON {TABLE} AS RESTRICTIVE FOR SELECT TO suspended USING (false)")
        tenants = Both(database, stack, "tenant", f"SET infinite_pages_cache.user_id = '{ALICE}'")
        with open_transactions(tenants):
            assert tenants.lookup("k") == 1
            other.execute("GRANT suspended TO tenant")
            assert tenants.lookup("k") is None
            other.execute("REVOKE suspended FROM tenant")
            assert tenants.lookup("k") == 1


@pytest.mark.parametrize("first", ["get", "lookup"])
def test_an_open_transaction_loses_a_partition_that_is_being_detached(both, database, first):
    """The first of the two steps is committed, the second waits for whoever has the table locked."""
    insert(both.direct, "k", "1")
    insert(both.direct, "old", "2", ago=1)
    with database.connect() as other, database.connect() as watcher:
        with open_transactions(both, "old"):
            assert both.lookup("old") == 2
            thread = threading.Thread(target=lambda: other.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {partition(1)} CONCURRENTLY"))
            thread.start()
            try:
                wait_until(lambda: watcher.execute("SELECT count(*) FROM pg_inherits WHERE inhdetachpending").fetchone() == (1,))
                assert watcher.execute(f"SELECT count(*) FROM {TABLE} WHERE cache_key = 'old'").fetchone() == (0,)
                if first == "get":
                    assert [get(session, "old") for session in both.each()] == [None, None]
                assert both.lookup("old") is None
                assert both.lookup("k") == 1
            finally:
                for session in both.each():
                    session.execute("ROLLBACK")
                thread.join(20)
