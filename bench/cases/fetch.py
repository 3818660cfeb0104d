"""cache_fetch, in comparison with cache_lookup

pgbench, prepared, 8 clients, contents from 1 to 30 kB. A hit is an entry chosen at random of all. The client gets state, content
and lease, or what cache_lookup returns. A miss is a key that nobody has, of a user who has other entries. cache_fetch grants a lease
each time, which lasts a second, so that its place is used again. What is read FROM a function costs PostgreSQL more than what is
selected as one value, so both are measured. A miss and its answer are two calls, with a lease that
cache_upsert is given, or without. Upserts are of one key after the other, of a content type whose accept_if is NULL, and
of one whose accept_if is true of all answers. Audit is off."""

from .. import months, pgbench, server
from ..measure import alternating, progress, rates
from ..months import ADDRESS, KEY, LOOKUP, USER, Months
from ..targets import Reached

SETTINGS = {**months.SETTINGS, "infinite_pages_cache.max_leases": "200000", "infinite_pages_cache.early_refresh": "0"}
FETCH, FETCH_FROM = (form.format(", ".join(ADDRESS)) for form in ("SELECT cache_fetch({})", "SELECT state, content, lease FROM cache_fetch({})"))
LOOKUP_FROM = f"SELECT content FROM cache_lookup({', '.join(ADDRESS)}) content"
FORMS = {"cache_lookup": LOOKUP, "cache_fetch": FETCH, "FROM cache_lookup": LOOKUP_FROM, "FROM cache_fetch": FETCH_FROM}
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
        hits = alternating(options.rounds, **{name: measured(every, form) for name, form in FORMS.items()})
        yield rates("hits, 8 clients", hits)

        progress("fetch: misses …")
        before = counted(one)
        misses = alternating(options.rounds, **{name: measured(nobodys, form) for name, form in FORMS.items()})
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
    for name, found in {"hit": hits, "grant": misses}.items():
        for prefix, suffix in {"": "", "FROM ": "/from"}.items():
            fetched, looked_up = (found[f"{prefix}{function}"]["per_second"] for function in ("cache_fetch", "cache_lookup"))
            yield Reached(f"fetch/{name}{suffix}", fetched / looked_up)


def counted(one):
    """Returns how many leases have been granted and denied."""
    return one.execute("SELECT coalesce(sum(leases_granted), 0), coalesce(sum(leases_denied), 0) FROM cache_statistics()")[0]
