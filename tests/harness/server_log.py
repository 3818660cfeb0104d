"""Messages that no server's log may hold, whatever a test does: failed assertions, crashes that no test asked for, resources that a
transaction did not release, such as pins, locks, snapshots and files, and memory that was overwritten."""

import re

# How the server reports a resource that was not released, or memory that was overwritten.
FOUND = "|".join([
    "resource was not closed",  # since PostgreSQL 17, for most of the next line
    r"(refcount|reference|reference list|temporary file|shared memory|segment|JIT context) leak", "leaking ", "has nonzero refcount",
    "registered snapshots seem to remain", r"snapshot \S+ still active", "left non-empty .* stack", "not closed at end-of-transaction",
    "tuple lock held at commit", "you don't own a lock", r"lock \S+ is not held", r"lock(?:lock)? table corrupted", "stuck spinlock",
    r"(problem in|could not find block containing) \w", "detected write past chunk end", "pfree called with invalid pointer",
    r"while in \w+ state", "GUC nest level = ", "parallelModeLevel is ", "skipping cleanup for portal", "to delete portal name that",
])
DEFECT = re.compile("|".join([
    "^TRAP: ",
    r"\bPANIC:",
    # Not 9, because tests kill processes by it.
    r"was terminated by signal (?!9\b)\d",
    "panicked at ",
    rf"\b(WARNING|ERROR|FATAL):  .*({FOUND})",
]))


def defects(log):
    """The lines of a log that report defects."""
    return [line for line in log.splitlines() if DEFECT.search(line)]
