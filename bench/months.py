"""The entries of a cache of several months, beside the same rows in the tables that they are compared with.

Each number n from 1 makes an entry. The newest has 1. Each month has four fifths of the entries of the month after it,
so most keys chosen at random are of recent months. Contents are JSON of English-like words. An eighth of them have
1 kB. The sizes of the others are log-normal, from 1 to 30 kB, half of them up to 2 kB. The average is 2.5 kB, so that a
million entries fit in memory. After the last entry come the entries of users with a thousand of one content type, for
requests of many keys."""

import math
import os
import random
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from statistics import NormalDist

from . import baselines, data
from .measure import progress

EXACT = 1024
SMALL = 100
HOT = 0.8

# Entries are spread over these by steps that have no common divisor with their number.
QUANTILES = 997
SIZES = [min(30 * 1024, max(EXACT, round(2048 * math.exp(NormalDist(0, 0.75).inv_cdf((place + 0.5) / QUANTILES)))))
         for place in range(QUANTILES)]

# Keys are as long as those of cache_key(): 19 digits, and the rest of a digest. A pgbench variable is a number, so the
# server puts them together. That takes 0.4 µs in every statement that is compared.
REST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b8"
TYPES = ("story_foundation main_characters setting plot_structure themes tone target_audience chapter_outline "
         "chapter_content chapter_summary key_events character_development foreshadowing improvement_general "
         "improvement_dialogue improvement_description improvement_pacing improvement_character improvement_plot "
         "improvement_style improvement_grammar analysis_comprehensive analysis_style analysis_structure "
         "analysis_quality analysis_readability analysis_genre export_pdf export_epub export_docx").split()
MANY_TYPE = TYPES.index("chapter_content") + 1
MANY_EACH = 1000


