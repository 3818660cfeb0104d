"""what it costs to audit lookups

8 sessions look up entries of 1 to 2 kB, with infinite_pages_cache.audit = write, which is the default and does not audit
lookups, and with audit = all. Nothing is stored meanwhile, so the buffer is full and the oldest records give way. Time
is that of processors, for each lookup; lookups in a second are those of all sessions."""

from .. import data, server
from ..measure import Sessions, alternating, compared, progress

ENTRIES = 100_000
EACH = 25_000


def run(options):
    progress("audit …")
    with server.start(ENTRIES) as one:
        one.execute(data.requests("requests", ENTRIES, 50_000, EACH))
        sessions = {audit: Sessions(one, settings={"infinite_pages_cache.audit": audit}) for audit in ("write", "all")}
        actions = {name: lambda some=some: some.lookups("requests") for name, some in sessions.items()}
        yield compared("audit", alternating(options.rounds, **actions))
