"""cleanup beside entries that are kept stale

cleanup_expired_cache_entries_production() deletes 10,000 expired entries of a content type without stale_ttl. Beside them are none,
or many entries of another type that have expired and that its stale_ttl keeps; and the same with nothing to delete. The two
servers are alike else, and take turns, each time right after a checkpoint."""

import time
from contextlib import ExitStack

from .. import server
from ..measure import alternating, progress, table
from ..targets import Reached

EACH = 10_000
INSERT = """INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content, expires_at)
    SELECT md5('user ' || n % 1000)::uuid, '{kind}', '{prefix} ' || n, jsonb_build_object('text', repeat('x', 200)), now() - interval '1 hour'
    FROM generate_series({first}, {last}) n"""


class Stale:
    """A kind of data directory: entries of this month that have expired and are kept."""

    def __init__(self, entries):
        self.entries = entries
        self.name = f"stale-{entries}"

    def version(self):
        return [INSERT]

    def fill(self, one):
        one.execute("CREATE EXTENSION infinite_pages_cache; "
                    "INSERT INTO cache_content_policies (content_type, stale_ttl) VALUES ('kept', '100 years')")
        for first in range(1, self.entries + 1, 100_000):
            last = min(first + 99_999, self.entries)
            one.execute(INSERT.format(kind="kept", prefix="kept", first=first, last=last))


def run(options):
    turns = iter(range(10**6))
    with ExitStack() as stack:
        servers = {"beside none": stack.enter_context(server.start(Stale(0))),
                   f"beside {options.entries:,} stale": stack.enter_context(server.start(Stale(options.entries)))}

        def cleanup(one):
            turn = next(turns)
            with one.connect() as connection:
                connection.execute(INSERT.format(kind="gone", prefix=f"gone {turn}", first=1, last=EACH))
                connection.execute("CHECKPOINT")
                found = {}
                for what, expected in (("delete", EACH), ("nothing", 0)):
                    began = time.monotonic()
                    deleted = connection.execute("SELECT sum(deleted_count) FROM cleanup_expired_cache_entries_production()").fetchone()[0]
                    found[what] = time.monotonic() - began
                    if deleted != expected:
                        raise RuntimeError(f"cleanup has deleted {deleted} entries, not {expected}")
                # What is deleted is vacuumed away, as autovacuum would do.
                connection.execute("VACUUM infinite_pages_cache_partitioned")
                return found

        progress("stale …")
        found = alternating(options.rounds, **{name: lambda one=one: cleanup(one) for name, one in servers.items()})
    none, many = found.values()
    yield table((f"cleanup of {EACH:,} entries", "seconds", "ratio", "with nothing to delete, ms"), [
        (name, f"{figures['delete']:.3f}", "1" if figures is none else f"{figures['delete'] / none['delete']:.3f}",
         f"{1000 * figures['nothing'].median:.1f}") for name, figures in found.items()])
    yield Reached("stale/cleanup", many["delete"] / none["delete"])