def words(length):
    """English-like text: a few thousand words, some much more frequent than others."""
    chance = random.Random(4)
    syllables = [c + v for c in "bdfghjklmnprstvw" for v in "aeiou"] + ["an", "er", "is", "on", "th", "ly"]
    known = ["".join(chance.choices(syllables, k=chance.choice((1, 2, 2, 3, 3, 4)))) for _ in range(4000)]
    weights = [1 / (rank + 10) for rank in range(len(known))]
    return " ".join(chance.choices(known, weights, k=length // 4))[:length]


TEXT = words(1 << 20)


@dataclass(frozen=True)
class Months:
    """A kind of data directory."""
    entries: int
    months: int = 6
    # Contents of about 100 bytes, for caches with very many.
    small: bool = False
    # All entries are in one month, which is over, and have expired.
    expired: bool = False
    tables: tuple = ("plain", "legacy", "partman")

    @property
    def name(self):
        return f"{'expired' if self.expired else 'small' if self.small else 'months'}-{self.entries}"

    def version(self):
        """Returns what a kept directory depends on."""
        month = datetime.now(timezone.utc).strftime("%Y-%m")
        return [repr(self), month, Path(__file__).read_text(), *baselines.COLUMNS, *baselines.TABLES.values()]

    # ── the parts of an entry ──

    @property
    def users(self):
        return max(1, self.entries // data.PER_USER)

    @property
    def many(self):
        """Returns the number of entries of users that have a thousand."""
        return 0 if self.small or self.expired else max(MANY_EACH, self.entries // 10 // MANY_EACH * MANY_EACH)

    def numbers(self, n):
        """Returns user, content type and key of entry n as numbers; n may be a number, SQL, or a pgbench expression."""
        return f"8000000000000000 + {n} % {self.users}", f"1 + {n} / {self.users} % {len(TYPES)}", f"1000000000000000000 + {n} * 1000003"

    def many_numbers(self, n):
        return (f"8000000000000000 + {self.users} + ({n} - {self.entries} - 1) / {MANY_EACH}", str(MANY_TYPE),
                f"1000000000000000000 + {n} * 1000003")

    def script(self, chosen, sql, many=False):
        """Returns a pgbench script that chooses an entry and runs a statement on it."""
        user, content_type, key = (self.many_numbers if many else self.numbers)(":n")
        return f"\\set n {chosen}\n\\set u {user}\n\\set t {content_type}\n\\set k {key}\n{sql.rstrip().rstrip(';')};\n"

    def numbers_in(self, month):
        """Returns the numbers of the first and the last entry of a month; 0 is the newest."""
        bounds = self.bounds()
        return bounds[month] + 1, bounds[month + 1]

    def bounds(self):
        weights = [HOT ** month for month in range(self.months)]
        return [round(self.entries * sum(weights[:month]) / sum(weights)) for month in range(self.months)] + [self.entries]

    def content(self, n):
        """Returns the JSON of entry n, as jsonb prints it."""
        size = SMALL if self.small else EXACT if n % 8 == 0 else SIZES[n * 611 % QUANTILES]
        start = n * 7919 % (len(TEXT) - size)
        if self.small:
            return f'{{"text": "{TEXT[start:start + size - 12]}"}}'
        rest = f'", "model": "large", "title": "Chapter {n}", "themes": ["guilt", "rain"], "tokens": {n % 4000}}}'
        text = TEXT[start:start + size - len(rest) - 10]
        return f'{{"text": "{text}{rest}'

    # ── loading ──

    def fill(self, server):
        with server.connect() as connection:
            connection.execute("CREATE EXTENSION infinite_pages_cache")
            first = months_before(1 if self.expired else self.months - 1)
            while first <= datetime.now(timezone.utc):
                connection.execute("SELECT create_monthly_cache_partition(%s::timestamp)", (first.replace(tzinfo=None),))
                first = (first + timedelta(days=32)).replace(day=1)
            made = [table for table in self.tables if baselines.create(connection, table, self.months)]
        total = self.entries + self.many
        workers = os.cpu_count()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda worker: self.copy(server, range(1 + worker, total + 1, workers)), range(workers)))
            # The other tables get the rows in the same order, as if they had been in use as long.
            list(pool.map(lambda table: server.execute(baselines.fill(table)), made))
        self.check(server, made)

    def check(self, server, tables):
        """Checks that every month has its entries, in every table."""
        bounds, extra = self.bounds(), [len(range(month, self.many, self.months)) for month in range(self.months)]
        ago = 1 if self.expired else 0
        expected = sorted((months_before(month + ago), bounds[month + 1] - bounds[month] + extra[month]) for month in range(self.months))
        for table in ("infinite_pages_cache_partitioned", *tables):
            found = server.execute(f"SELECT date_trunc('month', created_at, 'UTC'), count(*) FROM {table} GROUP BY 1 ORDER BY 1")
            if found != expected:
                raise RuntimeError(f"{table} has {found}, not {expected}")

    def copy(self, server, numbers):
        now = datetime.now(timezone.utc)
        bounds = self.bounds()
        edges = [(months_before(month), now if month == 0 else months_before(month - 1)) for month in range(self.months + 1)]
        expires = "2000-01-01" if self.expired else "2100-01-01"
        with server.connect() as connection, connection.cursor() as cursor:
            columns = ", ".join(baselines.COLUMNS)
            with cursor.copy(f"COPY infinite_pages_cache_partitioned ({columns}) FROM STDIN") as copy:
                block = []
                month = 0
                for n in numbers:
                    if n > self.entries:
                        month, fraction = (n - self.entries - 1) % self.months, 0.5
                    elif self.expired:
                        month, fraction = 1, n / (self.entries + 1)
                    else:
                        while n > bounds[month + 1]:
                            month += 1
                        fraction = (bounds[month + 1] - n) / (bounds[month + 1] - bounds[month])
                    first, end = edges[month]
                    created = (first + (end - first) * fraction).isoformat()
                    block.append(self.row(n, created, expires, many=n > self.entries))
                    if len(block) == 200:
                        copy.write("".join(block))
                        block.clear()
                copy.write("".join(block))

    def address(self, n, many=False):
        """Returns user, content type and key of an entry."""
        if many:
            user, content_type = self.users + (n - self.entries - 1) // MANY_EACH, TYPES[MANY_TYPE - 1]
        else:
            user, content_type = n % self.users, TYPES[n // self.users % len(TYPES)]
        return user_id(user), content_type, f"{1000000000000000000 + n * 1000003}{REST}"

    def row(self, n, created, expires, many=False):
        """Returns a line for COPY. This JSON has no backslash, tab or newline."""
        user, content_type, key = self.address(n, many)
        return (f"{user}\t{content_type}\t{key}\t{self.content(n)}\t{{\"genre\": \"genre {n % 17}\"}}\t{user}\t"
                f"foundation {user[16:]}\t{key[:19]}\t2\t{created}\t{expires}\n")


def user_id(number):
    return f"0000000000004000{8000000000000000 + number}"


# Both sides of a comparison are in memory: two of the tables with a million entries fit in 24 GB.
SETTINGS = {"shared_buffers": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') * 2 // 5 >> 20}MB"}

# The address of an entry in a statement, made of the numbers u, t and k; with ":", as pgbench reads it.
USER = "('0000000000004000' || :u::text)::uuid"
TYPE = f"('{{{','.join(TYPES)}}}'::text[])[:t::integer]"
KEY = f"(:k::text || '{REST}')"
ADDRESS = (USER, TYPE, KEY)
LOOKUP = f"SELECT cache_lookup({', '.join(ADDRESS)})"


def for_numbers(sql, numbers):
    """Turns a statement for pgbench into an SQL expression."""
    for name, number in zip("utk", numbers):
        sql = re.sub(rf"(?<!:):{name}\b", f"({number})", sql)
    return sql


def months_before(count):
    """Returns the start of the month that is `count` months before this one."""
    now = datetime.now(timezone.utc)
    month = now.year * 12 + now.month - 1 - count
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=timezone.utc)


def warm(server, *tables):
    """Reads the cache and other tables into shared buffers, if the server has pg_prewarm."""
    if not server.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_prewarm'")[0][0]:
        return
    server.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
    server.execute("""
        WITH tables AS (
            SELECT c.oid, c.reltoastrelid FROM pg_class c
            WHERE c.relkind = 'r' AND (c.oid = ANY (%(tables)s::regclass[])
                  OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = ANY (%(tables)s::regclass[])))
        ), heaps AS (
            SELECT oid FROM tables UNION SELECT reltoastrelid FROM tables WHERE reltoastrelid <> 0
        )
        SELECT sum(pg_prewarm(oid)) FROM (SELECT oid FROM heaps UNION SELECT indexrelid FROM pg_index JOIN heaps ON oid = indrelid) relations""",
        {"tables": ["infinite_pages_cache_partitioned", *tables]})


def reachable(server, months, lookups):
    """Checks that statements for pgbench find their entries, and that all return the same bytes."""
    progress("checking that all return the same …")
    sample = max(1, (months.entries + 1999) // 2000)
    query = "SELECT n::bigint, " + ", ".join(
        f"({for_numbers(sql, months.numbers('n::bigint'))})::text" for sql in lookups) + f" FROM generate_series(1, {months.entries}, {sample}) n"
    with server.connect() as connection:
        rows = connection.execute(query).fetchall()
    if len(rows) < min(1000, months.entries):
        raise RuntimeError(f"only {len(rows)} entries were checked")
    for n, *contents in rows:
        expected = months.content(n)
        for sql, content in zip(lookups, contents):
            if content != expected:
                raise RuntimeError(f"entry {n} is {str(content)[:80]}…, not {expected[:80]}…, by {sql}")
