"""A service invalidates a content type of all users, in batches, beside whoever writes; nobody else does."""

import psycopg
import pytest

from harness.entries import ALICE, BOB, CACHE, add_entries, count, insert, lookup, upsert
from harness.errors import sqlstate_of
from harness.interleaving import Session, at_each_level, either_way, READ_COMMITTED, REFUSED
from harness.months import add_month, month
from harness.roles import acting, outcome

CAROL = "ca201000-0000-4000-8000-000000000003"
SMALL = 7


def all_users(connection, content_type="t"):
    return connection.execute("SELECT cache_invalidate_content_type_for_all_users(%s)", (content_type,)).fetchone()[0]


@pytest.fixture
def filled(database):
    """Entries of three users, of two content types, in two months."""
    for user, number in ((ALICE, 20), (BOB, SMALL), (CAROL, 1)):
        add_entries(database, number, "infinity", user=user)
        database.execute("SELECT cache_upsert(%s, 'other', 'k', '1')", (user,))
    add_month(database, -2)
    # An older version of an entry, and an entry of its own.
    insert(database, month(-2), "e1")
    insert(database, month(-2), "old", BOB)
    return database


@pytest.mark.parametrize("batch", [1, SMALL, 10, 30, 1000])
def test_every_users_entries_of_the_type_go_whatever_the_size_of_a_batch(filled, batch):
    """30 is the number of the entries, so the last full batch is followed by an empty one."""
    assert count(filled, "content_type = 't'") == 30
    with filled.connect() as connection:
        connection.execute(f"SET infinite_pages_cache.cleanup_batch_size = {batch}")
        assert all_users(connection) == 30
        assert all_users(connection) == 0
    assert filled.execute(f"SELECT content_type::text, count(*) FROM {CACHE} GROUP BY 1") == [("other", 3)]


def test_what_goes_is_audited_and_counted(filled):
    filled.execute("DELETE FROM cache_audit_log")
    with filled.connect(autocommit=False) as connection:
        all_users(connection)
        connection.rollback()
        all_users(connection)
        connection.commit()
    assert filled.execute("SELECT action, content_type, count(*), count(DISTINCT (user_id, cache_key)) FROM cache_audit_log GROUP BY 1, 2") == [
        ("invalidate_content_type_for_all_users", "t", 30, 29)]
    assert filled.value("SELECT invalidations FROM cache_statistics() WHERE content_type = 't'") == 30


def test_hits_of_what_goes_are_forgotten(filled):
    key = (ALICE, "other", "k")
    with filled.connect() as connection:
        assert lookup(connection, key) == 1
        assert connection.execute("SELECT count(*) FROM cache_pending_hits()").fetchone() == (1,)
        all_users(connection, "other")
        assert connection.execute("SELECT count(*) FROM cache_pending_hits()").fetchone() == (0,)
        upsert(connection, "2", key)
        assert connection.execute("SELECT hit_count FROM cache_get(%s, %s, %s)", key).fetchone() == (0,)


def test_it_works_while_the_cache_is_off(filled):
    with filled.connect() as connection:
        connection.execute("SET infinite_pages_cache.enabled = off")
        assert all_users(connection) == 30


@pytest.mark.parametrize("role, sqlstate", [("service_role", None), ("authenticated", "42501"), ("anon", "42501"), ("postgres", None)])
def test_services_and_the_owner_may(filled, roles, role, sqlstate):
    filled.execute("SELECT cache_grant_tenant('authenticated'), cache_grant_service('service_role')")
    with filled.connect() as connection:
        found = outcome(connection, "SELECT cache_invalidate_content_type_for_all_users('t')", ALICE, role, keep=True)
    assert found == [(30,)] if sqlstate is None else found[0] == sqlstate and "permission denied for function" in found[1]
    assert count(filled, "content_type = 't'") == (0 if sqlstate is None else 30)


