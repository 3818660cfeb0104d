"""At REPEATABLE READ and SERIALIZABLE a snapshot may hide an entry that an invalidation would have to remove: then it fails."""

import psycopg
import pytest

from harness.entries import ALICE, BOB, CACHE, count, upsert
from harness.interleaving import HIGHER, LEVELS, Session

KEY = (ALICE, "t", "k")
ARGUMENTS = {"metadata": '{"genre": "noir"}', "foundation_dependency": "f"}
INVALIDATIONS = {
    "key": f"cache_invalidate('{ALICE}', 't', 'k')",
    "type": f"cache_invalidate_content_type('{ALICE}', 't')",
    "where": f"""cache_invalidate_where('{ALICE}', '{{"genre": "noir"}}')""",
    "dependents": f"cache_invalidate_dependents('{ALICE}', 'f')",
}
at_each_level = pytest.mark.parametrize("level", LEVELS)
each_way = pytest.mark.parametrize("kind", INVALIDATIONS)


@pytest.fixture
def reader(database):
    """A transaction that has its snapshot."""
    made = []

    def begin(level):
        session = Session(database, level)
        session.sees()
        made.append(session)
        return session.connection

    yield begin
    for session in made:
        session.close()


def invalidate(connection, kind):
    return connection.execute(f"SELECT {INVALIDATIONS[kind]}").fetchone()[0]


def refusal(connection, kind):
    with pytest.raises(psycopg.errors.SerializationFailure) as caught:
        invalidate(connection, kind)
    connection.rollback()
    return caught.value.diag.message_primary, caught.value.diag.message_detail, caught.value.diag.message_hint


@each_way
@at_each_level
def test_an_entry_that_was_stored_since_is_not_left(database, reader, level, kind):
    connection = reader(level)
    with database.connect() as other:
        upsert(other, "1", KEY, **ARGUMENTS)
    if level in HIGHER:
        assert refusal(connection, kind) == ("could not invalidate because of concurrent changes",
                                             "Another transaction has stored an entry that this one cannot see.", "Try the transaction again.")
        assert count(database) == 1
        assert invalidate(connection, kind) == 1
    else:
        assert invalidate(connection, kind) == 1
    connection.commit()
    assert count(database) == 0


@each_way
@pytest.mark.parametrize("level", HIGHER)
def test_what_it_does_not_concern_is_no_matter(database, reader, level, kind):
    with database.connect() as other:
        upsert(other, "1", KEY, **ARGUMENTS)
        connection = reader(level)
        upsert(other, "2", (BOB, "t", "k"), **ARGUMENTS)
        upsert(other, "2", (ALICE, "other", "k"))
        if kind == "key":
            upsert(other, "2", (ALICE, "t", "k2"), **ARGUMENTS)
    assert invalidate(connection, kind) == 1
    connection.commit()


@each_way
@pytest.mark.parametrize("level", HIGHER)
def test_what_the_transaction_has_stored_itself_goes(database, reader, level, kind):
    connection = reader(level)
    upsert(connection, "1", KEY, **ARGUMENTS)
    assert invalidate(connection, kind) == 1
    assert invalidate(connection, kind) == 0
    upsert(connection, "2", KEY, **ARGUMENTS)
    connection.commit()
    assert count(database, "content = '2'") == 1


@each_way
@pytest.mark.parametrize("level", HIGHER)
def test_an_entry_that_a_trigger_keeps_is_not_hidden(database, reader, level, kind):
    """To try again would not help."""
    with database.connect() as other:
        upsert(other, "1", KEY, **ARGUMENTS)
    database.execute("CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
                     f"CREATE TRIGGER keep BEFORE DELETE ON {CACHE} FOR EACH ROW EXECUTE FUNCTION keep()")
    connection = reader(level)
    assert invalidate(connection, kind) == 0
    connection.rollback()
    connection = reader(level)
    with database.connect() as other:
        upsert(other, "2", (ALICE, "t", "k"), **ARGUMENTS)
    assert refusal(connection, kind)


@pytest.mark.parametrize("level", HIGHER)
def test_a_tenant_learns_nothing_of_anothers_entries(database, roles, level):
    database.execute("SELECT cache_grant_tenant('authenticated')")
    with database.connect(autocommit=False) as connection:
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}; SET LOCAL ROLE authenticated; SET LOCAL infinite_pages_cache.user_id = '{BOB}'")
        connection.execute(f"SELECT count(*) FROM {CACHE}")
        with database.connect() as other:
            upsert(other, "1", KEY, **ARGUMENTS)
        assert [invalidate(connection, kind) for kind in INVALIDATIONS] == [0] * 4
    assert count(database) == 1
