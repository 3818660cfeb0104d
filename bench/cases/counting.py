"""what it costs to count lookups

8 sessions look up entries of 1 to 2 kB at the same time, on a server that has the library preloaded, and so counts,
and on one that has not. A third server is like the second: the difference of two that do the same is the noise of the
comparison. Time is that of processors, for each lookup; lookups in a second are those of all sessions."""

from contextlib import ExitStack

from .. import data, server
from ..measure import Sessions, alternating, progress, table
from ..pgbench import pgbench

ENTRIES = 100_000
EACH = 25_000
WORKLOADS = {"1 key": 1, "100 keys": 100, "50,000 keys": 50_000}


def run(options):
    with ExitStack() as stack:
        off = {"shared_preload_libraries": ""}
        servers = {
            "counting": stack.enter_context(server.start(ENTRIES)),
            "not": stack.enter_context(server.start(ENTRIES, off)),
            "neither": stack.enter_context(server.start(ENTRIES, off)),
        }
        for one in servers.values():
            for keys in WORKLOADS.values():
                one.execute(data.requests(f"requests_{keys}", ENTRIES, keys, EACH))
        sessions = {name: Sessions(one) for name, one in servers.items()}
        rows = []
        for workload, keys in WORKLOADS.items():
            progress(f"counting: {workload} …")
            actions = {name: lambda one=one: one.lookups(f"requests_{keys}") for name, one in sessions.items()}
            found = alternating(options.rounds, **actions)
            counting, baseline, control = found["counting"], found["not"], found["neither"]
            rows.append((
                workload, f"{baseline['us']:.2f}", f"{counting['us']:.2f}", f"{counting['us'] - baseline['us']:.2f}",
                f"{control['us'] - baseline['us']:.2f}", f"{baseline['per_second']:,.0f}",
                f"{counting['per_second'] / baseline['per_second']:.3f}",
                f"{control['per_second'] / baseline['per_second']:.3f}",
            ))
        for one in sessions.values():
            one.close()
        yield table(("lookups of", "not counted, µs", "counted, µs", "difference, µs", "of two alike, µs",
                     "not counted, /s", "counted, ratio", "two alike, ratio"), rows)

        progress("counting: pgbench …")
        script = (f"\\set n random(0, {ENTRIES // 2 - 1})\n"
                  f"SELECT cache_lookup({data.user(ENTRIES, ':n::integer')}, "
                  f"{data.content_type(ENTRIES, ':n::integer')}, {data.cache_key(':n::integer')});\n")
        found = alternating(options.rounds, **{name: lambda one=one: pgbench(one, script) for name, one in servers.items()})
        tps = {name: figures["per_second"] for name, figures in found.items()}
        yield table(("pgbench -M prepared -c 8", "not counted, tps", "counted, tps", "ratio", "two alike, ratio"), [
            ("50,000 keys", f"{tps['not']:,.0f}", f"{tps['counting']:,.0f}", f"{tps['counting'] / tps['not']:.3f}",
             f"{tps['neither'] / tps['not']:.3f}")])
