"""cleanup beside entries that are kept stale

cleanup_expired_cache_entries_production() deletes 10,000 expired entries of a content type without stale_ttl; and the same with
nothing to delete. Beside them are no others; or many of another type, which has a stale_ttl: they are live, or have expired and
are kept. Rows in larger indexes take longer to delete, whether or not anything is stale. The servers are alike else, and take
turns, each time right after a checkpoint."""

import time
from contextlib import ExitStack

from .. import server
from ..measure import alternating, progress, table
from ..targets import Reached

EACH = 10_000
INSERT = """INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content, expires_at)
    SELECT md5('user ' || n % 1000)::uuid, '{kind}', '{prefix} ' || n, jsonb_build_object('text', repeat('x', 200)), now() {expiry} interval '1 hour'
    FROM generate_series({first}, {last}) n"""


class Beside:
    """A kind of data directory: entries of this month that cleanup keeps, because they are live or stale."""

    def __init__(self, entries, kind):
        self.entries = entries
        self.expiry = {"live": "+ 1000 *", "stale": "-"}[kind]
        self.name = f"{kind}-{entries}"

    def version(self):
        return [INSERT, self.expiry]

    def fill(self, one):
        one.execute("CREATE EXTENSION infinite_pages_cache; "
                    "INSERT INTO cache_content_policies (content_type, stale_ttl) VALUES ('kept', '100 years')")
        for first in range(1, self.entries + 1, 100_000):
            last = min(first + 99_999, self.entries)
            one.execute(INSERT.format(kind="kept", prefix="kept", first=first, last=last, expiry=self.expiry))


def run(options):
    turns = iter(range(10**6))
    with ExitStack() as stack:
        many = options.entries
        servers = {name: stack.enter_context(server.start(kind)) for name, kind in {
            "beside none": Beside(0, "live"), f"beside {many:,} live": Beside(many, "live"),
            f"beside {many:,} stale": Beside(many, "stale")}.items()}

        def cleanup(one):
            turn = next(turns)
            with one.connect() as connection:
                connection.execute(INSERT.format(kind="gone", prefix=f"gone {turn}", first=1, last=EACH, expiry="-"))
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
    none, live, stale = found.values()
    yield table((f"cleanup of {EACH:,} entries", "seconds", "ratio", "with nothing to delete, ms"), [
        (name, f"{figures['delete']:.3f}", "1" if figures is none else f"{figures['delete'] / none['delete']:.3f}",
         f"{1000 * figures['nothing'].median:.1f}") for name, figures in found.items()])
    yield Reached("stale/cleanup", stale["delete"] / live["delete"])
