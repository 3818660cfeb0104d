"""Servers to measure: each a private copy of a kept data directory, so that no case leaves traces for another."""

import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from harness.cluster import BINDIR, ROOT, SERVER_USER, Cluster

from . import data, measure

KEPT = ROOT / "target" / "bench"

# Settings of a dedicated server. Autovacuum and the worker are off, because they could disturb a run.
SETTINGS = {
    "shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "1h", "autovacuum": "off", "fsync": "on",
    "infinite_pages_cache.naptime": "0",
}


class Copy(Cluster):
    """A cluster that begins as a copy of a data directory, on a disk."""

    parent = None

    def __init__(self, original, settings):
        self.original = original
        super().__init__({**SETTINGS, **settings})

    def create(self):
        subprocess.run(["cp", "-a", "--reflink=auto", self.original, self.data], check=True)
        if SERVER_USER:
            subprocess.run(["chown", "-R", SERVER_USER, self.data], check=True)


class Entries:
    """A kind of data directory: entries of one month, in the cache only."""

    def __init__(self, entries):
        self.entries = entries
        self.name = str(entries)

    def version(self):
        """Returns what a kept directory depends on, beside the extension."""
        return [data.load(self.entries, 0, 0)]

    def fill(self, server):
        server.execute("CREATE EXTENSION infinite_pages_cache")
        batches = range(0, self.entries, data.BATCH)
        workers = os.cpu_count()

        def work(number):
            with server.connect() as connection:
                for first in batches[number::workers]:
                    connection.execute(data.load(self.entries, first, min(first + data.BATCH, self.entries) - 1))

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))
        server.execute("SELECT cache_flush_statistics()")


@contextmanager
def start(kind, settings=None):
    """Starts a server with a number of entries, or with a kind of data directory; stops and removes it at the end."""
    server = Copy(kept(kind if hasattr(kind, "fill") else Entries(kind)), settings or {})
    try:
        # In memory, if there is enough.
        server.execute("SELECT count(*), count(content) FROM infinite_pages_cache_partitioned")
        yield server
    finally:
        server.remove()


def kept(kind):
    """Returns a data directory of a kind, made once for each version of its contents."""
    major = subprocess.check_output([str(BINDIR / "postgres"), "--version"], text=True).split()[2].split(".")[0]
    texts = [*kind.version(), *(source.read_text() for source in sources())]
    version = hashlib.sha256("".join(texts).encode()).hexdigest()[:12]
    directory = KEPT / f"pg{major}-{kind.name}-{version}"
    if not directory.exists():
        for outdated in KEPT.glob(f"pg{major}-{kind.name}-*"):
            shutil.rmtree(outdated)
        KEPT.mkdir(parents=True, exist_ok=True)
        unfinished = directory.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        load(kind, unfinished)
        unfinished.rename(directory)
    return directory


def sources():
    """Returns the files that decide what a data directory contains: those that create tables and partitions."""
    for path in (ROOT / "sql", ROOT / "src/partition", ROOT / "src/calendar.rs"):
        files = [file for file in (path, *sorted(path.rglob("*"))) if file.is_file() and "reports" not in file.parts]
        if not files:
            # Otherwise data of an older version would be measured.
            raise FileNotFoundError(f"there is no file in {path}: name the place that they have moved to in {__file__}")
        yield from files


def load(kind, directory):
    measure.progress(f"loading {kind.name}: {kind.entries:,} entries, to be kept in {directory.parent} …")
    empty = Cluster()
    empty.stop()
    server = Copy(empty.data, {"synchronous_commit": "off", "max_wal_size": "1GB", "wal_recycle": "off"})
    empty.remove()
    try:
        kind.fill(server)
        server.execute("VACUUM ANALYZE")
        server.execute("ANALYZE infinite_pages_cache_partitioned, cache_audit_log")
        server.execute("CHECKPOINT")
        server.stop()
        shutil.move(server.data, directory)
    finally:
        server.remove()
