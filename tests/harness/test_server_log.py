"""When a cluster is removed, its log is searched for defects, and each kind of defect is found."""

import os
import signal

import psycopg
import pytest

from harness.cluster import Cluster
from harness.server_log import defects
from harness.waiting import wait_until

WARNINGS = ["resource was not closed: relation", 'relcache reference leak: relation "t" not closed', "snapshot 0x5 still active",
            "buffer refcount leak: [001]", "local buffer refcount leak: [001]", "snapshot reference leak: Snapshot 0x5 still referenced",
            "problem in alloc set t: detected write past chunk end in block 0x5", "detected write past chunk end in t 0x5",
            "transaction left non-empty SPI stack", "subtransaction left non-empty SPI stack", "locallock table corrupted",
            "cache reference leak: cache pg_class (1), tuple 1/1 has count 1", "AbortTransaction while in ABORT state",
            "temporary file leak: File 1 still referenced", "dynamic shared memory leak: segment 1 still referenced"]


@pytest.fixture
def doomed():
    """A cluster whose removal is to fail, because of its log. It is removed all the same."""
    cluster = Cluster()
    yield cluster
    with pytest.raises(AssertionError, match="defects"):
        cluster.remove()
    assert not cluster.directory.exists()


@pytest.mark.parametrize("prefix", ["%m [%p] ", "%m [%p] %e "])
def test_leaks_are_found(doomed, prefix):
    doomed.execute(f"ALTER SYSTEM SET log_line_prefix = '{prefix}'")
    doomed.execute("SELECT pg_reload_conf()")
    doomed.execute("DO $$ BEGIN RAISE WARNING 'a table is left alone'; RAISE LOG 'resource was not closed: a log line'; END $$")
    assert defects(doomed.log()) == []
    for warning in WARNINGS:
        doomed.execute(f"DO $$ BEGIN RAISE WARNING '{warning}'; END $$")
        assert warning in defects(doomed.log())[-1]
    assert len(defects(doomed.log())) == len(WARNINGS)


def test_crashes_are_found(doomed):
    for sent, found in ((signal.SIGKILL, 0), (signal.SIGABRT, 1), (signal.SIGSEGV, 2)):
        connection = doomed.connect()
        os.kill(connection.info.backend_pid, sent)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT pg_sleep(60)")
        # The client may know of it before the server does.
        wait_until(lambda: f"was terminated by signal {int(sent)}" in doomed.log())
        doomed.wait_until_up()
        assert len(defects(doomed.log())) == found, doomed.log()


def test_failed_assertions_are_found():
    for line in ('TRAP: failed Assert("x"), File: "xact.c", Line: 1, PID: 2', 'TRAP: FailedAssertion("x", File: "xact.c", Line: 1, PID: 2)',
                 "2026-01-01 00:00:00 UTC [1] PANIC:  stuck spinlock detected", "thread '<unnamed>' panicked at src/lib.rs:1"):
        assert defects(f"before\n{line}\nafter") == [line]
