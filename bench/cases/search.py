"""the search by metadata

A user's entries of one content type whose metadata contains an object, live, the best first, 10 of them: cache_search(), and the
plain SQL that clients send, by the index on (user_id, content_type). Beside it the same plain SQL without that index, where
the unique index leads to all entries of the user; with a GIN index on metadata in its place; and by a scan of everything. As the owner, and
as a tenant under row security, where no GIN index can serve. Entries of 1 to 2 kB lie in seven months, 30 content types, metadata of five fields;
an entry in five has the genre that is asked for, and one in twenty has expired. Time is until the client has all rows, whose contents it gets.

The price: entries stored one by one with cache_upsert(), right after a checkpoint, by a session that does not wait for the disk. A GIN
index leaves most of its work for later, unless fastupdate = off. Time is that of the processor."""

import json
import time
import uuid
from hashlib import md5
from pathlib import Path

from .. import data, server
from ..measure import Figure, alternating, progress, table

# Entries of the users who search; all others have data.PER_USER.
SIZES = (100, 1_000, 10_000, 100_000)
MONTHS = 7
UPSERTS = 2_000

CACHE = "infinite_pages_cache_partitioned"
PLAIN = (f"SELECT id, cache_key, content, metadata, reuse_score, created_at, expires_at FROM {CACHE} "
         "WHERE user_id = $1 AND content_type = $2 AND metadata @> $3 AND expires_at > now() ORDER BY reuse_score DESC, created_at DESC LIMIT 10")
CALL = "SELECT id, cache_key, content, metadata, reuse_score, created_at, expires_at FROM cache_search($1, $2, $3)"
TYPES = ("story_foundation", "themes", "tone", "chapter_content", "key_events", "export_pdf", "analysis_style")
GENRES = ("fantasy", "noir", "romance", "horror", "science fiction")

OURS = f"CREATE INDEX ours ON {CACHE} (user_id, content_type)"
GIN = f"CREATE INDEX theirs ON {CACHE} USING gin (metadata jsonb_path_ops)"
GIN_AT_ONCE = f"{GIN} WITH (fastupdate = off)"


