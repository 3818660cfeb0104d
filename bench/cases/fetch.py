"""cache_fetch, in comparison with cache_lookup

pgbench, prepared, 8 clients, contents from 1 to 30 kB. A hit is an entry chosen at random of all. The client gets state, content
and lease, or what cache_lookup returns. A miss is a key that nobody has, of a user who has other entries. cache_fetch grants a lease
each time, which lasts a second, so that its place is used again. A miss and its answer are two calls, with a lease that
cache_upsert is given, or without. Upserts are of one key after the other, of a content type whose accept_if is NULL, and
of one whose accept_if is true of all answers. Audit is off."""

from .. import months, pgbench, server
from ..measure import alternating, progress, rates
from ..months import ADDRESS, KEY, LOOKUP, USER, Months
from ..targets import Reached

SETTINGS = {**months.SETTINGS, "infinite_pages_cache.max_leases": "200000", "infinite_pages_cache.early_refresh": "0"}
FETCH = "SELECT state, content, lease FROM cache_fetch({})".format(", ".join(ADDRESS))
UPSERT = f"SELECT cache_upsert({USER}, '{{}}', {KEY}, '{{{{\"text\": \"a new answer\"}}}}'{{}})"
TAKE = f"SELECT coalesce(lease::text, '') AS lease FROM cache_fetch({USER}, 'open', {KEY}) \\gset\n"


def run(options):
    kind = Months(options.entries)
    # Numbers past the last entry give missing keys.
    every, nobodys = f"random(1, {kind.entries})", f"random({10 * kind.entries}, {10**12})"
    with server.start(kind, SETTINGS) as one:
        months.warm(one)
        one.execute("UPDATE cache_content_policies SET lease_ttl = '1 second'; "
                    "INSERT INTO cache_content_policies (content_type, accept_if, lease_ttl) VALUES ('gated', '$.text.size() > 0', '1 s'), ('open', NULL, '1 s')")

        def measured(chosen, sql):
            script = kind.script(chosen, sql)
            return lambda: pgbench.pgbench(one, script, options.seconds, settings={"infinite_pages_cache.audit": "off"})

        progress("fetch: hits …")
        hits = alternating(options.rounds, **{
            "cache_lookup": measured(every, LOOKUP), "cache_fetch": measured(every, FETCH),
            "cache_fetch, as one value": measured(every, f"SELECT cache_fetch({', '.join(ADDRESS)})")})
        yield rates("hits, 8 clients", hits)

        progress("fetch: misses …")
        before = counted(one)
        misses = alternating(options.rounds, **{"cache_lookup": measured(nobodys, LOOKUP), "cache_fetch": measured(nobodys, FETCH)})
        granted, denied = (now - then for now, then in zip(counted(one), before))
        if denied or not granted:
            raise RuntimeError(f"{granted} leases were granted and {denied} denied")
        yield rates("misses, 8 clients", misses)

        progress("fetch: answers …")
        yield rates("a miss and its answer, 8 clients", alternating(options.rounds, **{
            "without a lease": measured(nobodys, LOOKUP + ";\n" + UPSERT.format("open", "")),
            "with a lease": measured(nobodys, TAKE + UPSERT.format("open", ", lease => :lease::text::uuid"))}), unit="both")
        yield rates("upserts, 8 clients", alternating(options.rounds, **{
            "accept_if NULL": measured(every, UPSERT.format("open", "")), "accept_if true": measured(every, UPSERT.format("gated", ""))}), unit="upserts")
    yield Reached("fetch/hit", hits["cache_fetch"]["per_second"] / hits["cache_lookup"]["per_second"])
    yield Reached("fetch/grant", misses["cache_fetch"]["per_second"] / misses["cache_lookup"]["per_second"])


def counted(one):
    """Returns how many leases have been granted and denied."""
    return one.execute("SELECT coalesce(sum(leases_granted), 0), coalesce(sum(leases_denied), 0) FROM cache_statistics()")[0]
