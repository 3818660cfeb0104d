"""cache_explain() tells why a lookup of a key misses, to who may see the entry; of another user's it says always the same."""

import json
import os

import pytest

from harness.cluster import Cluster
from harness.database import Database
from harness.entries import ALICE, BOB, CACHE, add_entries, lookup, upsert
from harness.errors import sqlstate_of
from harness.leases import expire
from harness.roles import acting, temporary_roles
from harness.tenants import fill_for_alice

KEY = (ALICE, "chapter_content", "k")
NOT_VISIBLE = {"not visible": "Entries of another user are not shown."}


def explain(connection, key=KEY, request=None):
    request = None if request is None else json.dumps(request)
    rows = connection.execute("SELECT reason, detail FROM cache_explain(%s, %s, %s, %s::jsonb)", (*key, request)).fetchall()
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def times(database, key="k"):
    """When the newest version was stored and expires, as psql shows it."""
    return database.execute(f"SELECT created_at::text, expires_at::text FROM {CACHE} WHERE cache_key = %s ORDER BY created_at DESC LIMIT 1", (key,))[0]


def test_a_key_that_was_never_stored_is_not_stored(database):
    with database.connect() as connection:
        assert explain(connection) == {"not stored": "There is no entry at this key: none was ever stored, or it has been removed."}


def test_a_live_entry_is_found_and_nothing_else_is_said(database):
    with database.connect() as connection:
        upsert(connection, "1", KEY, metadata='{"a": 1}')
        upsert(connection, "1", (ALICE, "chapter_content", "other"), metadata='{"a": 1}')
        stored, expires = times(database)
        assert explain(connection, request={"a": 1}) == {"live": f"It was stored at {stored}, and expires at {expires}."}


def test_an_expired_entry_says_when(database):
    with database.connect() as connection:
        upsert(connection, "1", KEY)
        expire(database, "1 hour", KEY)
        stored, expires = times(database)
        assert explain(connection) == {"expired": f"It was stored at {stored}, and expired at {expires}."}


def test_the_newest_version_decides_even_when_it_has_expired_before_an_older_one(database):
    with database.connect() as connection:
        upsert(connection, "1", KEY)
        connection.execute("SELECT create_monthly_cache_partition('2020-01-01')")
        connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) "
                           "VALUES (%s, %s, %s, '1', '2020-01-05', 'infinity')", KEY)
        expire_newest = f"UPDATE {CACHE} SET expires_at = now() - interval '1 s' WHERE created_at > '2021-01-01'"
        connection.execute(expire_newest)
        assert set(explain(connection)) == {"expired"}


@pytest.mark.parametrize("policy", ["chapter_content", "*"])
def test_an_entry_within_its_stale_time_says_until_when(database, policy):
    key = KEY if policy == "chapter_content" else (ALICE, "a type without a policy", "k")
    with database.connect() as connection:
        connection.execute("UPDATE cache_content_policies SET stale_ttl = '2 hours' WHERE content_type = %s", (policy,))
        upsert(connection, "1", key)
        expire(database, "1 hour", key)
        until = database.value(f"SELECT (expires_at + interval '2 hours')::text FROM {CACHE}")
        assert explain(connection, key)["within stale time"] == \
            f"cache_fetch() serves it until {until}, because stale_ttl of its content policy is 02:00:00."
        expire(database, "3 hours", key)
        assert set(explain(connection, key)) == {"expired"}


def test_times_that_are_far_away_are_no_error(database):
    with database.connect() as connection:
        upsert(connection, "1", KEY)
        for expires, stale, expected in [("infinity", "100 years", {"live"}), ("294276-12-30", "100 years", {"live"}),
                                         ("-infinity", "100 years", {"expired"}), ("4713-01-01 BC", "170000000 years", {"expired", "within stale time"}),
                                         ("now", "170000000 years", {"expired", "within stale time"})]:
            database.execute("UPDATE cache_content_policies SET stale_ttl = %s", (stale,))
            database.execute(f"UPDATE {CACHE} SET expires_at = %s", (expires,))
            assert set(explain(connection)) == expected, expires


def test_the_cache_that_is_off_is_a_reason_beside_the_others(database):
    with database.connect() as connection:
        upsert(connection, "1", KEY)
        connection.execute("SET infinite_pages_cache.enabled = off")
        found = explain(connection)
        assert set(found) == {"cache off", "live"} and found["cache off"].startswith("infinite_pages_cache.enabled is off")


@pytest.mark.parametrize("call, action", [
    ("cache_invalidate(%s, 'chapter_content', 'k')", "invalidate"),
    ("cache_invalidate_content_type(%s, 'chapter_content')", "invalidate_content_type"),
    ("cache_invalidate_where(%s, '{\"tag\": 1}')", "invalidate_where"),
    ("cache_invalidate_dependents(%s, 'f')", "invalidate_dependents")])
