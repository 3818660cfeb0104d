"""cache_fetch() and its leases."""

from collections import namedtuple

from harness.entries import CACHE, KEY

Fetched = namedtuple("Fetched", "state content lease retry_after expires_at age")


def fetch(connection, key=KEY, **arguments):
    """A row of cache_fetch()."""
    names = "".join(f", {name} => %({name})s" for name in arguments)
    cursor = connection.execute(f"SELECT * FROM cache_fetch(%(user)s, %(type)s, %(key)s{names})",
                                {"user": key[0], "type": key[1], "key": key[2], **arguments})
    assert [column.name for column in cursor.description] == list(Fetched._fields)
    [row] = cursor.fetchall()
    return Fetched(*row)


def release(connection, lease, **arguments):
    names = "".join(f", {name} => %({name})s" for name in arguments)
    return connection.execute(f"SELECT cache_release(%(lease)s{names})", {"lease": lease, **arguments}).fetchone()[0]


def leases(connection):
    """The state of each lease that the caller sees, by user and content type."""
    return connection.execute("SELECT user_id::text, content_type, state FROM cache_leases ORDER BY 1, 2, granted_at").fetchall()


def expire(database, ago, key=KEY):
    """Have an entry expired so long ago."""
    database.execute(f"UPDATE {CACHE} SET expires_at = now() - %s::interval WHERE user_id = %s AND content_type = %s AND cache_key = %s", (ago, *key))


def set_policy(database, content_type=KEY[1], **columns):
    """Set columns of a content policy. A session reads the policies once a minute, so this is for sessions that come later."""
    names, values = ", ".join(columns), ", ".join(f"%({name})s" for name in columns)
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
    database.execute(f"INSERT INTO cache_content_policies (content_type, {names}) VALUES (%(type)s, {values}) "
                     f"ON CONFLICT (content_type) DO UPDATE SET {changes}", {"type": content_type, **columns})


def counted(database, content_type=KEY[1]):
    """The counters of a content type that are not 0, without its tokens and times."""
    with database.connect() as connection:
        cursor = connection.execute("SELECT hits, misses, stale, leases_granted, leases_denied, waits, waits_hit, stale_served, failures, generations "
                                    "FROM cache_statistics() WHERE content_type = %s", (content_type,))
        rows = cursor.fetchall()
        return {column.name: value for row in rows for column, value in zip(cursor.description, row) if value}
