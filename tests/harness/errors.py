"""Errors and warnings of statements, with all their fields."""

import psycopg
import pytest


def sqlstate_of(action):
    """The diagnostics of the error that an action must raise: SQLSTATE, message, DETAIL, HINT and the rest."""
    with pytest.raises(psycopg.Error) as caught:
        action()
    return caught.value.diag


def warnings_of(database, sql):
    """The message, DETAIL and HINT of each warning of a statement."""
    found = []
    with database.connect() as connection:
        # Copied, because a notice is freed once its handler returns.
        connection.add_notice_handler(lambda notice: found.append((notice.message_primary, notice.message_detail, notice.message_hint))
                                      if notice.severity == "WARNING" else None)
        connection.execute(sql)
    return found


def notices_to(connection):
    """A list that gets the SQLSTATE, message, DETAIL and HINT of each notice that the connection is sent."""
    found = []
    connection.add_notice_handler(lambda notice: found.append((notice.sqlstate, notice.message_primary, notice.message_detail, notice.message_hint))
                                  if notice.severity == "NOTICE" else None)
    return found


def refused(cache, sql, sqlstate, *settings):
    """Run a statement that must fail with a SQLSTATE, DETAIL and HINT, and change nothing. Returns the error."""
    before = cache.contents()
    with cache.connect() as connection:
        for setting in settings:
            connection.execute(setting)
        error = sqlstate_of(lambda: connection.execute(sql))
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert cache.contents() == before
    found = {"SQLSTATE": error.sqlstate, "message": error.message_primary, "DETAIL": error.message_detail, "HINT": error.message_hint}
    assert found["SQLSTATE"] == sqlstate, found
    assert all(text and text.strip() for text in found.values()), found
    return error
