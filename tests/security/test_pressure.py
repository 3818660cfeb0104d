"""What a single client must not do to the others, however much it asks for."""

import json

from harness.entries import ALICE, BOB, lookup, upsert
from harness.errors import sqlstate_of
from harness.roles import temporary_roles
from harness.waiting import is_waiting, together, wait_until

LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"


def test_one_transaction_takes_a_bounded_number_of_locks(database):
    with database.connect(autocommit=False) as connection:
        connection.execute("SELECT cache_upsert(%s, 't', 'k' || n, '1') FROM generate_series(1, 3000) n", (ALICE,))
        assert connection.execute(LOCKS, (connection.info.backend_pid,)).fetchone()[0] < 300
        # It holds up no other key.
        with database.connect(options="-c lock_timeout=2s") as other:
            upsert(other, "1", (ALICE, "t", "b"))


def test_a_large_open_batch_holds_up_no_other_keys(database):
    with database.connect(autocommit=False) as connection, database.connect(options="-c lock_timeout=2s") as other:
        connection.execute("SELECT cache_upsert_many((SELECT jsonb_agg(jsonb_build_object('user_id', %s::text, "
                           "'content_type', 't', 'cache_key', n::text, 'content', n)) FROM generate_series(1, 5000) n))", (ALICE,))
        upsert(other, "1", (BOB, "t", "k"))
        assert lookup(other, (BOB, "t", "k")) == 1
        upsert(other, "1", (ALICE, "t", "another"))
        assert sqlstate_of(lambda: upsert(other, "1", (ALICE, "t", "5000"))).sqlstate == "55P03"


def test_forgetting_a_user_waits_for_what_is_not_yet_committed(database):
    with database.connect(autocommit=False) as writer, database.connect() as eraser:
        upsert(writer, "1", (ALICE, "t", "k"))

        def forget():
            return eraser.execute("SELECT entries_deleted, audit_rows_deleted FROM cache_forget_user(%s)", (ALICE,)).fetchone()

        def commit():
            wait_until(lambda: is_waiting(database, eraser))
            writer.commit()
        assert together(forget, commit)[0] == (1, 1)
    assert database.execute("SELECT user_id FROM infinite_pages_cache_partitioned UNION ALL SELECT user_id FROM cache_audit_log") == []


def test_writers_and_invalidations_in_every_order_do_not_deadlock(database):
    keys = [f"k{number}" for number in range(60)]

    def write(order):
        with database.connect() as connection:
            for _ in range(15):
                batch = [{"user_id": ALICE, "content_type": "t", "cache_key": key, "content": 1, "metadata": {"m": 1}} for key in order]
                connection.execute("SELECT cache_upsert_many(%s::jsonb)", (json.dumps(batch),))

    def invalidate(call):
        with database.connect() as connection:
            for _ in range(30):
                connection.execute(call, (ALICE,))
    together(lambda: write(keys), lambda: write(keys[::-1]),
             lambda: invalidate("SELECT cache_invalidate_where(%s, '{\"m\": 1}')"),
             lambda: invalidate("SELECT cache_invalidate_content_type(%s, 't')"),
             lambda: invalidate("SELECT * FROM cache_forget_user(%s)"))


def test_grants_and_set_up_at_the_same_time(database, cluster):
    with temporary_roles(cluster, "one", "two"):
        def call(sql):
            with database.connect() as connection:
                for _ in range(10):
                    connection.execute(sql)
        together(*[lambda sql=sql: call(sql) for sql in (
            "SELECT cache_grant_tenant('one')", "SELECT cache_grant_service('two')", "SELECT cache_setup()")])


def test_an_extension_created_anew_knows_the_roles_of_the_tables(database, cluster):
    with temporary_roles(cluster, "reader", "backend"):
        database.execute("SELECT cache_grant_tenant('reader'), cache_grant_service('backend')")
        database.execute("DROP EXTENSION infinite_pages_cache CASCADE")
        database.execute("CREATE EXTENSION infinite_pages_cache")
        with database.connect() as connection:
            connection.execute("SET ROLE backend")
            connection.execute("SELECT * FROM cache_alerts")
            upsert(connection, "1", (ALICE, "t", "k"))
            connection.execute("SET ROLE reader")
            connection.execute(f"SET infinite_pages_cache.user_id = '{ALICE}'")
            assert lookup(connection, (ALICE, "t", "k")) == 1
            assert connection.execute("SELECT total_cache_entries FROM user_cache_analytics").fetchall() == [(1,)]


def test_columns_that_the_user_adds_are_in_the_months_to_come(database):
    database.execute("ALTER TABLE infinite_pages_cache_partitioned ADD upper_type text GENERATED ALWAYS AS (upper(content_type)) STORED, "
                     "ADD note text NOT NULL DEFAULT 'x'")
    name = database.value("SELECT create_monthly_cache_partition('2031-01-01')")
    assert database.execute("SELECT attname, attgenerated FROM pg_attribute WHERE attrelid = %s::regclass AND attname IN ('upper_type', 'note') "
                            "ORDER BY 1", (name,)) == [("note", ""), ("upper_type", "s")]


def test_nothing_of_an_entry_may_be_larger_than_the_limit(database):
    with database.connect() as connection:
        connection.execute("SET infinite_pages_cache.max_content_bytes = '10kB'")
        for argument, value in [("metadata", "jsonb_build_object('x', repeat('x', 20000))"),
                                ("prompt_variables", "jsonb_build_object('x', repeat('x', 20000))"),
                                *((argument, "repeat('x', 20000)")
                                  for argument in ("prompt_template", "foundation_dependency", "semantic_similarity_hash"))]:
            error = sqlstate_of(lambda: connection.execute(f"SELECT cache_upsert(%s, 't', 'k', '1', {argument} => {value})", (ALICE,)))
            assert error.sqlstate == "54000" and argument in error.message_primary and error.message_detail and error.message_hint
        assert lookup(connection, (ALICE, "t", "k")) is None


def test_null_is_no_number_of_months(database):
    assert sqlstate_of(lambda: database.execute("SELECT * FROM drop_old_cache_partitions(NULL)")).sqlstate == "22004"
