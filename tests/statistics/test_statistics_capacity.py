"""Shared memory is of a fixed size: what does not fit is counted all the same, in less detail."""

from collections import Counter

import pytest

from harness.database import Database
from harness.entries import ALICE, BOB
from harness.errors import sqlstate_of
from harness.reports import report
from harness.roles import temporary_roles
from harness.tally import GET, MANY, ONE, Client, counters, counting_cluster, flush, pending, rolled_up, rows_of
from harness.waiting import together, wait_until

ENTRIES, TYPES = 64, 8


@pytest.fixture
def small():
    """A cluster with the least room; as its settings say."""
    cluster = counting_cluster(**{"infinite_pages_cache.max_tracked_entries": ENTRIES, "infinite_pages_cache.max_tracked_content_types": TYPES})
    yield cluster
    cluster.remove()


@pytest.fixture
def client(small):
    database = Database(small)
    with database.connect() as connection:
        client = Client(connection)
        client.database = database
        yield client


# ── entries ──────────────────────────────────────────────────────────────────────────────────────

def test_hits_of_more_entries_than_there_are_places_for(client):
    entries = [(ALICE, "tone" if number % 3 else "setting", f"k{number}") for number in range(ENTRIES + 6)]
    for entry in entries:
        client.upsert(entry, 2)
    tracked, others = entries[:ENTRIES], entries[ENTRIES:]
    for entry in tracked:
        client.lookup(entry, 2)
    for entry in others:
        client.lookup(entry, 3)
    # An entry that has its place keeps it.
    for entry in tracked:
        client.lookup(entry)
    untracked = Counter(entry[1] for entry in others for _ in range(3))
    for content_type, number in untracked.items():
        client.tally.types[content_type]["untracked_hits"] = number
    assert untracked == {"tone": 12, "setting": 6}
    assert counters(client.database) == client.tally.counters()
    assert pending(client.database) == (ENTRIES * 3, ENTRIES * 3 * 2)
    assert flush(client.connection) == (ENTRIES, 0, 2, 0)
    assert rolled_up(client.database) == client.tally.counters()
    assert rows_of(client.database) == {entry: 3 if entry in tracked else 0 for entry in entries}
    # The places are free again, for others, too.
    for entry in others:
        client.lookup(entry, 4)
    assert pending(client.database) == (4 * len(others), 8 * len(others))
    assert flush(client.connection)[:2] == (len(others), 0)
    assert rows_of(client.database) == {entry: 3 if entry in tracked else 4 for entry in entries}
    assert rolled_up(client.database) == client.tally.counters()


def test_places_of_entries_are_shared_by_databases(client):
    other = Database(client.database.cluster)
    with other.connect() as connection:
        second = Client(connection)
        for number in range(ENTRIES):
            client.upsert((ALICE, "tone", f"k{number}"))
            client.lookup((ALICE, "tone", f"k{number}"))
        second.upsert((ALICE, "tone", "k0"))
        second.lookup((ALICE, "tone", "k0"), 2)
        second.tally.types["tone"]["untracked_hits"] = 2
        assert counters(other) == second.tally.counters()
        # The other database's flush frees no place, this one's all of its own.
        assert flush(connection) == (0, 0, 1, 0)
        assert flush(client.connection)[:2] == (ENTRIES, 0)
        second.lookup((ALICE, "tone", "k0"))
        assert pending(other) == (1, 1)
    assert rows_of(client.database) == client.tally.hit_counts()


def test_entries_come_and_go_in_every_order(client):
    """Places are found again whatever was freed between: nothing is lost, and nothing stays behind."""
    keys = [(user, "tone", f"k{number}") for number in range(50) for user in (ALICE, BOB)]
    for key in keys:
        client.upsert(key)
    with client.database.connect() as holder:
        for rest in range(5):
            for number, key in enumerate(keys):
                if number % 5 == rest:
                    client.lookup(key, number % 3 + 1)
            # Some of them keep their places.
            holder.execute("BEGIN")
            holder.execute("SELECT 1 FROM infinite_pages_cache_partitioned WHERE right(cache_key, 1) IN ('1', '4') FOR UPDATE")
            flush(client.connection)
            holder.execute("COMMIT")
    flush(client.connection)
    assert rows_of(client.database) == client.tally.hit_counts()
    assert rolled_up(client.database) == client.tally.counters()
    assert pending(client.database) == (0, 0)