def test_who_may_read_the_audit_log_is_told_of_the_invalidation(roles, database, call, action):
    with database.connect() as connection:
        upsert(connection, "1", KEY, metadata='{"tag": 1}', foundation_dependency="f")
        with acting(connection, ALICE):
            connection.execute(f"SELECT {call}", (ALICE,))
        at = connection.execute('SELECT "timestamp"::text FROM cache_audit_log WHERE action = %s', (action,)).fetchone()[0]
        expected = f"cache_{action}() removed it at {at}, called by authenticated."
        assert explain(connection)["invalidated"] == expected
        with acting(connection, ALICE, role="service_role"):
            assert explain(connection)["invalidated"] == expected
        with acting(connection, ALICE):
            assert set(explain(connection)) == {"not stored"}
        # What was stored since then counts alone.
        upsert(connection, "2", KEY)
        expire(database, "1 second", KEY)
        assert set(explain(connection)) == {"expired"}


def test_an_invalidation_of_another_key_or_user_is_no_reason(database):
    with database.connect() as connection:
        for key in ((ALICE, "chapter_content", "other"), (BOB, *KEY[1:]), (ALICE, "tone", "k")):
            upsert(connection, "1", key)
            connection.execute("SELECT cache_invalidate(%s, %s, %s)", key)
        assert set(explain(connection)) == {"not stored"}


def test_evictions_of_the_type_are_counted_for_services_only(roles, database):
    database.execute("UPDATE cache_content_policies SET max_entries = 2 WHERE content_type = 'tone'")
    with database.connect() as connection:
        for number in range(5):
            upsert(connection, "1", (ALICE, "tone", f"k{number}"))
        connection.execute("SELECT cache_run_maintenance()")
        gone = (ALICE, "tone", "k0")
        for service in (None, "service_role"):
            with acting(connection, ALICE, role=service or "postgres"):
                assert explain(connection, gone)["evicted lately"] == "In the last 24 hours 3 entries of this content type were evicted by max_entries."
        with acting(connection, ALICE):
            assert explain(connection, gone) == {
                "not stored": "There is no entry at this key: none was ever stored, or it has been removed.",
                "at max_entries": "The user has 2 entries of this content type, as many as max_entries allows: a new one evicts another."}
        assert "evicted lately" not in explain(connection, KEY)


def test_the_same_key_under_another_content_type(database):
    with database.connect() as connection:
        for content_type in ("a", "tone", "z"):
            upsert(connection, "1", (ALICE, content_type, "k"))
        upsert(connection, "1", (ALICE, "between", "another key"))
        upsert(connection, "1", (BOB, "of bob", "k"))
        upsert(connection, "1", (ALICE, "gone", "k"))
        connection.execute(f"UPDATE {CACHE} SET expires_at = now() WHERE content_type = 'gone'")
        assert explain(connection)["another content type"] == 'The key is stored under the content type "a", "tone", "z".'


def test_more_content_types_than_are_named(database):
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content) SELECT %s, 'type ' || n, 'k', '1' FROM generate_series(10, 40) n", (ALICE,))
    with database.connect() as connection:
        assert explain(connection)["another content type"].count('"type ') == 10


# ── the nearest request ──────────────────────────────────────────────────────────────────────────

REQUEST = {"story": 1, "chapter": {"number": 7, "tags": ["rain", "tram"]}, "tone": "dark"}


def test_the_nearest_request_names_the_paths_in_which_it_differs(database):
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, KEY[1], "far"), prompt_variables=json.dumps({"title": "x"}))
        upsert(connection, "1", (ALICE, KEY[1], "near"), prompt_variables=json.dumps(
            {"story": 1, "chapter": {"number": 8, "tags": ["rain"]}, "tone": "dark", "odd name": True}))
        upsert(connection, "1", (ALICE, KEY[1], "none"))
        upsert(connection, "1", (ALICE, "tone", "of another type"), prompt_variables=json.dumps(REQUEST))
        upsert(connection, "1", (BOB, KEY[1], "of bob"), prompt_variables=json.dumps(REQUEST))
        assert explain(connection, request=REQUEST)["nearest request"] == \
            'The request differs from that of entry "near" in $.chapter.number, $.chapter.tags[1], $."odd name".'
        assert set(explain(connection)) == {"not stored"}


def test_the_same_request_under_another_key_is_told(database):
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, KEY[1], "other"), prompt_variables='{"a": 1.0, "b": [1e2]}')
        # Numbers are equal whatever their notation, as for cache_key().
        assert explain(connection, request={"b": [100], "a": 1})["nearest request"] == \
            'Entry "other" was made from the same request: its key was made in another way.'


