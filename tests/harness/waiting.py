"""Run sessions side by side, wait for them, and time them."""

import time
from concurrent.futures import ThreadPoolExecutor


def wait_until(condition, timeout=20, pause=0.01):
    """Wait until a condition holds. Fails after so many seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(pause)


def is_waiting(database, connection):
    """Whether a connection waits for a lock."""
    return database.value("SELECT coalesce(max(wait_event_type) = 'Lock', false) FROM pg_stat_activity WHERE pid = %s",
                          (connection.info.backend_pid,))


def together(*actions):
    """Run actions at the same time, each in a thread. Returns their results, or raises their first error."""
    with ThreadPoolExecutor(len(actions)) as pool:
        return [future.result() for future in [pool.submit(action) for action in actions]]


def timed(action):
    """The seconds that an action takes."""
    started = time.monotonic()
    action()
    return time.monotonic() - started
