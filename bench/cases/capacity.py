"""lookups of more entries and content types than shared memory has places for

8 sessions, entries of 1 to 2 kB. What finds no place of its own is counted together with others. Time is that of
processors, for each lookup; lookups in a second are those of all sessions."""

from .. import data, server
from ..measure import Sessions, alternating, compared, progress

ENTRIES = 100_000
EACH = 25_000
TYPES = 9_990


def run(options):
    progress("capacity: entries …")
    room = "infinite_pages_cache.max_tracked_entries"
    with server.start(ENTRIES, {room: "131072"}) as ordinary, server.start(ENTRIES, {room: "64"}) as full:
        for one in (ordinary, full):
            one.execute(data.requests("requests", ENTRIES, ENTRIES, EACH))
        yield measured(options, "lookups of 100,000 entries", {
            "a place for each": (ordinary, "requests"),
            "64 places": (full, "requests"),
        })

    progress("capacity: content types …")
    room = "infinite_pages_cache.max_tracked_content_types"
    with server.start(ENTRIES) as ordinary, server.start(ENTRIES, {room: "10000"}) as roomy:
        for one in (ordinary, roomy):
            # The ordinary types are there first, and have their places.
            one.execute(data.requests("requests_ordinary", ENTRIES, TYPES, EACH))
            Sessions(one).lookups("requests_ordinary")
            for name in ("type", "further"):
                store_types(one, name)
        yield measured(options, f"lookups of {TYPES:,} entries", {
            "30 types, 256 places": (ordinary, "requests_ordinary"),
            f"{TYPES:,} types, 256 places": (ordinary, "requests_type"),
            f"{TYPES:,} types, 10,000 places": (roomy, "requests_type"),
            f"{TYPES:,} further types, 10,000 places": (roomy, "requests_further"),
        })


def store_types(one, name):
    """Stores entries, each of its own type, and makes requests for them."""
    one.execute(f"""
        SELECT cache_upsert_many(jsonb_agg(jsonb_build_object(
            'user_id', md5('{name}'), 'content_type', '{name} ' || n, 'cache_key', 'the key',
            'content', (SELECT string_agg(md5((n * 31 + line)::text), ' ') FROM generate_series(1, 45) line)) ORDER BY n))
        FROM generate_series(0, {TYPES - 1}) n""")
    one.execute(data.requests(f"requests_{name}", ENTRIES, TYPES, EACH,
                              chosen=f"md5('{name}')::uuid, '{name} ' || n, 'the key'"))


def measured(options, what, workloads):
    workloads = {name: (Sessions(one), requests) for name, (one, requests) in workloads.items()}
    found = alternating(options.rounds, **{
        name: lambda sessions=sessions, requests=requests: sessions.lookups(requests)
        for name, (sessions, requests) in workloads.items()})
    for sessions, _ in workloads.values():
        sessions.close()
    return compared(what, found)
