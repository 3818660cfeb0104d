"""lookups of a cache that has grown

A cache of 24 months, and one of 2 months with a hundredth of its entries. Contents are of 100 bytes, so that 10 million
of them fit in memory. One client; the median time of a lookup that pgbench sees. Keys are chosen at
random of all entries, so most are of recent months, as everywhere in this benchmark; the last row has none of those."""

from .. import months, server
from ..measure import alternating, progress, table
from ..months import LOOKUP, Months
from ..pgbench import pgbench
from ..targets import Reached


def run(options):
    large = Months(options.growth, months=24, small=True, tables=())
    small = Months(options.growth // 100, months=2, small=True, tables=())
    old = f"random({large.numbers_in(12)[0]}, {large.entries})"
    with server.start(large, months.SETTINGS) as grown, server.start(small, months.SETTINGS) as young:
        for one, kind in ((grown, large), (young, small)):
            months.warm(one)
            months.reachable(one, kind, [LOOKUP])
        progress("growth …")

        def looking(one, kind, chosen=None):
            script = kind.script(chosen or f"random(1, {kind.entries})", LOOKUP)
            return lambda: pgbench(one, script, options.seconds, clients=1, p50=True)

        names = {f"{small.entries:,} entries, 2 months": looking(young, small),
                 f"{large.entries:,} entries, 24 months": looking(grown, large),
                 f"{large.entries:,} entries, of the older 12 months only": looking(grown, large, old)}
        found = alternating(options.rounds, **names)
        baseline, grown_large, _ = found.values()
        yield table(("1 client", "p50, µs", "mean, µs", "p50, ratio"), [
            (name, f"{figures['p50']:.1f}", f"{figures['us']:.1f}",
             "1" if figures is baseline else f"{figures['p50'] / baseline['p50']:.3f}")
            for name, figures in found.items()])
        yield Reached("growth", grown_large["p50"] / baseline["p50"],
                      work=f"lookup p50, {large.entries:,} entries of 100 B, 24 months", against=f"{small.entries:,} entries, 2 months")
