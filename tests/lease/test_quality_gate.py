"""accept_if of a content policy: an answer of which it is not true is not stored, and the client is told why."""

import json

import psycopg
import pytest

from harness.calls import entry, upsert_many
from harness.entries import ALICE, CACHE, lookup, upsert
from harness.errors import notices_to, sqlstate_of
from harness.waiting import together

KEY = (ALICE, "chapter", "k")
MESSAGE = "the answer was not stored"
HINT = "Generate it anew, or change accept_if in cache_content_policies."


def accept_if(database, condition, content_type="chapter"):
    database.execute("INSERT INTO cache_content_policies (content_type, accept_if) VALUES (%s, %s) "
                     "ON CONFLICT (content_type) DO UPDATE SET accept_if = excluded.accept_if", (content_type, condition))


def detail(objection, content_type="chapter"):
    return f'The accept_if of content type "{content_type}" is not true of it: {objection}.'


STORED = [  # condition, content, metadata
    ('$.text != ""', '{"text": "x"}', None),
    ('$.text.size() > 0 && $finish_reason == "stop"', '{"text": "x"}', '{"finish_reason": "stop"}'),
    # The fields of an object that is a variable.
    ("$usage.output_tokens < $usage.limits[1]", "1", '{"usage": {"output_tokens": 3, "limits": [1, 4]}}'),
    ('exists($.text ? (@ like_regex "^tram" flag "i"))', '{"text": "Tram 28"}', None),
    ("$ == null", "null", None),
    # Metadata that are no object have no fields.
    ("$ == 1", "1", "[1]"), ("$ == 1", "1", '"finish_reason"'),
]


@pytest.mark.parametrize("condition, content, metadata", STORED)
def test_an_answer_of_which_it_is_true_is_stored(database, condition, content, metadata):
    accept_if(database, condition)
    with database.connect() as connection:
        notices = notices_to(connection)
        assert upsert(connection, content, KEY, metadata=metadata) is not None
        assert notices == []
        assert lookup(connection, KEY) == json.loads(content)


SINGLE = "single boolean result is expected"
NO_VARIABLE = 'could not find jsonpath variable "finish_reason"'
REFUSED = [  # condition, content, metadata, what it is
    ('$.text != ""', '{"text": ""}', None, "false"),
    ('$.text != ""', "{}", None, "false"),
    ("$.text > 5", '{"text": "x"}', None, "NULL"),
    ('$finish_reason == "stop"', "1", '{"finish_reason": "length"}', "false"),
    ('$finish_reason == "stop"', "1", '{"stop_reason": "stop"}', NO_VARIABLE),
    ('$finish_reason == "stop"', "1", None, NO_VARIABLE),
    ('$finish_reason == "stop"', "1", '["finish_reason"]', NO_VARIABLE),
    # No boolean, none at all, and several.
    ("$.text", '{"text": "x"}', None, SINGLE), ("$.text", "{}", None, SINGLE), ("$[*]", "[true, true]", None, SINGLE),
    # A field that is text is none that is true, and a field that is true is.
    ("$.ok", '{"ok": "true"}', None, SINGLE),
    ("strict $.text.size() > 0", "{}", None, "NULL"),
    ("strict $.text", "{}", None, 'JSON object does not contain key "text"'),
    ("1 / $.count > 0", '{"count": 0}', None, "NULL"),
    ("$.datetime() < $.datetime()", '"yesterday"', None, "NULL"),
]


@pytest.mark.parametrize("condition, content, metadata, objection", REFUSED)
def test_an_answer_of_which_it_is_not_true_is_not_stored_and_the_notice_says_why(database, condition, content, metadata, objection):
    accept_if(database, condition)
    before = database.contents()
    with database.connect() as connection:
        notices = notices_to(connection)
        assert upsert(connection, content, KEY, metadata=metadata) is None
        assert notices == [("01000", MESSAGE, detail(objection), HINT)]
    assert database.contents() == before


def test_a_field_that_is_true_is_a_condition(database):
    accept_if(database, "$.ok")
    with database.connect() as connection:
        assert upsert(connection, '{"ok": true}', KEY) is not None
        assert upsert(connection, '{"ok": false}', KEY) is None
        # What was refused leaves the version before.
        assert lookup(connection, KEY) == {"ok": True}


def test_without_a_condition_everything_is_stored(database):
    accept_if(database, None)
    accept_if(database, "$ == 1", "*")
    with database.connect() as connection:
        # The type has a policy of its own.
        assert upsert(connection, "2", KEY) is not None
        assert upsert(connection, "2", (ALICE, "other", "k")) is None
        assert upsert(connection, "1", (ALICE, "other", "k")) is not None
    database.execute("DELETE FROM cache_content_policies")
    with database.connect() as connection:
        assert upsert(connection, "3", (ALICE, "other", "k")) is not None