def run(options):
    sizes = [size for size in SIZES if size <= options.entries // 5]
    with server.start(0, {"infinite_pages_cache.audit": "off"}) as one:
        progress(f"search: loading {options.entries:,} entries …")
        load(one, options.entries, sizes)
        progress("search: searching …")
        yield searches(one, options, sizes)
        progress("search: storing …")
        yield upserts(one, options)


def searcher(size):
    return str(uuid.UUID(md5(f"searcher {size}".encode()).hexdigest()))


def random(seed, below, n="n"):
    return f"((hashint8extended({n}, {seed}) & 2147483647) % {below})"


def metadata(n="n"):
    return f"""jsonb_build_object('genre', ('{{{",".join(GENRES)}}}'::text[])[1 + {random(4, len(GENRES), n)}], 'words', 500 + {n} % 3000,
        'tone', ('{{dark,light,dry,warm}}'::text[])[1 + {random(5, 4, n)}], 'audience', 'adult', 'model', 'large')"""


def content(n="n"):
    return f"jsonb_build_object('text', (SELECT string_agg(md5(({n} * 31 + line)::text) || ' and then ', '') FROM generate_series(1, 22 + {n} % 23) line))"


def content_type(entries, n="n"):
    """Returns a random content type, whoever the user is."""
    return data.content_type(entries, f"({random(2, 2_000_000_000, n)} * {data.users(entries)}::bigint)::bigint")


def load(one, entries, sizes):
    user, first = f"md5('user ' || {random(1, data.users(entries))})::uuid", 0
    users = []
    for size in sizes:
        users.append(f"WHEN n < {first + size} THEN '{searcher(size)}'::uuid")
        first += size
    with one.connect() as connection:
        connection.execute(f"""
            SELECT create_monthly_cache_partition(date_trunc('month', now() AT TIME ZONE 'UTC') - month * interval '1 month') FROM generate_series(1, {MONTHS - 1}) month;
            CREATE ROLE searcher; SELECT cache_grant_tenant('searcher');
            SET synchronous_commit = off;
            INSERT INTO {CACHE} (user_id, content_type, cache_key, content, metadata, reuse_score, created_at, expires_at)
            SELECT CASE {' '.join(users)} ELSE {user} END, {content_type(entries)}, {data.cache_key()}, {content()}, {metadata()}, {random(6, 101)} / 10.0,
                   created_at, CASE WHEN {random(7, 20)} = 0 THEN now() - interval '1 day' ELSE now() + interval '10000 days' END
            FROM (SELECT n, start + (now() - start) * sqrt({random(3, 1_000_000)} / 1e6) AS created_at
                  FROM generate_series(0, {entries - 1}) n, LATERAL (SELECT date_trunc('month', now(), 'UTC') - interval '{MONTHS - 1} months') s (start)) k
            ORDER BY created_at""")
        # The index that is compared is created and dropped by name.
        connection.execute(f"DROP INDEX {index_of(connection)}")
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def index_of(connection):
    return connection.execute(f"SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = '{CACHE}'::regclass "
                              "AND pg_get_indexdef(indexrelid) LIKE '%(user_id, content_type)'").fetchone()[0]


class Searcher:
    """Connects for the user with this many entries, as the owner of the table or as a tenant."""

    def __init__(self, one, size, role=None, **settings):
        self.connection = one.connect()
        self.size, self.turn = size, 0
        settings = {"jit": "off", "max_parallel_workers_per_gather": "0", "request.jwt.claims": json.dumps({"sub": searcher(size)}), **settings}
        for name, value in settings.items():
            self.connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        self.connection.execute(f"PREPARE plain (uuid, text, jsonb) AS {PLAIN}")
        self.connection.execute(f"PREPARE call (uuid, text, jsonb) AS {CALL}")
        if role:
            self.connection.execute(f"SET ROLE {role}")

    def searches(self, statement, repeated):
        """Returns the time of one search, measured over many, each for another type and genre."""
        self.turn += 1
        began = time.monotonic()
        for number in range(repeated):
            self.search(statement, TYPES[number % len(TYPES)], GENRES[(number + self.turn) % len(GENRES)])
        return {"ms": (time.monotonic() - began) * 1000 / repeated}

    def search(self, statement, content_type, genre):
        return self.connection.execute(
            f"EXECUTE {statement} ('{searcher(self.size)}', '{content_type}', '{{\"genre\": \"{genre}\"}}')").fetchall()

    def ranks(self, statement):
        """Returns what the search in each type finds, as far as the order determines it."""
        return [[row[4:6] for row in self.search(statement, content_type, GENRES[0])] for content_type in TYPES]


def searches(one, options, sizes):
    rounds = options.rounds
    rows, ranks = [], {}
    for what, made, statement, roles, settings, repeated, limit in (
        ("cache_search()", OURS, "call", (None, "searcher"), {}, 70, None),
        ("plain SQL", OURS, "plain", (None, "searcher"), {}, 70, None),
        ("plain SQL without the index", None, "plain", (None, "searcher"), {}, 14, None),
        ("plain SQL, GIN on metadata", GIN, "plain", (None, "searcher"), {}, 7, None),
        ("plain SQL, a scan of everything", None, "plain", (None,), {"enable_indexscan": "off", "enable_bitmapscan": "off"}, 1, 100),
    ):
        if made:
            one.execute(made)
        for role in roles:
            progress(f"search: {what}, {role or 'owner'} …")
            searchers = {size: Searcher(one, size, role, **settings) for size in sizes if limit is None or size <= limit}
            # All ways must find the same.
            for size, by in searchers.items():
                if (found := by.ranks(statement)) != ranks.setdefault(size, found) or (size >= 1_000 and not any(found)):
                    raise RuntimeError(f"{what} finds {found} where others find {ranks[size]}")
            found = alternating(rounds if repeated > 1 else 3, **{str(size): lambda by=by: by.searches(statement, repeated) for size, by in searchers.items()})
            rows.append((what, "tenant" if role else "owner", *(f"{found[str(size)]['ms']:.2f}" if str(size) in found else "" for size in sizes)))
            for by in searchers.values():
                by.connection.close()
        one.execute("DROP INDEX IF EXISTS ours, theirs")
    return table((f"ms, of {options.entries:,} entries", "as", *(f"{size:,} of the user's" for size in sizes)), rows)


def upserts(one, options):
    """Measures the sizes of the indexes, and the cost of storing new and existing keys, with and without the index in turns."""
    variants = {"without": None, "(user_id, content_type)": OURS, "GIN on metadata": GIN, "GIN, fastupdate = off": GIN_AT_ONCE}
    results = {name: {"new": [], "existing": []} for name in variants}
    size = {}
    first = options.entries
    for turn in range(options.rounds):
        for number in range(len(variants)):
            name = list(variants)[(turn + number) % len(variants)]
            progress(f"search: storing, {name}, {turn + 1} of {options.rounds} …")
            if variants[name]:
                one.execute(variants[name])
                size[name] = one.execute("SELECT sum(pg_relation_size(i.inhrelid)) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent "
                                         "WHERE c.relname IN ('ours', 'theirs')")[0][0]
            one.execute("CHECKPOINT")
            with one.connect() as connection:
                store(connection, options.entries, first, 100)
                for kind in ("new", "existing"):
                    results[name][kind].append(store(connection, options.entries, first + 100, UPSERTS))
            first += 100 + UPSERTS
            one.execute("DROP INDEX IF EXISTS ours, theirs")
    baseline = results["without"]
    rows = []
    for name, found in results.items():
        cells = []
        for kind in ("new", "existing"):
            us, wal = (Figure(run[place] for run in found[kind]) for place in (0, 1))
            than = Figure(run[0] for run in baseline[kind])
            cells += [f"{us:.1f}", "1" if name == "without" else f"{us / than:.3f}", f"{wal:,.0f}"]
        rows.append((name, f"{size[name] / 2**20:.0f}" if name in size else "", *cells))
    return table((f"cache_upsert() with {options.entries:,} entries", "index, MB", "new keys, µs", "ratio", "WAL, bytes",
                  "existing keys, µs", "ratio", "WAL, bytes"), rows)


def store(connection, entries, first, number):
    """Stores entries one by one; returns processor time and bytes of WAL for each."""
    def processor_ns():
        return int(Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text().split()[0])

    connection.execute("SET synchronous_commit = off")
    position = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0]
    before = processor_ns()
    connection.execute(f"""DO $$ BEGIN FOR n IN {first}..{first + number - 1} LOOP
        PERFORM cache_upsert(md5('user ' || {random(1, data.users(entries))})::uuid, {content_type(entries)}, {data.cache_key()}, {content()}, metadata => {metadata()});
        COMMIT; END LOOP; END $$""")
    took = processor_ns() - before
    wal = connection.execute("SELECT pg_current_wal_insert_lsn() - %s", (position,)).fetchone()[0]
    return took / 1000 / number, float(wal) / number