def test_more_clients_than_places(client):
    """The sums by type are exact also when eight clients fight for the last places."""
    entries = [(ALICE, "tone", f"k{number}") for number in range(2 * ENTRIES)]
    for entry in entries:
        client.upsert(entry)

    def read(number):
        with client.database.connect() as connection:
            one = Client(connection)
            one.tally.costs.update(client.tally.costs)
            for entry in entries[number::3] + entries:
                one.lookup(entry)
            return one.tally

    for tally in together(*[lambda number=number: read(number) for number in range(8)]):
        client.tally = client.tally + tally
    hits, tracked = client.tally.total("hits"), pending(client.database)[0]
    found = counters(client.database)["tone"]
    assert found["hits"] == hits and found["untracked_hits"] == hits - tracked
    assert flush(client.connection)[:2] == (ENTRIES, 0)
    rows = rows_of(client.database)
    assert sum(rows.values()) == tracked and all(rows[entry] in (0, client.tally.hits[entry]) for entry in entries)


# ── content types ────────────────────────────────────────────────────────────────────────────────

def made_up(client, function, number=100, prefix="type"):
    """A call for each of so many types that nobody has made a policy for."""
    content = ", '1'" if function == "cache_upsert" else ""
    client.connection.execute(f"SELECT count({function}(%s, '{prefix} ' || n, 'k'{content})) FROM generate_series(1, {number}) n", (ALICE,))


def others(database, *names):
    return counters(database, *names).get("", {})


def full(database):
    """Whether the check of the installation finds types without counters."""
    [(ok, detail, hint)] = database.execute("SELECT ok, detail, hint FROM verify_production_cache() WHERE name = 'content types have counters of their own'")
    assert ok == (hint is None)
    return None if ok else detail


def test_misses_of_made_up_types_take_no_place(client):
    """Neither in this database nor in another one; there is nothing of them, and they are counted together."""
    other = Database(client.database.cluster)
    made_up(client, "cache_lookup", 10_000)
    client.connection.execute("SELECT count(*) FROM generate_series(1, 100) n, cache_get(%s, 'got ' || n, 'k')", (ALICE,))
    client.connection.execute("SELECT count(*) FROM generate_series(1, 100) n, cache_lookup_many(%s, 'many ' || n, '{k,l}')", (ALICE,))
    assert counters(client.database, "hits", "misses", "lookup_us") == {"": {"misses": 10_300, "lookup_us": 10_200}}
    assert full(client.database) is None
    client.tally.types[""].update(misses=10_300)
    for database in (client.database, other):
        with database.connect() as connection:
            one = Client(connection, client.tally if database is client.database else None)
            # Two with a policy, and two without.
            for content_type in ("tone", "themes", "mine", "(all other types)"):
                one.upsert((ALICE, content_type, "k"))
                one.lookup((ALICE, content_type, "k"), 2)
                one.lookup((ALICE, content_type, "none"), 3)
            assert counters(database) == one.tally.counters()
    assert full(client.database) is None


def test_types_with_a_policy_and_types_with_entries_have_counters(client):
    client.lookup((ALICE, "tone", "none"))
    client.expire((ALICE, "expired", "k"))
    client.lookup((ALICE, "expired", "k"), 2)
    # One that a client has inserted.
    client.connection.execute("INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content) VALUES (%s, 'inserted', 'k', '1')", (ALICE,))
    client.tally.costs[(ALICE, "inserted", "k")] = 1
    client.lookup((ALICE, "inserted", "k"))
    client.upsert((ALICE, "stored", "k"))
    client.lookup((ALICE, "stored", "none"), 4)
    assert counters(client.database) == client.tally.counters()
    client.connection.execute("INSERT INTO cache_content_policies (content_type) VALUES ('poem')")
    with client.database.connect() as connection:
        Client(connection, client.tally).lookup((ALICE, "poem", "none"))
    assert counters(client.database) == client.tally.counters()


