"""upserts, in comparison with INSERT … ON CONFLICT

pgbench, prepared, 8 clients, a transaction each, contents from 1 to 8 kB, sent as text; users and keys are chosen at
random. Existing keys are those of the current month; those of an earlier month move to the current one, which the plain
table does not do. Disks differ in how long they take to sync, so there are figures with synchronous_commit = on, the
default, and off. plain has a primary key, legacy nine more indexes, partman is partitioned by pg_partman. Redis sets the
same contents and keeps nothing on disk."""

from .. import baselines, months, redis_server, server
from ..measure import alternating, progress, rates
from ..months import ADDRESS, QUANTILES, SIZES, Months
from ..pgbench import pgbench
from ..targets import Reached
from .lookup import ratio

CONTENTS = 7
AUDIT = "infinite_pages_cache.audit"


def run(options):
    kind = Months(options.entries)
    contents = contents_of(kind)
    with server.start(kind, months.SETTINGS) as one:
        tables = baselines.existing(one, ["plain", "legacy"] if options.quick else ["plain", "legacy", "partman"])
        months.warm(one, *tables)
        first, last = kind.numbers_in(0)
        chosen = {"new": f"random({10 * kind.entries}, {10**12})", "existing": f"random({first}, {last})"}
        stored = {}

        def upserting(keys, table, audit="off", commit="on"):
            def action():
                sql = [statement(table, number) for number in range(CONTENTS)]
                found = pgbench(one, [kind.script(chosen[keys], text) for text in sql], options.seconds,
                                variables={f"content{number}": content for number, content in enumerate(contents)},
                                settings={AUDIT: audit, "synchronous_commit": commit})
                if keys == "new":
                    stored[table] = stored.get(table, 0) + found["done"]
                return found
            return action

        found = {}
        for keys in ("new", "existing"):
            progress(f"upsert: {keys} keys …")
            actions = {"cache_upsert": upserting(keys, "cache"), "cache_upsert, audited": upserting(keys, "cache", audit="write"),
                       **{table: upserting(keys, table) for table in tables}}
            if not options.quick:
                actions |= {"cache_upsert, no sync": upserting(keys, "cache", commit="off"),
                            "plain, no sync": upserting(keys, "plain", commit="off")}
            found[keys] = alternating(options.rounds, **actions)
            yield rates(f"{keys} keys, 8 clients", found[keys], "plain", unit="upserts")
            if not options.quick:
                yield (f"Without waiting for the disk (no sync): "
                       f"{ratio(found[keys], 'cache_upsert, no sync', 'plain, no sync'):.3f} of plain.")
        check(one, kind, stored, contents)

        if not options.quick:
            progress("upsert: keys of earlier months …")
            yield moved(options, one, kind, contents)
            if redis_server.is_installed():
                progress("upsert: Redis …")
                yield rates("SET of existing keys, 8 clients", redis_set(options, kind, contents), unit="upserts")

    for keys in found:
        yield Reached(f"upsert/{keys}", ratio(found[keys], "cache_upsert", "plain"))
        yield Reached(f"upsert/{keys}, audit", ratio(found[keys], "cache_upsert, audited", "plain"))
    yield Reached("upsert/legacy", ratio(found["new"], "cache_upsert", "legacy"))
    yield Reached("upsert/legacy existing", ratio(found["existing"], "cache_upsert", "legacy"))


def statement(table, number):
    return baselines.cache_upsert(number, *ADDRESS) if table == "cache" else baselines.upsert(table, number, *ADDRESS)


def contents_of(kind):
    """Returns contents of the sizes that divide the entries into equal parts."""
    sizes = [SIZES[round((part + 0.5) / CONTENTS * QUANTILES)] for part in range(CONTENTS)]
    # Multiples of 8 have another size.
    return [next(kind.content(n) for n in range(1, 8 * QUANTILES, 2) if SIZES[n * 611 % QUANTILES] == size) for size in sizes]


def moved(options, one, kind, contents):
    """Returns an action, each turn of which takes keys that have not been written yet."""
    first, last = kind.numbers_in(0)[1] + 1, kind.entries
    turns = iter(range(options.rounds + 1))
    each = (last - first) // (options.rounds + 1)

    def action():
        start = first + next(turns) * each
        return pgbench(one, [kind.script(f"random({start}, {start + each - 1})", statement("cache", number)) for number in range(CONTENTS)],
                       options.seconds, variables={f"content{number}": content for number, content in enumerate(contents)},
                       settings={AUDIT: "off"})

    return rates("keys of earlier months, 8 clients", alternating(options.rounds, **{"cache_upsert": action}), unit="upserts")


def redis_set(options, kind, contents):
    with redis_server.start(kind.content(n) for n in range(1, kind.entries + 1)) as redis:
        def action():
            found = [redis.benchmark("SET", "key:__rand_int__", seconds=options.seconds / CONTENTS, text=content) for content in contents]
            us = sum(one["us"] for one in found) / CONTENTS
            return {"us": us, "per_second": 8e6 / us}

        return alternating(options.rounds, **{"Redis SET": action})


def check(one, kind, stored, contents):
    """Checks that every new key is stored, with a content that was sent."""
    total = kind.entries + kind.many
    for table, new in stored.items():
        table = "infinite_pages_cache_partitioned" if table == "cache" else table
        rows = one.execute(f"SELECT count(*) FROM {table}")[0][0]
        # Two new keys may have been the same.
        if not total + new * 0.9999 - 1 <= rows <= total + new:
            raise RuntimeError(f"{table} has {rows} rows, not {total} and {new} new ones")
        written = one.execute(f"SELECT count(*), count(*) FILTER (WHERE content::text = ANY (%s)) FROM {table} WHERE metadata @> %s",
                              (contents, '{"genre": "noir"}'))[0]
        if written[0] <= new or written[0] != written[1]:
            raise RuntimeError(f"{table} has {written[0]} rows that were written, {new} of them new, and {written[1]} with what was sent")
