"""lookups, in comparison with what else finds a row

pgbench, prepared, 2 or 8 clients on the same machine, over a socket. Where nothing else is said, keys are chosen at
random of all entries, and the client gets the content, as clients do. "Not returned" is a lookup whose content does
not leave the server: the rest is the output of jsonb and its way to the client. The empty function takes the same
arguments and returns nothing. plain is one table with its primary key; legacy has nine more indexes, and counts a hit by
UPDATE, with and without waiting for the disk; it is vacuumed before each turn. partman is partitioned by pg_partman. Redis
has the same contents. The tenant is another user each time, and looks up her own hundred entries."""

import itertools

from .. import baselines, months, pgbench, redis_server, server
from ..measure import alternating, progress, rates
from ..months import ADDRESS, LOOKUP, Months
from ..targets import Reached

# Does nothing, and is called as fast as any function.
EMPTY = "CREATE FUNCTION empty(uuid, text, text) RETURNS void LANGUAGE internal AS 'void_in'"


def run(options):
    kind = Months(options.entries)
    with server.start(kind, months.SETTINGS) as one:
        one.execute(EMPTY)
        tables = ["plain", *baselines.existing(one, [] if options.quick else ["partman"])]
        statements = {table: baselines.lookup(table, *ADDRESS) for table in tables}
        months.reachable(one, kind, [LOOKUP, *statements.values(), baselines.lookup("legacy", *ADDRESS)])
        yield from one_key(options, one, kind, statements)
        yield from zipf(options, one, kind)
        yield from tenant(options, one, kind, statements["plain"])


def one_key(options, one, kind, statements):
    every, exact = f"random(1, {kind.entries})", f"8 * random(1, {kind.entries // 8})"
    empty = f"SELECT empty({', '.join(ADDRESS)})"
    # A number past the last entry gives a missing key of a user who has other entries.
    missing = kind.script(f"random({2 * kind.entries}, {3 * kind.entries})", LOOKUP)

    months.warm(one, "plain")
    progress("lookup: 2 clients …")
    clients = 2
    actions = {"empty function": lambda: ran(options, one, kind.script(every, empty), clients),
               "cache_lookup, 1 kB": lambda: hits(options, one, kind.script(exact, LOOKUP), clients),
               "cache_lookup": lambda: hits(options, one, kind.script(every, LOOKUP), clients),
               "plain": lambda: ran(options, one, kind.script(every, statements["plain"]), clients)}
    if not options.quick:
        actions |= {
            "plain, 1 kB": lambda: ran(options, one, kind.script(exact, statements["plain"]), clients),
            "cache_lookup, 1 kB, not returned": lambda: hits(options, one, kind.script(exact, LOOKUP + " IS NOT NULL"), clients),
            "cache_lookup, not returned": lambda: hits(options, one, kind.script(every, LOOKUP + " IS NOT NULL"), clients)}
    found = alternating(options.rounds, **actions)
    yield rates("2 clients", found)
    yield Reached("lookup/empty", ratio(found, "cache_lookup, 1 kB", "empty function"))
    yield Reached("lookup/plain 2", ratio(found, "cache_lookup", "plain"))

    progress("lookup: 8 clients …")
    clients = 8
    actions = {"cache_lookup": lambda: hits(options, one, kind.script(every, LOOKUP), clients),
               "cache_lookup, miss": lambda: hits(options, one, missing, clients, miss=True),
               **{table: lambda sql=sql: ran(options, one, kind.script(every, sql), clients) for table, sql in statements.items()}}
    months.warm(one, *statements)
    if redis_server.is_installed():
        with redis_server.start(kind.content(n) for n in range(1, kind.entries + 1)) as redis:
            check(redis, kind)
            actions["Redis GET"] = lambda: redis.benchmark("GET", "key:__rand_int__", seconds=options.seconds, clients=clients)
            found = alternating(options.rounds, **actions)
        yield Reached("lookup/redis", ratio(found, "cache_lookup", "Redis GET"))
    else:
        found = alternating(options.rounds, **actions)
        yield Reached("lookup/redis", reason="redis-server is not installed")
    yield rates("8 clients", found, "plain")
    yield Reached("lookup/plain 8", ratio(found, "cache_lookup", "plain"))
    yield Reached("lookup/miss", ratio(found, "cache_lookup, miss", "cache_lookup"))


