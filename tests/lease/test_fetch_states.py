"""cache_fetch() says what to serve and who generates, to each caller what it may know, by the index and by a statement alike."""

import psycopg
import pytest

from harness.cluster import Cluster, Standby
from harness.database import Database
from harness.entries import ALICE, BOB, CACHE, KEY, lookup, upsert
from harness.errors import sqlstate_of
from harness.leases import counted, expire, fetch, leases, release, set_policy
from harness.roles import acting, temporary_roles
from harness.waiting import wait_until

NOTHING = {"content": None, "lease": None, "retry_after": None, "expires_at": None, "age": None}


@pytest.fixture(params=["by index", "by statement"])
def way(request):
    """Options of a connection whose calls go to the index, or run a statement."""
    return {"options": f"-c enable_indexscan={'on' if request.param == 'by index' else 'off'}"}


def fields(fetched):
    return {name: value for name, value in fetched._asdict().items() if name != "state"}


def seconds(interval):
    return interval.total_seconds()


# ── what there is, and who asks first ────────────────────────────────────────────────────────────

def test_a_live_answer_is_a_hit_for_everybody(database, way):
    with database.connect(**way) as one, database.connect(**way) as other:
        upsert(one, '"text"')
        expiry, created = one.execute(f"SELECT expires_at, created_at FROM {CACHE}").fetchone()
        for connection in (one, other):
            found = fetch(connection)
            age = connection.execute("SELECT clock_timestamp() - %s", (created,)).fetchone()[0]
            assert (found.state, found.content, found.lease, found.retry_after, found.expires_at) == ("hit", "text", None, None, expiry)
            assert 0 <= seconds(found.age) <= seconds(age)
        assert leases(one) == []


def test_of_a_missing_answer_the_first_caller_generates_and_the_second_waits(database, way):
    with database.connect(**way) as one, database.connect(**way) as other:
        first, second = fetch(one), fetch(other)
        assert first.state == "generate" and first.lease is not None
        assert fields(first) == {**NOTHING, "lease": first.lease}
        # A tenth of the two minutes of a lease would be 12 s.
        assert second.state == "wait" and seconds(second.retry_after) == 2
        assert fields(second) == {**NOTHING, "retry_after": second.retry_after}
        assert leases(one) == [(ALICE, KEY[1], "held")]


@pytest.mark.parametrize("ttl, shortest, longest", [("1 second", 0.1, 0.1), ("10 seconds", 0.9, 1), ("1 hour", 2, 2)])
def test_who_waits_is_told_to_ask_after_a_tenth_of_what_is_left(database, ttl, shortest, longest):
    set_policy(database, lease_ttl=ttl)
    with database.connect() as one, database.connect() as other:
        fetch(one)
        assert shortest <= seconds(fetch(other).retry_after) <= longest


def test_what_has_expired_is_missing_without_stale_ttl(database, way):
    with database.connect(**way) as one, database.connect(**way) as other:
        upsert(one, '"old"')
        expire(database, "1 second")
        assert fetch(one)._replace(lease=None) == ("generate", None, None, None, None, None)
        assert fetch(other).state == "wait"


def test_what_is_stale_is_served_to_everybody_and_generated_by_the_first_caller(database, way):
    set_policy(database, stale_ttl="1 hour")
    with database.connect(**way) as one, database.connect(**way) as other:
        upsert(one, '"old"')
        expire(database, "10 minutes")
        [expiry] = one.execute(f"SELECT expires_at FROM {CACHE}").fetchone()
        first, second = fetch(one), fetch(other)
        assert (first.state, first.content, first.retry_after, first.expires_at) == ("refresh", "old", None, expiry)
        assert first.lease is not None and seconds(first.age) > 0
        assert (second.state, second.content, second.lease, second.retry_after, second.expires_at) == ("stale", "old", None, None, expiry)
        # No other function returns it.
        assert lookup(one) is None
        assert one.execute("SELECT count(*) FROM cache_get(%s, %s, %s)", KEY).fetchone() == (0,)


def test_what_is_past_its_stale_time_is_missing(database, way):
    set_policy(database, stale_ttl="1 hour")
    with database.connect(**way) as connection:
        upsert(connection, '"old"')
        expire(database, "61 minutes")
        assert fetch(connection).state == "generate"


