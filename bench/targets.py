"""The targets of the extension, and a table and a chart of the figures that it reaches."""

import math
from dataclasses import dataclass

from .measure import Figure, table

# The rows of the table, in order: what is measured, compared with what, and the target.
TARGETS = {
    "lookup/empty": ("lookup hit, uniform keys, 1 kB, 2 clients", "empty function call", ">=", 0.60),
    "lookup/plain 2": ("lookup hit, uniform keys, 2 clients", "plain table, SELECT by primary key", ">=", 1.0),
    "lookup/plain 8": ("lookup hit, uniform keys, 8 clients", "plain table, SELECT by primary key", ">=", 1.0),
    "lookup/legacy": ("lookup hit, Zipf 1.2, 8 clients, counted", "legacy: SELECT, UPDATE hit_count", ">=", 12),
    "lookup/tenant": ("lookup hit under row security, tenant role", "plain table, same policy", ">=", 0.9),
    "lookup/miss": ("lookup miss, 6 months live", "lookup hit", ">=", 0.7),
    "many/single": ("cache_lookup_many, 100 keys", "100 × cache_lookup", ">=", 8),
    "many/redis": ("cache_lookup_many, 100 keys", "Redis MGET of 100", ">=", 0.5),
    "lookup/redis": ("lookup hit, 8 clients", "Redis GET, 8 clients", ">=", 0.5),
    "upsert/new": ("upsert of new keys, 8 clients, audit off", "plain table, INSERT … ON CONFLICT", ">=", 0.8),
    "upsert/new, audit": ("upsert of new keys, 8 clients, audit = write", "plain table, INSERT … ON CONFLICT", "report", None),
    "upsert/existing": ("upsert of existing keys, 8 clients, audit off", "plain table, INSERT … ON CONFLICT", ">=", 0.8),
    "upsert/existing, audit": ("upsert of existing keys, 8 clients, audit = write", "plain table, INSERT … ON CONFLICT", "report", None),
    "upsert/legacy": ("upsert of new keys, 8 clients, audit off", "legacy table, nine indexes", ">=", 2),
    "upsert/legacy existing": ("upsert of existing keys, 8 clients, audit off", "legacy table, nine indexes", ">=", 2),
    "fetch/hit": ("cache_fetch that hits, 8 clients", "cache_lookup that hits", ">=", 0.9),
    "fetch/grant": ("cache_fetch that grants a lease, 8 clients", "cache_lookup that misses", ">=", 0.8),
    "fetch/hit/from": ("SELECT … FROM cache_fetch() that hits", "FROM cache_lookup() that hits", ">=", 0.9),
    "fetch/grant/from": ("SELECT … FROM cache_fetch() that grants a lease", "FROM cache_lookup() that misses", ">=", 0.8),
    "crowd/generations": ("200 clients miss one key at once: generations", "—", "<=", 1),
    "crowd/answer": ("the answer after its commit, 99th percentile, ms", "—", "<=", 50),
    "crowd/pool": ("the same through PgBouncer, pool of 20: generations", "—", "<=", 1),
    "crowd/starved": ("the generator's two calls there, ms", "—", "<=", 50),
    "stale/cleanup": ("cleanup of 10,000 entries beside 1,000,000 stale ones", "beside as many live ones", "<=", 1.1),
    "load": ("bulk load, entries/s, cache_upsert_many", "plain table, COPY", ">=", 0.5),
    "growth": ("lookup p50, 24 months", "a hundredth of the entries, 2 months", "<=", 1.5),
    "expire/time": ("expire a month: time", "plain table, DELETE of the same rows", "<=", 1 / 50),
    "expire/WAL": ("expire a month: WAL bytes", "plain table, DELETE of the same rows", "<=", 1 / 100),
    "views": ("slowest of the metrics views, ms", "—", "<=", 50),
    "memory": ("memory of a backend after many lookups, MB", "after 1,000 lookups", "<=", 1),
}

# The chart ends at this distance from a target.
FARTHEST = 100


@dataclass
class Reached:
    """A figure for a row of the table, or the reason why it could not be measured."""
    target: str
    figure: Figure = None
    reason: str = ""
    # Replace the texts of the table where they contain figures of the run.
    work: str = None
    against: str = None

    def __post_init__(self):
        work, against, self.sense, self.limit = TARGETS[self.target]
        self.work, self.against = self.work or work, self.against or against

    @property
    def is_met(self):
        return self.figure.median >= self.limit if self.sense == ">=" else self.figure.median <= self.limit

    def margin(self, noises=0):
        """Returns how many times better than its target the figure is, moved by `noises` times its noise, within the chart."""
        value = max(self.figure.median + noises * self.figure.noise, self.limit / FARTHEST)
        return min(FARTHEST, max(1 / FARTHEST, value / self.limit if self.sense == ">=" else self.limit / value))

    @property
    def verdict(self):
        if self.figure is None:
            return f"not measured: {self.reason}"
        if self.limit is None:
            return "reported"
        close = abs(self.figure.median - self.limit) <= self.figure.noise
        return ("yes" if self.is_met else "no") + (", within the noise" if close else "")

    @property
    def measured(self):
        return "" if self.figure is None else f"{self.figure:,.{decimals(self.figure.median)}f}"

    @property
    def wanted(self):
        return "" if self.limit is None else f"{'≥' if self.sense == '>=' else '≤'} {self.limit:g}"


def decimals(number):
    """Returns the decimals for three significant digits."""
    return 2 if number == 0 else min(7, max(0, 2 - math.floor(math.log10(abs(number)))))


def ordered(reached):
    places = list(TARGETS)
    return sorted(reached, key=lambda one: places.index(one.target))


def summary(reached):
    """Returns the table of all targets that were measured."""
    return table(("work", "against", "measured", "target", "met"),
                 [(one.work, one.against, one.measured, one.wanted, one.verdict) for one in ordered(reached)])


def chart(reached, file, title):
    """Draws how far each figure is from its target."""
    import matplotlib

    matplotlib.use("svg")
    # The same figures make the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    from matplotlib import pyplot

    bars = [one for one in ordered(reached) if one.figure is not None and one.limit is not None][::-1]
    figure, axes = pyplot.subplots(figsize=(11, 0.42 * len(bars) + 1.6))
    for place, one in enumerate(bars):
        # From the target to what was reached, on a logarithmic scale.
        axes.barh(place, one.margin() - 1, left=1, height=0.55, color="#2a7f62" if one.is_met else "#b3412f")
        noise = sorted((one.margin(-1), one.margin(1)))
        axes.plot(noise, [place, place], color="black", linewidth=1)
        axes.annotate(f"{one.measured}  ({one.wanted})", (max(1, *noise), place), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(bars)), [one.work if one.against == "—" else f"{one.work}\nvs. {one.against}" for one in bars])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color="black", linewidth=0.8)
    margins = [one.margin(noises) for one in bars for noises in (-1, 1)]
    axes.set_xlim(min(0.3, min(margins) / 1.2), max(3, max(margins)) * 4)
    axes.set_xlabel("times better than the target: 1 = target, the thin line is the noise")
    axes.set_title(title, loc="left", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