def test_metadata_stand_in_for_variables_that_are_empty(database):
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, KEY[1], "a"), metadata='{"genre": "noir"}')
        upsert(connection, "1", (ALICE, KEY[1], "b"), metadata='{"genre": "western"}', prompt_variables='{"x": 1}')
        assert explain(connection, request={"genre": "western"})["nearest request"] == \
            'The request differs from that of entry "a" in $.genre.'


def test_only_the_newest_hundred_are_compared_and_64_paths_named(database):
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, KEY[1], "oldest"), prompt_variables=json.dumps(REQUEST))
        database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, prompt_variables, created_at) "
                         "SELECT %s, %s, 'e' || n, '1', jsonb_build_object('n', n), now() + interval '1 ms' FROM generate_series(1, 99) n", (ALICE, KEY[1]))
        assert '"oldest"' in explain(connection, request=REQUEST)["nearest request"]
        upsert(connection, "1", (ALICE, KEY[1], "one more"), prompt_variables='{"n": 0}')
        assert '"oldest"' not in explain(connection, request=REQUEST)["nearest request"]
        many = explain(connection, request={f"field{number}": 1 for number in range(100)})["nearest request"]
        assert many.count("$.") == 64 and many.endswith(", and perhaps more.")


@pytest.mark.parametrize("text", [os.urandom(200_000).hex(), "x" * 5_000_000], ids=["as stored", "decompressed"])
def test_what_is_very_large_is_not_compared(database, text):
    """A hundred of the largest would take gigabytes of memory."""
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, KEY[1], "small"), prompt_variables='{"a": 1}')
        upsert(connection, "1", (ALICE, KEY[1], "large"), prompt_variables=json.dumps({**REQUEST, "text": text}))
        assert '"small"' in explain(connection, request=REQUEST)["nearest request"]


@pytest.mark.parametrize("request_", [[], "text", 1, None, {}, {"": 1}, {"k": "x" * 100_000}])
def test_a_request_may_be_any_json(database, request_):
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, KEY[1], "other"), prompt_variables='{"a": 1}')
        found = connection.execute("SELECT detail FROM cache_explain(%s, %s, %s, %s::jsonb) WHERE reason = 'nearest request'",
                                   (*KEY, json.dumps(request_))).fetchall()
        assert len(found) == 1 and len(found[0][0]) < 300


def test_a_request_that_is_nested_too_deep_is_refused_and_a_stored_one_is_not(database):
    deep = "[" * 200 + "]" * 200
    with database.connect() as connection:
        error = sqlstate_of(lambda: connection.execute("SELECT * FROM cache_explain(%s, %s, %s, %s::jsonb)", (*KEY, deep)))
        assert error.sqlstate == "54001"
        upsert(connection, "1", (ALICE, KEY[1], "deep"), prompt_variables=deep)
        assert explain(connection, request={"a": 1})["nearest request"] == 'The request differs from that of entry "deep" in $.'


# ── who is told what ─────────────────────────────────────────────────────────────────────────────

def test_a_tenant_is_told_the_same_of_another_user_whatever_there_is(roles, database):
    keys = [(ALICE, "t", "k"), (ALICE, "t", "absent"), (ALICE, "absent", "absent"), ("00000000-0000-4000-8000-00000000000f", "t", "k")]
    with database.connect() as connection:
        def told():
            with acting(connection, BOB):
                return [explain(connection, key, {"tag": "a"}) for key in keys]

        assert told() == [NOT_VISIBLE] * 4
        fill_for_alice(database)
        connection.execute("SELECT cache_invalidate(%s, 't', 'k2')", (ALICE,))
        assert told() == [NOT_VISIBLE] * 4
        connection.execute("SET infinite_pages_cache.enabled = off")
        assert told() == [NOT_VISIBLE] * 4
        connection.execute("RESET infinite_pages_cache.enabled")
        with acting(connection, ALICE):
            assert set(explain(connection, keys[0])) == {"live"}
            assert explain(connection, (BOB, "t", "k")) == NOT_VISIBLE


def test_a_policy_of_the_operators_own_decides_what_is_told(roles, database):
    database.execute(f"CREATE POLICY shared ON {CACHE} FOR SELECT TO authenticated USING (content_type = 'shared')")
    with database.connect() as connection:
        upsert(connection, "1", (ALICE, "shared", "k"))
        upsert(connection, "1", (ALICE, "tone", "k"))
        with acting(connection, BOB):
            assert set(explain(connection, (ALICE, "shared", "k"))) == {"live"}
            assert explain(connection, (ALICE, "tone", "k")) == NOT_VISIBLE
            assert explain(connection, (ALICE, "tone", "absent")) == NOT_VISIBLE
            assert set(explain(connection, (BOB, "tone", "absent"))) == {"not stored"}


