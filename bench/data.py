"""The entries of a benchmark, like those of a story application: each number n makes one."""

# Entries of one call of cache_upsert_many. With more keys, writers would wait for each other.
BATCH = 250

# A user has about a hundred entries.
PER_USER = 100


def users(entries):
    return max(1, entries // PER_USER)


def user(entries, n="n"):
    return f"md5('user ' || {n} % {users(entries)})::uuid"


def content_type(entries, n="n"):
    """Returns the content types of cache_content_policies."""
    names = ("story_foundation main_characters setting plot_structure themes tone target_audience chapter_outline "
             "chapter_content chapter_summary key_events character_development foreshadowing improvement_general "
             "improvement_dialogue improvement_description improvement_pacing improvement_character improvement_plot "
             "improvement_style improvement_grammar analysis_comprehensive analysis_style analysis_structure "
             "analysis_quality analysis_readability analysis_genre export_pdf export_epub export_docx").split()
    return f"('{{{','.join(names)}}}'::text[])[1 + {n} / {users(entries)} % {len(names)}]"


def cache_key(n="n"):
    """Returns a key as long as those of cache_key()."""
    return f"encode(sha256(({n})::text::bytea), 'hex')"


def load(entries, first, last):
    """Stores the entries first to last, each of 1 to 2 kB. They never expire, because their data directory is kept."""
    return f"""
        SELECT cache_upsert_many(jsonb_agg(jsonb_build_object(
            'user_id', {user(entries)}, 'content_type', {content_type(entries)}, 'cache_key', {cache_key()},
            'ttl', '10000 days', 'metadata', jsonb_build_object('genre', 'genre ' || n % 17),
            'content', jsonb_build_object('title', 'Chapter ' || n, 'text', (
                SELECT string_agg(md5((n * 31 + line)::text) || ' and then ', '')
                FROM generate_series(1, 22 + n % 23) line)))))
        FROM generate_series({first}, {last}) n"""


def requests(name, entries, keys, each, sessions=8, chosen=None):
    """Creates a table of requests for each session, of keys chosen at random among the first. `chosen` gives user_id,
    content_type and cache_key of key n, if they are not to be those of entry n."""
    chosen = chosen or f"{user(entries)}, {content_type(entries)}, {cache_key()}"
    return f"""
        CREATE TABLE {name} (session, user_id, content_type, cache_key) AS
            SELECT session, {chosen}
            FROM (SELECT session, hashint8extended(session * {each} + number, 7) & 2147483647 AS random
                  FROM generate_series(1, {sessions}) session, generate_series(1, {each}) number) r,
                 LATERAL (SELECT (random % {keys})::integer AS n) k
            ORDER BY session, random;
        CREATE INDEX ON {name} (session);
        ANALYZE {name};"""
