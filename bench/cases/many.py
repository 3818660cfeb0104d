"""requests of 100 keys

8 clients; each request is for 100 of a user's thousand entries of a content type, chosen at random, in all months. The
100 lookups are those of pgbench, one after the other; plain is a SELECT … WHERE cache_key = ANY of the same keys. Redis
gets MGET of 100 random keys of the same sizes. Figures are of requests of 100."""

import random

from .. import months, pgbench, redis_server, server
from ..measure import alternating, progress, rates
from ..months import LOOKUP, MANY_EACH, MANY_TYPE, TYPES, Months
from ..targets import Reached
from .lookup import check, hits, ratio

KEYS = 100
REQUESTS = 32

MANY = f"SELECT * FROM cache_lookup_many(:user{{0}}::uuid, '{TYPES[MANY_TYPE - 1]}', :keys{{0}}::text[]);\n"
PLAIN = f"""SELECT cache_key, content FROM plain WHERE user_id = :user{{0}}::uuid AND content_type = '{TYPES[MANY_TYPE - 1]}' \
AND cache_key = ANY (:keys{{0}}::text[]) AND expires_at > now();\n"""


def run(options):
    kind = Months(options.entries)
    progress("many …")
    with server.start(kind, months.SETTINGS) as one:
        months.warm(one, "plain")
        requests = choose(kind)
        same(one, kind, requests)
        variables = {}
        for number, keys in enumerate(requests):
            variables[f"user{number}"] = kind.address(keys[0], many=True)[0]
            variables[f"keys{number}"] = "{" + ",".join(kind.address(n, many=True)[2] for n in keys) + "}"

        def many(sql):
            return pgbench.pgbench(one, [sql.format(number) for number in range(REQUESTS)], options.seconds, variables=variables)

        def singly():
            found = hits(options, one, kind.script(f"random({kind.entries + 1}, {kind.entries + kind.many})", LOOKUP, many=True), 8)
            return {**found, "per_second": found["per_second"] / KEYS, "us": found["us"] * KEYS}

        actions = {"100 × cache_lookup": singly, "cache_lookup_many": lambda: many(MANY), "plain, = ANY": lambda: many(PLAIN)}
        if redis_server.is_installed():
            contents = (kind.content(n) for n in range(1, kind.entries + 1))
            with redis_server.start(contents) as redis:
                check(redis, kind)

                def mget():
                    found = redis.benchmark("MGET", *["key:__rand_int__"] * KEYS, seconds=options.seconds, each=KEYS)
                    return {"per_second": found["per_second"] / KEYS, "us": found["us"] * KEYS}

                found = alternating(options.rounds, **actions, **{"Redis MGET": mget})
            yield Reached("many/redis", ratio(found, "cache_lookup_many", "Redis MGET"))
        else:
            found = alternating(options.rounds, **actions)
            yield Reached("many/redis", reason="redis-server is not installed")
        yield rates("100 keys, 8 clients", found, unit="requests")
        yield Reached("many/single", ratio(found, "cache_lookup_many", "100 × cache_lookup"))


def choose(kind):
    """Returns the numbers of the entries of each request, all of one user."""
    chance = random.Random(5)
    users = kind.many // MANY_EACH
    firsts = [kind.entries + 1 + number % users * MANY_EACH for number in range(REQUESTS)]
    return [chance.sample(range(first, first + MANY_EACH), KEYS) for first in firsts]


def same(one, kind, requests):
    """Checks that both statements return the entries asked for."""
    with one.connect() as connection:
        for keys in requests:
            user, content_type, _ = kind.address(keys[0], many=True)
            texts = [kind.address(n, many=True)[2] for n in keys]
            expected = {kind.address(n, many=True)[2]: kind.content(n) for n in keys}
            for sql in ("SELECT cache_key, content::text FROM cache_lookup_many(%s, %s, %s)",
                        "SELECT cache_key, content::text FROM plain WHERE user_id = %s AND content_type = %s AND cache_key = ANY (%s)"):
                if dict(connection.execute(sql, (user, content_type, texts)).fetchall()) != expected:
                    raise RuntimeError(f"not the contents that were asked for, by {sql}")