def test_the_policy_of_all_other_types_has_a_stale_time_too(database, way):
    set_policy(database, "*", stale_ttl="1 hour")
    key = (ALICE, "a type of its own", "k")
    with database.connect(**way) as connection:
        upsert(connection, '"old"', key)
        expire(database, "10 minutes", key)
        assert fetch(connection, key).state == "refresh"


def test_an_answer_that_never_expires_is_a_hit(database, way):
    with database.connect(**way) as connection:
        upsert(connection, '"text"', ttl="infinity")
        assert connection.execute("SELECT state, expires_at = 'infinity' FROM cache_fetch(%s, %s, %s)", KEY).fetchone() == ("hit", True)


def test_the_newest_version_decides(database, way):
    """An older one that is live is outdated."""
    set_policy(database, stale_ttl="1 hour")
    with database.connect(**way) as connection:
        connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) VALUES "
                           "(%s, %s, %s, '\"older\"', now() - interval '1 second', 'infinity')", KEY)
        connection.execute("SELECT create_monthly_cache_partition((now() + interval '1 month')::timestamp)")
        connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) VALUES "
                           "(%s, %s, %s, '\"newer\"', date_trunc('month', now()) + interval '1 month 1 day', now() - interval '1 minute')", KEY)
        found = fetch(connection)
        assert (found.state, found.content) == ("refresh", "newer")


def test_a_failure_is_told_to_everybody_until_it_is_over(database, way):
    with database.connect(**way) as one, database.connect(**way) as other:
        assert release(one, fetch(one).lease, failed=True, retry_after="1 minute")
        for connection in (one, other):
            found = fetch(connection)
            assert found.state == "failed" and 55 < seconds(found.retry_after) <= 60
            assert fields(found) == {**NOTHING, "retry_after": found.retry_after}


def test_a_failure_does_not_keep_what_is_stale_from_being_served(database, way):
    set_policy(database, stale_ttl="1 hour")
    with database.connect(**way) as connection:
        upsert(connection, '"old"')
        expire(database, "1 minute")
        assert release(connection, fetch(connection).lease, failed=True)
        found = fetch(connection)
        assert (found.state, found.content, found.lease, found.retry_after) == ("stale", "old", None, None)


def test_keys_users_and_types_have_leases_of_their_own(database):
    with database.connect() as connection:
        for user, kind, key in ((ALICE, "a", "k"), (ALICE, "a", "l"), (ALICE, "b", "k"), (BOB, "a", "k")):
            assert fetch(connection, (user, kind, key)).state == "generate"
            assert fetch(connection, (user, kind, key)).state == "wait"


def test_databases_have_leases_of_their_own(database):
    other = Database(database.cluster)
    with database.connect() as here, other.connect() as there:
        assert fetch(here).state == fetch(there).state == "generate"
        assert leases(here) == leases(there) == [(ALICE, KEY[1], "held")]
    other.drop()


# ── who gets no lease ────────────────────────────────────────────────────────────────────────────

def without_lease(connection, key=KEY):
    found = fetch(connection, key)
    return found.state == "generate" and fields(found) == NOTHING


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_at_higher_isolation_levels_there_is_no_lease(database, way, level):
    set_policy(database, stale_ttl="1 hour")
    upsert(database.connect(), '"live"', (ALICE, "story_foundation", "live"))
    upsert(database.connect(), '"old"', (ALICE, "story_foundation", "old"))
    expire(database, "1 minute", (ALICE, "story_foundation", "old"))
    with database.connect(**way) as connection, connection.transaction():
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        assert without_lease(connection)
        assert fetch(connection, (ALICE, "story_foundation", "live")).state == "hit"
        found = fetch(connection, (ALICE, "story_foundation", "old"))
        assert (found.state, found.content, found.lease) == ("stale", "old", None)
        assert leases(connection) == []


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_at_higher_isolation_levels_a_fetch_sees_what_its_transaction_sees(database, way, level):
    with database.connect(**way) as connection, database.connect() as other, connection.transaction():
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        assert without_lease(connection)
        upsert(other, '"later"')
        assert without_lease(connection) and lookup(connection) is None


def test_a_transaction_that_may_only_read_gets_a_lease(database, way):
    """PostgREST's GET is one, and its client stores by a POST."""
    with database.connect(**way) as connection:
        with connection.transaction():
            connection.execute("SET TRANSACTION READ ONLY")
            assert fetch(connection).lease is not None
        assert leases(connection) == [(ALICE, KEY[1], "held")]