def zipf(options, one, kind):
    months.warm(one, "legacy")
    progress("lookup: Zipf …")
    chosen = f"random_zipfian(1, {kind.entries}, 1.2)"
    legacy = kind.script(chosen, baselines.counted_lookup(*ADDRESS))

    def counted(settings=None):
        one.execute("VACUUM legacy")
        return ran(options, one, legacy, 8, settings=settings)

    actions = {"legacy": counted, "cache_lookup": lambda: hits(options, one, kind.script(chosen, LOOKUP), 8)}
    if not options.quick:
        actions["legacy, synchronous_commit = off"] = lambda: counted({"synchronous_commit": "off"})
    before = one.execute("SELECT sum(hit_count)::bigint FROM legacy")[0][0]
    found = alternating(options.rounds, **actions)
    after = one.execute("SELECT sum(hit_count)::bigint FROM legacy")[0][0]
    if after - before < sum(sum(figures["done"].values) for name, figures in found.items() if name.startswith("legacy")):
        raise RuntimeError("the legacy way has not counted every hit")
    # Of numbers from 1 to N the first has this share in the distribution of Zipf.
    share = 1 / sum(number ** -1.2 for number in range(1, kind.entries + 1))
    first = kind.address(1)
    counted_first = one.execute("SELECT hit_count FROM legacy WHERE user_id = %s AND content_type = %s AND cache_key = %s", first)[0][0]
    if not 0.8 < counted_first / (after - before) / share < 1.2:
        raise RuntimeError(f"the hottest key has {counted_first} of {after - before} hits, not {share:.0%}")
    yield rates("Zipf 1.2, 8 clients", found)
    yield Reached("lookup/legacy", ratio(found, "cache_lookup", "legacy"))


def tenant(options, one, kind, plain):
    months.warm(one, "plain")
    progress("lookup: row security …")
    # Each of the two has the same users in the same order.
    users = {sql: itertools.count(1) for sql in (LOOKUP, plain)}

    def as_tenant(sql, run):
        user = next(users[sql]) % (kind.users - 1) + 1
        settings = {"role": "bench_tenant", "infinite_pages_cache.user_id": months.user_id(user)}
        with one.connect() as connection:
            for name, value in settings.items():
                connection.execute("SELECT set_config(%s, %s, false)", (name, value))
            seen = connection.execute("SELECT count(*), count(DISTINCT user_id) FROM plain").fetchone()
            if seen != (kind.entries // kind.users, 1):
                raise RuntimeError(f"the tenant sees {seen} entries and users of the plain table")
        chosen = f"{user} + {kind.users} * random(0, {kind.entries // kind.users - 1})"
        return run(options, one, kind.script(chosen, sql), 8, settings=settings)

    found = alternating(options.rounds, **{"plain, same policy": lambda: as_tenant(plain, ran),
                                           "cache_lookup": lambda: as_tenant(LOOKUP, hits)})
    yield rates("row security, tenant role, 8 clients", found)
    yield Reached("lookup/tenant", ratio(found, "cache_lookup", "plain, same policy"))


def ran(options, one, script, clients, settings=None):
    return pgbench.pgbench(one, script, options.seconds, clients, settings=settings)


def hits(options, one, script, clients, settings=None, miss=False):
    """Measures lookups, and checks by the cache's counters that all were hits, or all were misses."""
    sql = "SELECT coalesce(sum(hits), 0)::bigint, coalesce(sum(misses), 0)::bigint FROM cache_statistics()"
    before = one.execute(sql)[0]
    result = ran(options, one, script, clients, settings)
    counted = tuple(now - then for now, then in zip(one.execute(sql)[0], before))
    if counted != ((0, result["done"]) if miss else (result["done"], 0)):
        raise RuntimeError(f"of {result['done']} lookups {counted[0]} were hits and {counted[1]} misses")
    return result


def check(redis, kind):
    for n in range(1, kind.entries + 1, kind.entries // 100):
        if redis.content(n - 1) != kind.content(n):
            raise RuntimeError(f"Redis has another content for entry {n}")


def ratio(found, mine, theirs):
    return found[mine]["per_second"] / found[theirs]["per_second"]