@pytest.mark.parametrize("how", ["upsert", "insert"])
def test_a_type_that_another_session_has_stored_an_entry_of(client, how):
    """Sessions that counted its misses together with others notice."""
    new = (ALICE, "new", "k")
    with client.database.connect() as connection, client.database.connect() as third:
        for one in (client.connection, connection, third):
            Client(one).lookup(new, 2)
        assert others(client.database, "misses") == {"misses": 6}
        if how == "upsert":
            Client(connection, client.tally).upsert(new)
        else:
            client.connection.execute("INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content, token_cost) "
                                      "VALUES (%s, %s, %s, '1', 1)", new)
            client.tally.costs[new] = 1
        for one in (third, client.connection, connection):
            Client(one, client.tally).lookup(new, 3)
            Client(one, client.tally).lookup((ALICE, "new", "none"))
    client.tally.types[""]["misses"] = 6
    assert counters(client.database) == client.tally.counters()


def test_a_lookup_waits_for_no_content_policy(client):
    with client.database.connect(autocommit=False) as other, client.database.connect() as connection:
        other.execute("LOCK TABLE cache_content_policies")
        connection.execute("SET statement_timeout = '5s'")
        for sql in (ONE, GET, MANY):
            Client(connection).lookup((ALICE, "tone", "none"), 1, sql)
        assert counters(client.database) == {"": {"misses": 3}}
        other.rollback()
        Client(connection).lookup((ALICE, "tone", "none"))
    assert counters(client.database, "misses") == {"": {"misses": 3}, "tone": {"misses": 1}}


def test_a_role_that_may_not_read_content_policies(client):
    with temporary_roles(client.database.cluster, "guest"), client.database.connect() as connection:
        client.database.execute("GRANT SELECT ON infinite_pages_cache_partitioned TO guest")
        connection.execute("SET ROLE guest")
        assert sqlstate_of(lambda: connection.execute("SELECT FROM cache_content_policies")).sqlstate == "42501"
        for sql in (ONE, GET, MANY):
            Client(connection, client.tally).lookup((ALICE, "tone", "none"), 1, sql)
        assert connection.execute("SELECT current_user").fetchone() == ("guest",)
    assert counters(client.database) == client.tally.counters() == {"tone": {"misses": 3}}


@pytest.mark.parametrize("warm", [False, True], ids=["a new session", "one that has looked up before"])
def test_lookups_beside_a_parallel_scan(client, warm):
    """The leader looks up while others scan; it may neither take a snapshot nor write then."""
    client.connection.execute("CREATE TABLE numbers AS SELECT n FROM generate_series(1, 50000) n; ANALYZE numbers")
    client.upsert((ALICE, "setting", "k"))
    query = "SELECT count(cache_lookup(%s, {}, 'none')) FROM (SELECT n FROM numbers WHERE n %% 10000 = 0 OFFSET 0) b"
    with client.database.connect() as connection:
        for name in ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size"):
            connection.execute(f"SET {name} = 0")
        plan = connection.execute("EXPLAIN " + query.format("'tone'"), (ALICE,)).fetchall()
        assert any("Gather" in line for (line,) in plan)
        if warm:
            Client(connection, client.tally).lookup((ALICE, "setting", "k"))
        for content_type in ("'tone'", "'made up ' || n"):
            assert connection.execute(query.format(content_type), (ALICE,)).fetchone() == (0,)
    assert counters(client.database, "misses") == {"tone": {"misses": 5}, "": {"misses": 5}}