def test_a_fetch_assigns_no_transaction_id_and_writes_no_wal(database, way):
    """Other processes of the server write WAL at any time, but not at each."""

    def wrote(connection, key):
        with connection.transaction():
            before = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
            assert fetch(connection, key).lease is not None
            after = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
            assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)
            return after != before

    with database.connect(**way) as connection:
        fetch(connection, (ALICE, "t", "to know the catalog"))
        assert not all(wrote(connection, (ALICE, "t", f"k{number}")) for number in range(50))


def test_while_the_cache_is_off_everybody_generates_and_nothing_is_counted(database, way):
    with database.connect(**way) as connection:
        upsert(connection, '"text"')
        before = counted(database)
        connection.execute("SET infinite_pages_cache.enabled = off")
        assert without_lease(connection) and without_lease(connection)
        assert leases(connection) == [] and counted(database) == before
        # What is wrong stays wrong.
        assert sqlstate_of(lambda: fetch(connection, (ALICE, "*", "k"))).sqlstate == "22023"


def test_a_lease_that_was_granted_before_the_cache_was_switched_off_can_be_given_back(database):
    with database.connect() as connection:
        lease = fetch(connection).lease
        connection.execute("SET infinite_pages_cache.enabled = off")
        assert release(connection, lease) and leases(connection) == []


def test_without_preload_nobody_gets_a_lease(way):
    cluster = Cluster({"shared_preload_libraries": ""})
    try:
        database = Database(cluster)
        set_policy(database, stale_ttl="1 hour")
        with database.connect(**way) as connection:
            assert without_lease(connection) and without_lease(connection)
            upsert(connection, '"text"')
            assert fetch(connection).state == "hit"
            expire(database, "1 minute")
            found = fetch(connection, wait="1 second")
            assert (found.state, found.content, found.lease) == ("stale", "text", None)
            lease = "b0b00000-0000-8000-8000-000000000002"
            assert release(connection, lease) is False
            assert connection.execute("SELECT cache_extend_lease(%s), cache_end_leases(%s)", (lease, ALICE)).fetchone() == (None, 0)
            assert leases(connection) == [] and connection.execute("SELECT * FROM cache_pending_invalidations()").fetchall() == []
    finally:
        cluster.remove()


def test_on_a_standby_nobody_gets_a_lease(way):
    primary = Cluster()
    database = Database(primary)
    set_policy(database, stale_ttl="1 hour")
    with database.connect() as connection:
        upsert(connection, '"live"', (ALICE, "story_foundation", "live"))
        upsert(connection, '"old"', (ALICE, "story_foundation", "old"))
    expire(database, "1 minute", (ALICE, "story_foundation", "old"))
    standby = Standby(primary)
    try:
        standby.wait_until_caught_up()
        with Database.existing(standby, database.name).connect(**way) as connection:
            assert without_lease(connection)
            assert fetch(connection, (ALICE, "story_foundation", "live"), wait="1 second").state == "hit"
            found = fetch(connection, (ALICE, "story_foundation", "old"))
            assert (found.state, found.content, found.lease) == ("stale", "old", None)
            assert leases(connection) == []
            assert connection.execute("SELECT cache_end_leases(%s)", (ALICE,)).fetchone() == (0,)
    finally:
        standby.remove()
        primary.remove()


# ── roles ────────────────────────────────────────────────────────────────────────────────────────

def test_a_tenant_fetches_as_its_user_and_a_service_as_any(roles, database, way):
    with database.connect(**way) as connection:
        with acting(connection, ALICE):
            assert fetch(connection).state == "generate"
        with acting(connection, BOB, "service_role"):
            assert fetch(connection).state == "wait"
            assert fetch(connection, (ALICE, "t", "x")).lease is not None
        with acting(connection, ALICE):
            assert fetch(connection, (ALICE, "t", "x")).state == "wait"


def test_another_users_id_is_refused_whatever_there_is(roles, database, way):
    with database.connect(**way) as connection:
        def told(key):
            with pytest.raises(psycopg.Error) as caught, acting(connection, BOB):
                fetch(connection, key, wait="10 seconds")
            diag = caught.value.diag
            return diag.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint

        upsert(connection, '"live"')
        keys = [KEY, (ALICE, "t", "missing"), (ALICE, "t", "held")]
        fetch(connection, keys[2])
        for key in keys:
            assert told(key) == ("42501", "an entry of another user cannot be written",
                                 f"The session acts for user {BOB}, but the entry belongs to user {ALICE}.",
                                 "Set the claim sub in request.jwt.claims, or infinite_pages_cache.user_id, to the entry's user.")


