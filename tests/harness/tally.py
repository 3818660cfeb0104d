"""An independent count of what clients do, to compare statistics with."""

from collections import Counter, defaultdict
from decimal import Decimal

from harness.cluster import Cluster
from harness.entries import CACHE

COUNTERS = ["hits", "misses", "stale", "upserts", "invalidations", "expirations", "tokens_spent", "tokens_saved",
            "untracked_hits", "audit_lost"]
CALLS = ["lookup_us", "upsert_us"]

ONE = "SELECT cache_lookup(%s, %s, %s)"
GET = "SELECT content FROM cache_get(%s, %s, %s)"
MANY = "SELECT content FROM cache_lookup_many(%s, %s, ARRAY[%s])"


def counting_cluster(**settings):
    """A cluster with room for the content types of all its tests, in which nothing is counted or stored by itself."""
    return Cluster({"infinite_pages_cache.max_tracked_content_types": 2000, "infinite_pages_cache.naptime": 0,
                    "autovacuum": "off", **settings})


class Tally:
    """Counters of what was done in one database. An entry is a tuple of user, content type and key."""

    def __init__(self):
        self.types = defaultdict(Counter)
        self.costs = {}
        self.hits = Counter()
        self.expired = set()

    def stored(self, entry, cost):
        self.types[entry[1]].update(upserts=1, tokens_spent=Decimal(str(cost)))
        self.expired.discard(entry)
        self.costs[entry] = Decimal(str(cost))

    def found(self, entry):
        """Whether a lookup of the entry is a hit."""
        return entry in self.costs

    def looked_up(self, entry, times=1, calls=None):
        count = self.types[entry[1]]
        count["lookup_us"] += times if calls is None else calls
        if self.found(entry):
            count.update(hits=times, tokens_saved=times * self.costs[entry])
            self.hits[entry] += times
        else:
            count["misses"] += times
            count["stale"] += times * (entry in self.expired)

    def removed(self, entry):
        self.costs.pop(entry, None)
        self.expired.discard(entry)
        self.hits.pop(entry, None)
        self.types[entry[1]]["invalidations"] += 1

    def __add__(self, other):
        both = Tally()
        for one in (self, other):
            for content_type, count in one.types.items():
                both.types[content_type].update(count)
            both.costs.update(one.costs)
            both.hits.update(one.hits)
        return both

    def counters(self, *names):
        """The counters of each type, without zeros."""
        names = names or COUNTERS
        found = {content_type: {name: count[name] for name in names if count[name]} for content_type, count in self.types.items()}
        return {content_type: count for content_type, count in found.items() if count}

    def total(self, name):
        return sum(count[name] for count in self.types.values())

    def hit_counts(self):
        return {entry: self.hits[entry] for entry in self.costs}


class Client:
    """A connection that counts in a tally what is done through it."""

    def __init__(self, connection, tally=None):
        self.connection, self.tally = connection, tally if tally is not None else Tally()

    def upsert(self, entry, cost=1):
        self.connection.execute("SELECT cache_upsert(%s, %s, %s, '\"x\"', token_cost => %s)", (*entry, cost))
        self.tally.stored(entry, cost)

    def expire(self, entry):
        """INSERT an entry that has expired, as a client does that writes to the table itself."""
        self.connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, expires_at) "
                                "VALUES (%s, %s, %s, '1', '2020-01-01')", entry)
        self.tally.expired.add(entry)

    def lookup(self, entry, times=1, sql=ONE):
        for _ in range(times):
            rows = self.connection.execute(sql, entry).fetchall()
            assert (rows not in ([], [(None,)])) == self.tally.found(entry), entry
        self.tally.looked_up(entry, times)

    def invalidate(self, entry):
        assert self.connection.execute("SELECT cache_invalidate(%s, %s, %s)", entry).fetchone() == (1,)
        self.tally.removed(entry)


def without_zeros(rows, names):
    found = {row[0]: {name: value for name, value in zip(names, row[1:]) if value} for row in rows}
    return {content_type: count for content_type, count in found.items() if count}


def counters(database, *names, pending=False):
    """The counters of cache_statistics(), in the form of Tally.counters()."""
    names = names or COUNTERS
    columns = ", ".join(f"(SELECT sum(n)::bigint FROM unnest({name}) n)" if name in CALLS else name for name in names)
    return without_zeros(database.execute(f"SELECT content_type, {columns} FROM cache_statistics(%s)", (pending,)), names)


def rolled_up(database, *names):
    """The sums over all hours of cache_statistics_hourly, in the same form."""
    names = names or COUNTERS
    columns = ", ".join(f"sum((SELECT sum(n) FROM unnest({name}) n))" if name in CALLS else f"sum({name})" for name in names)
    return without_zeros(database.execute(f"SELECT content_type, {columns} FROM cache_statistics_hourly GROUP BY 1"), names)


def rows_of(database, column="hit_count"):
    """The value of a column of each live entry, by entry."""
    return {(user, content_type, key): value for user, content_type, key, value in database.execute(
        f"SELECT user_id::text, content_type, cache_key, {column} FROM {CACHE} WHERE expires_at > now()")}


def pending(database):
    """The hits that are not stored in rows yet, and the tokens that they saved."""
    return database.execute("SELECT coalesce(sum(hits), 0)::bigint, coalesce(sum(tokens_saved), 0) FROM cache_pending_hits()")[0]


def flush(connection):
    """Store what was counted. Returns the numbers of entries updated, entries that were locked, content types and audit rows."""
    return connection.execute("SELECT * FROM cache_flush_statistics()").fetchone()