def test_ten_thousand_content_types_with_entries(client):
    """Half of the places are for the first ones, all others have one row together, and the sums are right."""
    client.connection.execute("SELECT count(cache_upsert(%s, 'type ' || n, 'k', '1', token_cost => 0.5)) FROM generate_series(1, 10000) n", (ALICE,))
    for _ in range(2):
        client.connection.execute("SELECT count(cache_lookup(%s, 'type ' || n, 'k')) FROM generate_series(1, 10000) n", (ALICE,))
        client.connection.execute("SELECT count(cache_lookup(%s, 'type ' || n, 'none')) FROM generate_series(1, 10000, 2) n", (ALICE,))
    own = [f"type {number}" for number in range(1, TYPES // 2 + 1)]
    names = ["hits", "misses", "upserts", "tokens_spent", "tokens_saved", "lookup_us"]

    def right(numbers):
        odd = sum(number % 2 for number in numbers)
        counts = (2 * len(numbers), 2 * odd, len(numbers), len(numbers) / 2, len(numbers), 2 * len(numbers) + 2 * odd)
        return {name: count for name, count in zip(names, counts) if count}

    expected = {name: right([number]) for number, name in enumerate(own, 1)} | {"": right(range(TYPES // 2 + 1, 10001))}
    assert counters(client.database, *names) == expected
    # Hits that found no place among the entries stand with their type, or with all others.
    assert others(client.database, "untracked_hits")["untracked_hits"] == 20000 - pending(client.database)[0]
    assert flush(client.connection)[2] == TYPES // 2 + 1
    assert rolled_up(client.database, *names) == expected
    # After a flush others do not get the places of those that have them.
    client.connection.execute("SELECT cache_lookup(%s, 'type 10000', 'k')", (ALICE,))
    assert counters(client.database, "hits", pending=True) == {"": {"hits": 1}}
    rows = {row["content_type"]: row for row in report(client.database, "cache_performance_metrics")}
    assert (rows[""]["lookups"], rows[""]["total_entries"]) == (expected[""]["lookup_us"] + 1, 0)
    assert sum(row["lookups"] or 0 for row in rows.values()) == 30001


def test_made_up_types_with_entries_leave_room_for_those_with_a_policy(client):
    """Whoever can store entries cannot take the places of another database, or of what is listed in this one."""
    made_up(client, "cache_upsert")
    assert full(client.database) == f"{100 - TYPES // 2} hits and upserts were counted without their content type"
    other = Database(client.database.cluster)
    with other.connect() as connection:
        second = Client(connection)
        for number, content_type in enumerate(("tone", "themes", "setting"), 1):
            second.upsert((ALICE, content_type, "k"), 2)
            second.lookup((ALICE, content_type, "k"), number)
            second.lookup((ALICE, content_type, "none"))
        assert counters(other) == second.tally.counters()
        assert full(other) is None
    client.tally = type(client.tally)()
    client.upsert((ALICE, "tone", "k"))
    client.lookup((ALICE, "tone", "k"), 2)
    assert {"tone": counters(client.database)["tone"]} == client.tally.counters()
    # Listed types may have all places, but no more.
    client.upsert((ALICE, "themes", "k"))
    assert "themes" not in counters(client.database)
    assert full(client.database) == f"{101 - TYPES // 2} hits and upserts were counted without their content type"


def test_listed_types_may_have_all_places(client):
    listed = [name for (name,) in client.database.execute(f"SELECT content_type FROM cache_content_policies WHERE content_type <> '*' LIMIT {TYPES + 1}")]
    for content_type in listed:
        client.upsert((ALICE, content_type, "k"))
    assert set(counters(client.database)) == {*listed[:TYPES], ""}


def test_another_database_still_counts_when_all_places_are_taken(client):
    made_up(client, "cache_upsert")
    other = Database(client.database.cluster)
    with other.connect() as connection:
        second = Client(connection)
        for number in range(3):
            second.upsert((ALICE, f"mine {number}", "k"), 2)
            second.lookup((ALICE, f"mine {number}", "k"), 5)
            second.lookup((ALICE, f"mine {number}", "none"), 1)
        assert counters(other) == {"": {"hits": 15, "misses": 3, "upserts": 3, "tokens_spent": 6, "tokens_saved": 30}}
        assert flush(connection) == (3, 0, 1, 0)
        assert rolled_up(other) == {"": {"hits": 15, "misses": 3, "upserts": 3, "tokens_spent": 6, "tokens_saved": 30}}
        assert rows_of(other) == second.tally.hit_counts()
    assert others(client.database, "upserts") == {"upserts": 100 - TYPES // 2}


def test_hits_of_a_type_without_a_place_show_at_once(client):
    made_up(client, "cache_upsert")
    client.upsert((BOB, "mine", "k"), 2)
    client.lookup((BOB, "mine", "k"), 5)
    for _ in range(2):
        assert sum(row["cache_hits"] for row in report(client.database, "cache_performance_metrics")) == 5
        assert {str(row["user_id"]): row["total_cache_hits"] for row in report(client.database, "user_cache_analytics")} == {ALICE: 0, BOB: 5}
        found = client.database.value("SELECT get_infinite_pages_analytics(%s)", (BOB,))
        assert (found["total_cache_hits"], found["total_tokens_saved"]) == (5, 10)
        flush(client.connection)


def test_long_names_are_different_types(client):
    """A name has 255 bytes at most, and all of them count."""
    types = ["x" * 254 + last for last in "ab"] + ["é" * 127, "é" * 126 + "è", " ", "'"]
    client.connection.execute("INSERT INTO cache_content_policies (content_type) SELECT unnest(%s::text[])", (types,))
    for number, content_type in enumerate(types, 1):
        client.lookup((ALICE, content_type, "none"), number)
    assert counters(client.database) == client.tally.counters()
    flush(client.connection)
    assert rolled_up(client.database) == client.tally.counters()


def test_the_row_of_all_others_is_nobodys(client):
    """Its name, the empty one, no type can have; whatever a type is called, it has a row of its own."""
    made_up(client, "cache_upsert")
    with client.database.connect() as connection:
        for call in (ONE, "SELECT cache_upsert(%s, %s, %s, '1')"):
            assert sqlstate_of(lambda: connection.execute(call, (ALICE, "", "k"))).sqlstate == "22023"
        assert sqlstate_of(lambda: connection.execute("INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content) "
                                                      "VALUES (%s, '', 'k', '1')", (ALICE,))).sqlstate == "23514"
    client.upsert((BOB, "(all other types)", "k"))
    rows = {row["content_type"]: row["total_entries"] for row in report(client.database, "cache_performance_metrics")}
    assert (rows[""], rows["(all other types)"], len(rows)) == (0, 1, 102)


# ── databases that are gone ──────────────────────────────────────────────────────────────────────

def test_places_of_dropped_databases_are_given_to_others():
    """The launcher notices that a database is gone, and gives up what was counted in it."""
    cluster = counting_cluster(**{"infinite_pages_cache.max_tracked_entries": ENTRIES, "infinite_pages_cache.max_tracked_content_types": TYPES,
                                  "infinite_pages_cache.naptime": "1s", "infinite_pages_cache.skip_steps": "flush statistics"})
    try:
        for _ in range(3):
            database = Database(cluster)
            with database.connect() as connection:
                client = Client(connection)
                client.database = database

                def have_places():
                    """An entry of a type that is new gets a place of its own once the launcher has come round."""
                    name = f"try {have_places.tries}"
                    have_places.tries += 1
                    Client(connection).upsert((BOB, name, "k"))
                    return name in counters(database)
                have_places.tries = 0
                wait_until(have_places, timeout=90)
                made_up(client, "cache_upsert", TYPES + 2)
                for number in range(ENTRIES):
                    client.upsert((ALICE, "tone", f"k{number}"))
                    client.lookup((ALICE, "tone", f"k{number}"))
                assert pending(database) == (ENTRIES, ENTRIES)
                assert full(database)
                assert sum(count["upserts"] for count in counters(database, "upserts").values()) == TYPES + 2 + ENTRIES + have_places.tries
            database.drop()
    finally:
        cluster.remove()