def test_a_session_without_a_user_is_refused(roles, database, way):
    with database.connect(**way) as connection:
        error = sqlstate_of(lambda: connection.execute("SET ROLE authenticated; SELECT cache_fetch('%s', 't', 'k')" % ALICE))
        assert (error.sqlstate, error.message_detail) == (
            "42501", f"The session acts for no user, but the entry belongs to user {ALICE}.")


def test_who_may_read_and_not_write_gets_content_and_no_lease(database, way):
    set_policy(database, stale_ttl="1 hour")
    with temporary_roles(database.cluster, "analyst"), database.connect(**way) as connection:
        connection.execute(f"GRANT SELECT ON {CACHE}, cache_content_policies TO analyst")
        upsert(connection, '"live"')
        upsert(connection, '"old"', (ALICE, "story_foundation", "old"))
        expire(database, "1 minute", (ALICE, "story_foundation", "old"))
        with acting(connection, ALICE, "analyst"):
            assert fetch(connection).state == "hit"
            assert fetch(connection, (ALICE, "story_foundation", "old"))[:3] == ("stale", "old", None)
            assert without_lease(connection, (ALICE, "story_foundation", "missing"))
        assert leases(connection) == []


@pytest.mark.parametrize("privilege", ["INSERT", "UPDATE"])
def test_both_privileges_of_an_upsert_are_needed_for_a_lease(database, way, privilege):
    with temporary_roles(database.cluster, "half"), database.connect(**way) as connection:
        connection.execute(f"GRANT SELECT, {privilege} ON {CACHE} TO half; GRANT SELECT ON cache_content_policies TO half")
        with acting(connection, ALICE, "half"):
            assert without_lease(connection)
        connection.execute(f"GRANT INSERT, UPDATE ON {CACHE} TO half")
        with acting(connection, ALICE, "half"):
            assert fetch(connection).lease is not None


def test_where_only_a_statement_can_tell_a_lease_is_for_the_own_user_alone(roles, database):
    """A restrictive policy of the operator's decides row by row."""
    database.execute(f"CREATE POLICY quiet ON {CACHE} AS RESTRICTIVE USING (content_type <> 'secret')")
    with database.connect() as connection:
        upsert(connection, '"live"')
        upsert(connection, '"hidden"', (ALICE, "secret", "k"))
        with acting(connection, ALICE):
            assert fetch(connection).state == "hit"
            assert fetch(connection, (ALICE, "secret", "k"))[:2] == ("generate", None)
            assert fetch(connection, (ALICE, "t", "mine")).lease is not None
        with acting(connection, BOB):
            assert without_lease(connection) and without_lease(connection, (ALICE, "t", "missing"))


def test_a_right_that_is_revoked_counts_at_once(database, way):
    with temporary_roles(database.cluster, "app"), database.connect(**way) as connection, database.connect() as owner:
        owner.execute("SELECT cache_grant_tenant('app')")
        with acting(connection, ALICE, "app"):
            assert fetch(connection).lease is not None
            owner.execute(f"REVOKE INSERT ON {CACHE} FROM app")
            assert without_lease(connection, (ALICE, "t", "other"))


def test_a_role_without_rights_is_refused_as_by_a_lookup(database):
    with temporary_roles(database.cluster, "nobody_at_all"), database.connect() as connection:
        error = sqlstate_of(lambda: connection.execute(f"SET ROLE nobody_at_all; SELECT cache_fetch('{ALICE}', 't', 'k')"))
        assert error.sqlstate == "42501"


# ── counted and audited as a lookup ──────────────────────────────────────────────────────────────

