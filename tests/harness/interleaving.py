"""Interleaved transactions, whose statements are seen to wait for others, and the calls that tests interleave."""

import threading

import psycopg
import pytest

from harness.database import Database
from harness.entries import ALICE, KEY, lookup, upsert
from harness.waiting import is_waiting, wait_until

READ_COMMITTED, *HIGHER = LEVELS = ["read committed", "repeatable read", "serializable"]
at_each_level = pytest.mark.parametrize("level", LEVELS)
either_way = pytest.mark.parametrize("kept", [True, False], ids=["commit", "rollback"])
REFUSED = "40001"


class Watched(Database):
    """A database that is looked at through one connection, because new ones would take most of the time."""

    kept = None

    def execute(self, sql, parameters=None):
        self.kept = self.kept or self.connect()
        cursor = self.kept.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else None


class Session:
    """A transaction at an isolation level, whose statements can wait for others'."""

    def __init__(self, database, level):
        self.database = database
        self.connection = database.connect(autocommit=False)
        self.connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")

    def sees(self):
        """Look the entry up. This takes the snapshot that the higher isolation levels keep."""
        return lookup(self.connection)

    def run(self, action):
        return action(self.connection)

    def start(self, action):
        """Start a statement, and wait until it waits for a lock."""
        self.result = self.error = None

        def run():
            try:
                self.result = action(self.connection)
            except psycopg.Error as error:
                self.error = error.sqlstate

        self.thread = threading.Thread(target=run)
        self.thread.start()
        wait_until(lambda: is_waiting(self.database, self.connection) or not self.thread.is_alive())
        assert self.thread.is_alive(), f"it did not wait, and ended with {self.error or self.result!r}"

    def outcome(self):
        """End the transaction of a statement that has waited. Returns the statement's result, or the SQLSTATE of the error."""
        self.thread.join(20)
        assert not self.thread.is_alive(), "it still waits"
        if self.error is None:
            try:
                self.connection.commit()
            except psycopg.Error as error:
                self.error = error.sqlstate
        if self.error is not None:
            self.connection.rollback()
        return self.result if self.error is None else self.error

    def end(self, kept):
        self.connection.commit() if kept else self.connection.rollback()

    def close(self):
        self.connection.close()


def content_of(database):
    return database.value("SELECT cache_lookup(%s, %s, %s)", KEY)


def store(database, content="0", **arguments):
    with database.connect() as connection:
        return upsert(connection, content, **arguments)


def invalidate(connection):
    return connection.execute("SELECT cache_invalidate(%s, %s, %s)", KEY).fetchone()[0]


def touch(connection):
    return connection.execute("SELECT cache_touch(%s, %s, %s, 'infinity')::text", KEY).fetchone()[0]


def forget(connection):
    return connection.execute("SELECT entries_deleted FROM cache_forget_user(%s)", (ALICE,)).fetchone()[0]


def cleanup(connection):
    return connection.execute("SELECT sum(deleted_count)::int FROM cleanup_expired_cache_entries_production()").fetchone()[0]


def writes(content):
    return lambda connection: upsert(connection, content)


def an_upsert_follows(removal, seen, database, sessions, level, kept):
    """Check that an upsert waits for a removal of the entry, and follows it. At the higher levels it cannot follow a removal that commits.
    `seen`: the content that the upsert's snapshot shows before."""
    one, two = sessions(level)
    assert two.sees() == seen
    assert one.run(removal) == 1
    two.start(writes("2"))
    one.end(kept)
    if kept and level in HIGHER:
        assert (two.outcome(), content_of(database)) == (REFUSED, None)
    else:
        assert two.outcome() != REFUSED and content_of(database) == 2
