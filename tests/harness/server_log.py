"""What no server's log may hold, whatever a test has done to it: failed assertions, crashes that no test has asked for, and
what a transaction left behind: pins, locks, snapshots, files, memory that was overwritten."""

import re

# What the server says when it finds such a thing.
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
    # A test may kill a process (9). One that crashes does so by a signal of its own.
    r"was terminated by signal (?!9\b)\d",
    "panicked at ",
    rf"\b(WARNING|ERROR|FATAL):  .*({FOUND})",
]))


def defects(log):
    """The lines of a log that tell of defects."""
    return [line for line in log.splitlines() if DEFECT.search(line)]