def test_a_tenant_that_may_execute_it_may_not_use_it(filled, roles):
    filled.execute("SELECT cache_grant_tenant('authenticated'); "
                   "GRANT EXECUTE ON FUNCTION cache_invalidate_content_type_for_all_users(text) TO authenticated, anon")
    before = filled.contents()
    with filled.connect() as connection:
        for role in ("authenticated", "anon"):
            found = outcome(connection, "SELECT cache_invalidate_content_type_for_all_users('t')", ALICE, role, keep=True)
            assert found == ("42501", "only a service can invalidate entries of all users",
                             "Privileges or row security may keep the role from deleting other users' entries.",
                             "Call cache_invalidate_content_type() for one user.")
    assert filled.contents() == before


def test_an_owner_from_which_row_security_hides_rows_is_refused(owned):
    add_entries(owned, 3, "infinity")
    owned.execute(f"ALTER TABLE {CACHE} FORCE ROW LEVEL SECURITY")
    for role in ("cache_owner", "postgres"):
        with owned.connect() as connection:
            connection.execute(f"SET ROLE {role}")
            assert sqlstate_of(lambda: all_users(connection)).sqlstate == "42501"
    assert count(owned) == 3


def test_a_superuser_lends_an_owners_trigger_no_rights(owned):
    add_entries(owned, 1, "infinity")
    owned.execute(f"""
        CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'told as %', current_user; END$$;
        CREATE TRIGGER told BEFORE DELETE ON {CACHE} FOR EACH ROW EXECUTE FUNCTION told()""")
    with owned.connect() as connection:
        assert sqlstate_of(lambda: all_users(connection)).message_primary == "told as cache_owner"


@pytest.mark.parametrize("value, sqlstate, message", [
    ("NULL", "22004", "content_type must not be NULL"), ("''", "22023", "content_type must not be empty"),
    ("repeat('x', 256)", "22023", "content_type is too long")])
def test_a_content_type_that_is_none_is_refused(database, value, sqlstate, message):
    error = sqlstate_of(lambda: database.execute(f"SELECT cache_invalidate_content_type_for_all_users({value})"))
    assert (error.sqlstate, error.message_primary) == (sqlstate, message) and error.message_hint


def test_a_read_only_transaction_is_refused(filled):
    with filled.connect(autocommit=False) as connection:
        connection.execute("SET TRANSACTION READ ONLY")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            all_users(connection)


@pytest.fixture
def sessions(filled):
    made = []

    def make(level, number=2):
        made.extend(Session(filled, level) for _ in range(number))
        return made[-number:]

    yield make
    for session in made:
        session.close()


@at_each_level
@either_way
def test_it_waits_for_a_writer_and_removes_what_that_has_left(filled, sessions, level, kept):
    one, two = sessions(level)
    two.sees()
    one.run(lambda connection: upsert(connection, "2", (BOB, "t", "e3")))
    two.start(all_users)
    one.end(kept)
    if kept and level != READ_COMMITTED:
        assert (two.outcome(), count(filled, "content_type = 't'")) == (REFUSED, 30)
    else:
        assert (two.outcome(), count(filled, "content_type = 't'")) == (30, 0)


@at_each_level
def test_entries_that_its_snapshot_hides_are_not_left(filled, sessions, level):
    [one] = sessions(level, 1)
    one.sees()
    filled.execute("SELECT cache_upsert(%s, 't', 'new', '1')", (CAROL,))
    found = None
    try:
        found = one.run(all_users)
        one.end(True)
    except psycopg.errors.SerializationFailure as error:
        assert error.diag.message_primary == "could not invalidate because of concurrent changes"
        one.end(False)
    assert (found, count(filled, "content_type = 't'")) == ((31, 0) if level == READ_COMMITTED else (None, 31))


def test_it_does_not_deadlock_with_batches(filled, sessions):
    """Both lock in the order of users and digests."""
    one, two = sessions(READ_COMMITTED)
    entries = [{"user_id": user, "content_type": "t", "cache_key": f"e{n}", "content": 2} for user in (CAROL, BOB, ALICE) for n in (1, 2, 3)]
    one.run(lambda connection: connection.execute("SELECT cache_upsert_many(%s)", (psycopg.types.json.Jsonb(entries[-1:]),)))
    two.start(all_users)
    one.run(lambda connection: connection.execute("SELECT cache_upsert_many(%s)", (psycopg.types.json.Jsonb(entries[:6]),)))
    one.end(True)
    two.outcome()
    assert count(filled, "content_type = 't'") <= 6