def test_a_session_follows_a_changed_condition(database):
    accept_if(database, "$ == 1")
    with database.connect() as connection:
        assert upsert(connection, "2", KEY) is None
        accept_if(database, "$ == 2")
        assert upsert(connection, "2", KEY) is not None
        assert upsert(connection, "1", KEY) is None
        accept_if(database, None)
        assert upsert(connection, "1", KEY) is not None


def test_a_batch_stores_the_rest(database):
    accept_if(database, '$ != "" && $finish_reason == "stop"')
    with database.connect() as connection:
        notices = notices_to(connection)
        good = {"content_type": "chapter", "content": "x", "metadata": {"finish_reason": "stop"}}
        ids = connection.execute(upsert_many(
            entry(**good, cache_key="a"), entry(**{**good, "content": ""}, cache_key="b"), entry(cache_key="c"),
            entry(content_type="chapter", cache_key="d"), entry(**good, cache_key="e"))).fetchone()[0]
        assert [one is not None for one in ids] == [True, False, True, False, True]
        # In the order of digests, in which entries are stored.
        assert sorted(notices) == [
            ("01000", MESSAGE, f"Entry 2 of the batch: {detail('false')}", HINT),
            ("01000", MESSAGE, f"Entry 4 of the batch: {detail(NO_VARIABLE)}", HINT)]
        assert connection.execute(f"SELECT array_agg(cache_key ORDER BY cache_key) FROM {CACHE}").fetchone() == (["a", "c", "e"],)


def test_of_a_key_that_stands_twice_the_last_is_asked(database):
    accept_if(database, "$ == 1")
    with database.connect() as connection:
        def batch(*contents):
            return connection.execute(upsert_many(*(entry(content_type="chapter", content=content) for content in contents))).fetchone()[0]

        assert batch(1, 2) == [None, None]
        one, same = batch(2, 1)
        assert one == same is not None


def test_what_is_refused_is_counted_whatever_becomes_of_the_transaction(database):
    accept_if(database, "$ == 1")
    with database.connect(autocommit=False) as connection:
        assert upsert(connection, "2", KEY) is None
        connection.rollback()
        assert upsert(connection, "2", KEY) is None
        assert upsert(connection, "1", KEY) is not None
        connection.commit()
    counted = database.execute("SELECT refused_by_gate, refused_fills, upserts FROM cache_statistics() WHERE content_type = 'chapter'")
    assert counted == [(2, 0, 1)]
    assert database.value("SELECT count(*) FROM cache_audit_log") == 1


SLOW = "exists($[*] ? (exists($[*] ? (@ > 2))))"
CONTENT = json.dumps([1] * 20_000)


def test_a_slow_condition_can_be_cancelled(database):
    accept_if(database, SLOW)
    with database.connect() as connection:
        connection.execute("SET statement_timeout = '300ms'")
        error = sqlstate_of(lambda: upsert(connection, CONTENT, KEY))
        assert error.sqlstate == "57014"
        connection.execute("SET statement_timeout = 0")
        assert upsert(connection, "[3]", KEY) is not None
    with database.connect() as connection:
        pid = connection.info.backend_pid

        def terminate():
            while not database.value("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND state = 'active' "
                                     "AND query LIKE '%%cache_upsert%%'", (pid,)):
                pass

        def store():
            with pytest.raises(psycopg.errors.AdminShutdown):
                upsert(connection, CONTENT, KEY)

        together(store, terminate)
    assert database.value(f"SELECT content FROM {CACHE}") == [3]


def test_content_nested_too_deep_for_the_condition_is_kept_out(database):
    accept_if(database, "exists($.** ? (@ == 1))")
    with database.connect() as connection:
        notices = notices_to(connection)
        # Read before the stack is made small, because reading takes a stack, too.
        connection.execute("CREATE TEMP TABLE deep AS SELECT (repeat('[', 3000) || '1' || repeat(']', 3000))::jsonb AS content")
        connection.execute("SET max_stack_depth = '100kB'")
        stored = connection.execute("SELECT cache_upsert(%s, %s, %s, content) FROM deep", KEY).fetchone()[0]
        assert stored is None
        assert [notice[2] for notice in notices] == [detail("stack depth limit exceeded")]
        assert upsert(connection, "[1]", KEY) is not None


def test_a_jsonpath_that_cannot_be_read_is_refused_by_the_table(database):
    error = sqlstate_of(lambda: accept_if(database, "$.text ?"))
    assert error.sqlstate == "42601"


def test_without_the_column_everything_is_stored(database):
    """As after the restore of an old dump, until cache_setup()."""
    database.execute("ALTER TABLE cache_content_policies DROP COLUMN accept_if")
    with database.connect() as connection:
        assert upsert(connection, "2", KEY) is not None
        connection.execute("SELECT cache_setup()")
        accept_if(database, "$ == 1")
        assert upsert(connection, "2", KEY) is None


def test_invalid_entries_are_refused_before_the_condition_is_asked(database):
    accept_if(database, "$ == 1")
    with database.connect() as connection:
        error = sqlstate_of(lambda: upsert(connection, "2", KEY, priority_tier=4))
        assert error.sqlstate == "22023" and error.message_primary.startswith("priority_tier")
