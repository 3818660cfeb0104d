"""cache_refresh_candidates() lists what expires soon and has been of use, the most worth first."""

import pytest

from harness.entries import ALICE, BOB, CACHE, lookup, upsert
from harness.errors import sqlstate_of
from harness.roles import acting


def candidates(connection, arguments="", columns="content_type, cache_key, hit_count, token_cost, worth"):
    return connection.execute(f"SELECT {columns} FROM cache_refresh_candidates({arguments})").fetchall()


def keys(connection, arguments=""):
    return [key for (key,) in candidates(connection, arguments, "cache_key")]


def store(connection, key, hits, ttl="1 hour", user=ALICE, **arguments):
    upsert(connection, "1", (user, "tone", key), ttl=ttl, **arguments)
    for _ in range(hits):
        lookup(connection, (user, "tone", key))


def test_what_its_hits_have_saved_decides_the_order(database):
    with database.connect() as connection:
        store(connection, "three cheap hits", 3, token_cost=1)
        store(connection, "one dear hit", 1, token_cost=7.5)
        store(connection, "never hit", 0, token_cost=100)
        store(connection, "hit for nothing", 2, token_cost=0)
        assert candidates(connection) == [("tone", "one dear hit", 1, 7.5, 7.5), ("tone", "three cheap hits", 3, 1, 3), ("tone", "hit for nothing", 2, 0, 0)]


def test_hits_count_whether_they_are_stored_or_in_memory(database):
    with database.connect() as connection:
        store(connection, "k", 2, token_cost=3)
        connection.execute("SELECT cache_flush_statistics()")
        assert candidates(connection) == [("tone", "k", 2, 3, 6)]
        lookup(connection, (ALICE, "tone", "k"))
        assert candidates(connection) == [("tone", "k", 3, 3, 9)]


def test_only_what_expires_within_the_interval_and_is_live(database):
    with database.connect() as connection:
        for key, ttl in (("minute", "1 minute"), ("hour", "1 hour"), ("week", "7 days"), ("never", "infinity"), ("gone", "1 hour")):
            store(connection, key, 1, ttl)
        connection.execute(f"UPDATE {CACHE} SET expires_at = now() - interval '1 s' WHERE cache_key = 'gone'")
        assert keys(connection) == ["minute", "hour"]
        assert keys(connection, "'10 minutes'") == ["minute"]
        assert keys(connection, "within => '8 days'") == ["minute", "hour", "week"]
        # No interval reaches what never expires, and none is too long.
        assert keys(connection, "'170000000 years'") == ["minute", "hour", "week"]


def test_the_best_are_returned_up_to_the_number_asked_for(database):
    with database.connect() as connection:
        for number in range(1, 6):
            store(connection, f"k{number}", 1, token_cost=number)
        assert keys(connection, "max_results => 2") == ["k5", "k4"]


def test_a_newer_version_in_another_month_decides(database):
    with database.connect() as connection:
        connection.execute("SELECT create_monthly_cache_partition('2020-01-01')")
        connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at, hit_count) "
                           "VALUES (%s, 'tone', 'k', '1', '2020-01-05', now() + interval '1 hour', 9), "
                           "       (%s, 'tone', 'old', '1', '2020-01-05', now() + interval '1 hour', 5)", (ALICE, ALICE))
        store(connection, "x", 1)
        connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) "
                           "VALUES (%s, 'tone', 'k', '2', 'infinity')", (ALICE,))
        assert keys(connection) == ["old", "x"]


def test_an_entry_without_a_cost_costs_what_its_policy_says(database):
    with database.connect() as connection:
        for content_type in ("story_foundation", "of no policy"):
            connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at, hit_count) "
                               "VALUES (%s, %s, 'k', '1', now() + interval '1 hour', 2)", (ALICE, content_type))
        assert candidates(connection) == [("story_foundation", "k", 2, 8, 16), ("of no policy", "k", 2, 1, 2)]


def test_the_row_has_what_the_answer_was_made_from(database):
    with database.connect() as connection:
        store(connection, "k", 1, prompt_template="Tell {what}", prompt_variables='{"what": "all"}', metadata='{"genre": "noir"}')
        found = candidates(connection, "", "user_id::text, prompt_template, prompt_variables, metadata, expires_at - now() BETWEEN '59 min' AND '1 hour'")
        assert found == [(ALICE, "Tell {what}", {"what": "all"}, {"genre": "noir"}, True)]


def test_row_security_decides_who_sees_what(roles, database):
    with database.connect() as connection:
        for user in (ALICE, BOB):
            store(connection, f"of {user}", 2, user=user)
        with acting(connection, ALICE):
            assert candidates(connection) == [("tone", f"of {ALICE}", 2, 0.5, 1)]
        with acting(connection, BOB):
            assert keys(connection) == [f"of {BOB}"]
        with acting(connection, None):
            assert keys(connection) == []
        with acting(connection, None, role="service_role"):
            assert sorted(keys(connection)) == sorted([f"of {ALICE}", f"of {BOB}"])
        with pytest.raises(Exception, match="permission denied for table") as error, acting(connection, ALICE, role="anon"):
            candidates(connection)
        assert "cache_grant_tenant" in error.value.diag.message_hint


@pytest.mark.parametrize("arguments, sqlstate, message, detail", [
    ("within => NULL", "22004", "within must not be NULL", "The argument within is NULL."),
    ("within => '0'", "22023", "within must be positive", 'It is "00:00:00".'),
    ("within => '-1 day'", "22023", "within must be positive", 'It is "-1 days".'),
    ("max_results => NULL", "22004", "max_results must not be NULL", "The argument max_results is NULL."),
    ("max_results => 0", "22023", "max_results must be between 1 and 10000", "It is 0."),
    ("max_results => 10001", "22023", "max_results must be between 1 and 10000", "It is 10001.")])
def test_bad_arguments_are_refused(database, arguments, sqlstate, message, detail):
    with database.connect() as connection:
        error = sqlstate_of(lambda: candidates(connection, arguments))
        assert (error.sqlstate, error.message_primary, error.message_detail) == (sqlstate, message, detail)
        assert error.message_hint


def test_it_writes_nothing(database):
    with database.connect() as connection:
        store(connection, "k", 1)
        connection.execute("BEGIN READ ONLY")
        assert keys(connection) == ["k"]


def test_an_index_finds_what_expires(database):
    """The cache is not read whole, whoever asks."""
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at, hit_count) "
                     "SELECT %s, 't', 'k' || n, '1', now() + n * interval '1 hour', 1 FROM generate_series(1, 20000) n", (ALICE,))
    database.execute("ANALYZE")
    with database.connect() as connection:
        read = f"SELECT coalesce(sum(seq_tup_read), 0) FROM pg_stat_xact_user_tables WHERE relname LIKE 'infinite_pages_cache%%'"
        with connection.transaction():
            assert len(keys(connection, "max_results => 3")) == 3
            assert connection.execute(read).fetchone()[0] == 0


def test_what_the_answers_were_made_from_is_read_of_the_best_only(database):
    """Sorting it all would take a file of a kilobyte for each entry that expires."""
    database.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at, hit_count, metadata) "
                     "SELECT %s, 't', 'k' || n, '1', now() + interval '1 hour', n, jsonb_build_object('n', n, 'text', repeat(md5(n::text), 30)) "
                     "FROM generate_series(1, 10000) n", (ALICE,))
    with database.connect() as connection:
        connection.execute("SET temp_file_limit = 0; SET work_mem = '4MB'")
        assert candidates(connection, "max_results => 2", "cache_key, metadata -> 'n'") == [("k10000", 10000), ("k9999", 9999)]
