"""200 clients that miss one key at once

200 connections of pgbench ask for one key that is not there. Whoever generates takes a second. The others wait, by
cache_fetch(wait => '5 seconds'), or each generates by itself, as after a cache_lookup. Through PgBouncer in transaction mode
the same 200 share 20 connections. As many as max_fetch_waiters allows wait there, 12, and all others ask again when they
are told to. The sessions have fetched and waited before, as those of a pool have. A client has its answer when the result
has come to it. Times are from the commit of the answer, as the server notes it before it writes to disk. The calls of who generates
are what it needs beyond its second, with the wait for a connection."""

import contextlib
import itertools
import math
import time

from harness.bouncer import PROGRAM, Bouncer

from .. import server
from ..measure import Figure, progress, table
from ..targets import Reached

CLIENTS, POOL = 200, 20
USER = "00000000-0000-4000-8000-00000000c0de"
SETTINGS = {"max_connections": "250", "infinite_pages_cache.max_fetch_waiters": str(CLIENTS), "track_commit_timestamp": "on"}
POOLED = {"max_connections": "120", "infinite_pages_cache.max_fetch_waiters": "-1", "track_commit_timestamp": "on"}

# What a session does once is done, and all begin at one moment.
BEGIN = """SELECT state AS warm FROM cache_fetch('{user}', 'chapter', 'stored') \\gset
SELECT state AS warm FROM cache_fetch('{user}', 'chapter', 'held', wait => '1 millisecond') \\gset
SELECT greatest(0, 1000 * (:start - extract(epoch FROM clock_timestamp())))::integer AS left \\gset
\\sleep :left ms
"""
WARM_UP = 6

# pgbench has no loops: a client asks as often as it may have to.
ASKED = 12
STORE = "SELECT cache_upsert('{user}', 'chapter', '{key}', jsonb_build_object('text', repeat('x', 1500), 'granted', :granted){lease});\n"
GENERATE = "\\sleep 1000 ms\n"
ASK = """\\if :done = 0
SELECT (state = 'generate')::integer AS mine, (state = 'wait')::integer AS waits, coalesce(lease::text, '') AS lease,
       coalesce(extract(epoch FROM retry_after) * 1000, 0)::integer AS pause, extract(epoch FROM clock_timestamp()) AS granted
FROM cache_fetch('{user}', 'chapter', '{key}', wait => '5 seconds') \\gset
\\if :mine = 1
{generate}{store}\\endif
\\if :waits = 1
\\sleep :pause ms
\\else
\\set done 1
\\endif
\\endif
"""
LOOK_UP = """SELECT (cache_lookup('{user}', 'chapter', '{key}') IS NULL)::integer AS mine, extract(epoch FROM clock_timestamp()) AS granted \\gset
\\if :mine = 1
{generate}{store}\\endif
"""


def fetching(key):
    ask = ASK.format(user=USER, key=key, generate=GENERATE, store=STORE.format(user=USER, key=key, lease=", lease => ':lease'"))
    return "\\set done 0\n" + ask * ASKED


def looking_up(key):
    return LOOK_UP.format(user=USER, key=key, generate=GENERATE, store=STORE.format(user=USER, key=key, lease=""))


def run(options):
    numbers, rows, found = itertools.count(1), [], {}
    for name, settings, script, pooled in (("cache_lookup", SETTINGS, looking_up, False), ("cache_fetch", SETTINGS, fetching, False),
                                           (f"cache_fetch, pool of {POOL}", POOLED, fetching, True)):
        if pooled and not PROGRAM.exists():
            yield Reached("crowd/pool", reason="PgBouncer is not built")
            continue
        progress(f"crowd: {name} …")
        with server.start(1_000, settings) as one, contextlib.ExitStack() as stack:
            bouncer = Bouncer(one, {"pool_mode": "transaction", "default_pool_size": POOL, "max_client_conn": 500}) if pooled else None
            if bouncer:
                stack.callback(bouncer.stop)
            turns = [at_once(one, bouncer, script, f"key {next(numbers)}") for _ in range(options.rounds)]
        found[name] = {what: Figure(turn[what] for turn in turns) for what in turns[0]}
        figures = found[name]
        times = ("p50", "p99", "beyond")
        rows.append((name, f"{figures['generations']:.0f}", *("—" if script is looking_up else f"{figures[what]:.1f}" for what in times)))
    yield table((f"{CLIENTS} clients", "generations", "answer after its commit, p50, ms", "p99, ms", "calls of who generates, ms"), rows)
    yield Reached("crowd/generations", found["cache_fetch"]["generations"])
    yield Reached("crowd/answer", found["cache_fetch"]["p99"])
    if len(found) == 3:
        pool = found[f"cache_fetch, pool of {POOL}"]
        yield Reached("crowd/pool", pool["generations"])
        yield Reached("crowd/starved", pool["beyond"])


def at_once(one, bouncer, script, key):
    """Returns how many answers were stored, and when the clients had one, in milliseconds after the first was committed."""
    file, logs = one.directory / "crowd.sql", one.directory / "crowd"
    # Whoever has its answer stays until all have, because a process that ends takes the time of several answers.
    file.write_text(f"\\if :over = 0\n{BEGIN.format(user=USER)}{script(key)}\\set over 1\n\\else\n\\sleep 3000 ms\n\\endif\n")
    with one.connect() as connection:
        connection.execute("SELECT cache_upsert(%s, 'chapter', 'stored', '1'), state FROM cache_fetch(%s, 'chapter', 'held')", (USER, USER))
    where = {"PGHOST": str(bouncer.directory), "PGPORT": "6432"} if bouncer else {}
    one.client("pgbench", "-n", "-M", "simple", "-c", CLIENTS, "-j", 2, "-t", 2, "-D", "over=0", "-D", f"start={time.time() + WARM_UP}", "-f", file,
               "-l", f"--log-prefix={logs}", "postgres", environment=where)
    ends = {}
    for log in one.directory.glob("crowd.*[0-9]"):
        for line in log.read_text().splitlines():
            client, _, _, _, seconds, microseconds = line.split()[:6]
            # The first of its two transactions.
            ends[client] = min(ends.get(client, math.inf), float(seconds) + float(microseconds) / 1e6)
        log.unlink()
    if len(ends) != CLIENTS:
        raise RuntimeError(f"{len(ends)} of {CLIENTS} clients have ended")
    with one.connect() as connection:
        stored = connection.execute("SELECT count(*) FROM cache_audit_log WHERE cache_key = %s AND action = 'upsert'", (key,)).fetchone()[0]
        # The row of the last one, whose commit is the first where it is the only one.
        committed, granted = connection.execute(
            "SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float, (content ->> 'granted')::float FROM infinite_pages_cache_partitioned "
            "WHERE cache_key = %s", (key,)).fetchone()
    after = sorted(max(0, 1000 * (end - committed)) for end in ends.values())
    return {"generations": stored, "p50": after[CLIENTS // 2], "p99": after[CLIENTS * 99 // 100], "beyond": 1000 * (committed - granted - 1)}
