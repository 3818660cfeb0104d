"""bulk loads, in comparison with COPY

The bulk loader is cache_upsert_many, in calls of 250 entries, a transaction each, from as many connections as there are
processors, new keys, audit off. COPY into the plain table is the same rows in one statement for each connection. COPY into
the cache's own table is possible for keys that are not in it; it is not audited. Texts are made before the clock runs."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

from .. import data, months, server
from ..baselines import COLUMNS
from ..measure import alternating, progress, rates
from ..months import Months
from ..targets import Reached
from .lookup import ratio


def run(options):
    kind = Months(options.entries)
    each = max(10_000, options.entries // 10)
    progress(f"load: {each:,} entries each time …")
    next_first = iter(range(10 * kind.entries, 10**12, each))
    with server.start(kind, {**months.SETTINGS, "infinite_pages_cache.audit": "off"}) as one:
        months.warm(one, "plain")
        found = alternating(
            options.rounds,
            **{"plain, COPY": lambda: copied(one, kind, "plain", next(next_first), each),
               "cache_upsert_many": lambda: upserted(one, kind, next(next_first), each),
               "COPY into the cache": lambda: copied(one, kind, "infinite_pages_cache_partitioned", next(next_first), each)})
        yield rates("bulk load", found, unit="entries")
        yield Reached("load", ratio(found, "cache_upsert_many", "plain, COPY"))


def upserted(one, kind, first, each):
    def document(n):
        user, content_type, key = kind.address(n)
        return (f'{{"user_id": "{user}", "content_type": "{content_type}", "cache_key": "{key}", "content": {kind.content(n)}, '
                f'"metadata": {{"genre": "genre {n % 17}"}}, "story_id": "{user}", "foundation_dependency": "foundation {user[16:]}", '
                f'"semantic_similarity_hash": "{key[:19]}", "token_cost": 2, "expires_at": "2100-01-01T00:00:00Z"}}')

    batches = [f"[{', '.join(map(document, range(start, min(start + data.BATCH, first + each))))}]"
               for start in range(first, first + each, data.BATCH)]
    json.loads(batches[0])

    def work(connection, worker):
        for batch in batches[worker::os.cpu_count()]:
            connection.execute("SELECT cache_upsert_many(%s)", (batch,), prepare=True)

    return timed(one, "infinite_pages_cache_partitioned", work, each)


def copied(one, kind, table, first, each):
    created = one.execute("SELECT now()::text")[0][0]
    rows = [kind.row(n, created, "2100-01-01") for n in range(first, first + each)]
    workers = os.cpu_count()
    blocks = [["".join(rows[start:start + 200 * workers:workers]) for start in range(worker, each, 200 * workers)]
              for worker in range(workers)]

    def work(connection, worker):
        with connection.cursor().copy(f"COPY {table} ({', '.join(COLUMNS)}) FROM STDIN") as copy:
            for block in blocks[worker]:
                copy.write(block)

    return timed(one, table, work, each)


def timed(one, table, work, each):
    """Returns entries stored per second by all connections; checks that they are there."""
    before = one.execute(f"SELECT count(*) FROM {table}")[0][0]
    connections = [one.connect() for _ in range(os.cpu_count())]
    with ThreadPoolExecutor(len(connections)) as pool:
        began = time.monotonic()
        list(pool.map(work, connections, range(len(connections))))
        seconds = time.monotonic() - began
    for connection in connections:
        connection.close()
    stored = one.execute(f"SELECT count(*) FROM {table}")[0][0] - before
    if stored != each:
        raise RuntimeError(f"{stored} entries were stored in {table}, not {each}")
    return {"per_second": each / seconds, "us": 1e6 * seconds * len(connections) / each}
