"""What a statement is told: errors and warnings, with all their fields."""

import psycopg
import pytest


def sqlstate_of(action):
    """The SQLSTATE, message, DETAIL and HINT of the error that an action raises."""
    with pytest.raises(psycopg.Error) as caught:
        action()
    return caught.value.diag


def warnings_of(database, sql):
    """What a statement warns of: message, DETAIL and HINT of each."""
    found = []
    with database.connect() as connection:
        # A notice is gone when its handler returns.
        connection.add_notice_handler(lambda notice: found.append((notice.message_primary, notice.message_detail, notice.message_hint))
                                      if notice.severity == "WARNING" else None)
        connection.execute(sql)
    return found


def refused(cache, sql, sqlstate, *settings):
    """Runs a statement that must fail, say why and what to do, and change nothing; returns the error."""
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
