"""Users, their entries, and the calls by which clients write and read entries."""

import json

CACHE = "infinite_pages_cache_partitioned"
ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000002"
KEY = (ALICE, "story_foundation", "k")
# When entries expire: far from now in either direction, so that no test depends on the time of day.
LONG_AGO = "2020-01-01"
NEVER = "infinity"


def upsert(connection, content, key=KEY, **arguments):
    names = "".join(f", {name} => %({name})s" for name in arguments)
    return connection.execute(
        f"SELECT cache_upsert(%(user)s, %(type)s, %(key)s, %(content)s::jsonb{names})",
        {"user": key[0], "type": key[1], "key": key[2], "content": content, **arguments}).fetchone()[0]


def lookup(connection, key=KEY):
    return connection.execute("SELECT cache_lookup(%s, %s, %s)", key).fetchone()[0]


def upsert_many(connection, keys, content, content_type="story_foundation"):
    entries = [{"user_id": ALICE, "content_type": content_type, "cache_key": key, "content": content} for key in keys]
    return connection.execute("SELECT cache_upsert_many(%s::jsonb)", (json.dumps(entries),)).fetchone()[0]


def insert(database, created_at, key="k", user=ALICE, expires_at="infinity"):
    """INSERT a row as a client does that does not know the extension. Returns the partition that took it."""
    return database.value(
        f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) "
        "VALUES (%s, 't', %s, '1', %s, %s) RETURNING tableoid::regclass::text", (user, key, created_at, expires_at))


def add_entries(database, count, expires_at=LONG_AGO, prefix="e", user=ALICE):
    """INSERT so many entries of one user; they have expired unless told otherwise."""
    database.execute(
        f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) "
        "SELECT %s, 't', %s || n, to_jsonb(n), %s FROM generate_series(1, %s) n", (user, prefix, expires_at, count))


def count(database, condition="true"):
    """The number of rows of the cache that meet a condition."""
    return database.value(f"SELECT count(*) FROM {CACHE} WHERE {condition}")


def expired(database):
    """The number of rows that have expired."""
    return count(database, "expires_at < now()")


def duplicates(database):
    """Keys with more than one row."""
    return database.execute(f"SELECT cache_key, count(*) FROM {CACHE} GROUP BY user_id, content_type, cache_key HAVING count(*) > 1")