def test_a_role_without_rights_is_told_the_grant(database):
    with temporary_roles(database.cluster, "nobody_yet"), database.connect() as connection:
        error = sqlstate_of(lambda: connection.execute("SET ROLE nobody_yet; SELECT * FROM cache_explain('%s', 't', 'k')" % ALICE))
        assert error.sqlstate == "42501" and "cache_grant_tenant('nobody_yet')" in error.message_hint


def test_to_explain_is_no_lookup(database):
    with database.connect() as connection:
        upsert(connection, "1", KEY)
        connection.execute("SET infinite_pages_cache.audit = 'all'")
        explain(connection)
        explain(connection, (ALICE, "tone", "absent"))
        assert database.value("SELECT coalesce(sum(hits + misses), 0) FROM cache_statistics()") == 0
        connection.execute("SELECT cache_flush_statistics()")
        assert database.value("SELECT count(*) FROM cache_audit_log WHERE action <> 'upsert'") == 0
        connection.execute("BEGIN READ ONLY")
        assert set(explain(connection)) == {"live"}


@pytest.mark.parametrize("arguments, sqlstate", [
    ("NULL, 't', 'k'", "22004"), (f"'{ALICE}', NULL, 'k'", "22004"), (f"'{ALICE}', 't', NULL", "22004"),
    (f"'{ALICE}', '', 'k'", "22023"), (f"'{ALICE}', 't', ''", "22023"), (f"'{ALICE}', repeat('x', 256), 'k'", "22023"),
    (f"'{ALICE}', 't', repeat('x', 1025)", "22023")])
def test_bad_arguments_are_refused_as_those_of_a_lookup(database, arguments, sqlstate):
    with database.connect() as connection:
        error = sqlstate_of(lambda: connection.execute(f"SELECT * FROM cache_explain({arguments})"))
        expected = sqlstate_of(lambda: connection.execute(f"SELECT cache_lookup({arguments})"))
        told = [(e.sqlstate, e.message_primary, e.message_detail, e.message_hint) for e in (error, expected)]
        assert told[0] == told[1] and told[0][0] == sqlstate


def test_a_user_with_many_entries_is_answered_soon(database):
    add_entries(database, 50_000, "infinity")
    with database.connect() as connection:
        connection.execute("SET statement_timeout = '5s'")
        assert set(explain(connection, (ALICE, "other", "e7"), {"a": 1})) == {"not stored", "another content type"}
        assert lookup(connection, (ALICE, "t", "e7")) == 7


def test_the_condition_of_a_policy_is_told(database):
    database.execute("UPDATE cache_content_policies SET accept_if = '$.text.size() > 0' WHERE content_type = 'chapter_content'")
    with database.connect() as connection:
        assert explain(connection)["accept_if"] == 'An answer is stored only if this is true of it: ($."text".size() > 0).'
        connection.execute("INSERT INTO cache_statistics_hourly (hour, content_type, refused_by_gate) VALUES (date_trunc('hour', now()), 'chapter_content', 3)")
        assert explain(connection)["accept_if"].endswith(" It was not of 3 in the last 24 hours.")


def test_who_generates_is_told(database):
    with database.connect() as connection:
        lease = connection.execute("SELECT lease FROM cache_fetch(%s, %s, %s)", KEY).fetchone()[0]
        assert explain(connection)["being generated"].startswith("Somebody generates it; the lease ends in 1")
        assert "being generated" not in explain(connection, (ALICE, "tone", "k")) and "being generated" not in explain(connection, (BOB, *KEY[1:]))
        with database.connect() as other, other.transaction():
            other.execute("SELECT cache_upsert(%s, %s, %s, '1', lease => %s)", (*KEY, lease))
            assert explain(connection)["being generated"] == "It is being stored, and 0 sessions wait."
        assert set(explain(connection)) == {"live"}
        connection.execute("SELECT cache_invalidate(%s, %s, %s)", KEY)
        lease = connection.execute("SELECT lease FROM cache_fetch(%s, %s, %s)", KEY).fetchone()[0]
        connection.execute("SELECT cache_release(%s, failed => true, retry_after => '1 minute')", (lease,))
        assert explain(connection)["failed"].startswith("Its generation has failed; nobody is granted a lease for ")


def test_that_no_leases_can_be_had_is_told_without_the_library_preloaded():
    cluster = Cluster({"shared_preload_libraries": ""})
    try:
        with Database(cluster).connect() as connection:
            assert set(explain(connection)) == {"not stored", "no leases"}
    finally:
        cluster.remove()