def test_each_fetch_counts_as_one_lookup(database, way):
    set_policy(database, stale_ttl="1 hour")
    with database.connect(**way) as connection:
        assert fetch(connection).state == "generate"
        assert counted(database) == {"misses": 1, "leases_granted": 1}
        assert fetch(connection).state == "wait"
        assert counted(database) == {"misses": 2, "leases_granted": 1}
        upsert(connection, '"text"', token_cost=3)
        assert fetch(connection).state == "hit"
        assert counted(database) == {"misses": 2, "leases_granted": 1, "hits": 1}
        expire(database, "1 minute")
        database.execute("SELECT cache_end_leases(%s)", (ALICE,))
        lease = fetch(connection).lease
        assert counted(database) == {"misses": 2, "leases_granted": 2, "hits": 2}
        assert fetch(connection).state == "stale"
        assert counted(database) == {"misses": 2, "leases_granted": 2, "hits": 3, "stale_served": 1}
        assert release(connection, lease, failed=True)
        expire(database, "2 hours")
        assert fetch(connection).state == "failed"
        # It found an entry that was over.
        assert counted(database) == {"misses": 3, "stale": 1, "leases_granted": 2, "hits": 3, "stale_served": 1, "failures": 1}
        # What is stale saves its tokens, too.
        assert database.value("SELECT tokens_saved FROM cache_statistics() WHERE content_type = %s", (KEY[1],)) == 9
        assert database.value("SELECT hits FROM cache_pending_hits()") == 3


def test_fetches_are_audited_as_lookups(database):
    database.cluster.execute(f"ALTER DATABASE {database.name} SET infinite_pages_cache.audit = 'all'")
    with database.connect() as connection:
        fetch(connection)
        upsert(connection, "1")
        fetch(connection)
    database.execute("SELECT cache_flush_statistics()")
    assert database.execute("SELECT user_id::text, cache_key, success FROM cache_audit_log WHERE action = 'lookup' ORDER BY id") == [
        (ALICE, "k", False), (ALICE, "k", True)]


# ── the row ──────────────────────────────────────────────────────────────────────────────────────

def test_the_row_has_its_names_and_types_however_it_is_asked_for(database):
    names = ["state", "content", "lease", "retry_after", "expires_at", "age"]
    with database.connect() as connection:
        upsert(connection, '"text"')
        for statement in ("SELECT * FROM cache_fetch(%s, %s, %s)", "SELECT (cache_fetch(%s, %s, %s)).*",
                          "SELECT (f).* FROM (SELECT cache_fetch(%s, %s, %s) AS f OFFSET 0) s"):
            cursor = connection.execute(statement, KEY)
            assert [column.name for column in cursor.description] == names
            assert cursor.fetchone()[:2] == ("hit", "text")
        assert connection.execute("SELECT (cache_fetch(%s, %s, %s)).content", KEY).fetchone() == ("text",)
        assert list(connection.execute("SELECT to_json(cache_fetch(%s, %s, %s))", KEY).fetchone()[0]) == names
        assert connection.execute("SELECT f.state FROM generate_series(1, 3), cache_fetch(%s, %s, %s) f", KEY).fetchall() == [("hit",)] * 3
        connection.execute("CREATE TABLE kept AS SELECT * FROM cache_fetch(%s, %s, %s)", KEY)
        assert connection.execute("SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'kept'::regclass AND attnum > 0 ORDER BY attnum"
                                  ).fetchall() == [("text",), ("jsonb",), ("uuid",), ("interval",), ("timestamp with time zone",), ("interval",)]


def test_large_answers_come_whole(database, way):
    """Compressed in the row, and out of line."""
    with database.connect(**way) as connection:
        for size in (10, 3_000, 300_000):
            text = "".join(chr(33 + (i * i) % 89) for i in range(size)).replace('"', "-").replace("\\", "-")
            upsert(connection, f'"{text}"')
            assert fetch(connection).content == text
            assert connection.execute("SELECT (cache_fetch(%s, %s, %s)).content", KEY).fetchone() == (text,)


# ── pooled connections ───────────────────────────────────────────────────────────────────────────

def test_a_lease_belongs_to_no_connection(database):
    """As through a pooler by transaction: granted in one, given back in another, kept by none."""
    with database.connect() as one:
        lease = fetch(one).lease
    with database.connect() as other:
        assert fetch(other).state == "wait"
        assert release(other, lease)
        assert fetch(other).state == "generate"


def test_a_lease_that_its_transaction_rolls_back_is_void(database):
    """Its holder may have read what was never committed."""
    with database.connect() as one, database.connect() as other:
        with one.transaction(force_rollback=True):
            lease = fetch(one).lease
            assert fetch(other).state == "wait"
        assert release(other, lease) is False
        wait_until(lambda: leases(other) == [])
        assert fetch(other).state == "generate"


def test_a_lease_of_a_savepoint_goes_with_it(database):
    with database.connect() as one, database.connect() as other, one.transaction():
        with one.transaction(force_rollback=True):
            fetch(one)
            assert fetch(other).state == "wait"
        assert fetch(other).state == "generate"
