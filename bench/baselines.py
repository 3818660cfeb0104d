"""A cache without the extension, in the same database: tables, and statements on them.

`plain` is one table with its primary key and nothing else. `legacy` is the table that such a cache has after some years:
a primary key, the unique key, and nine secondary indexes, one of them with the number of hits, so that the cache counts
by UPDATE and no UPDATE is HOT. `partman` is partitioned by month by pg_partman, where that is installed; a unique key of a
partitioned table must have created_at, so the newest version is chosen, and an upsert is an UPDATE and then an INSERT."""

# The columns that are filled, in the order of COPY.
COLUMNS = ("user_id", "content_type", "cache_key", "content", "metadata", "story_id", "foundation_dependency",
           "semantic_similarity_hash", "token_cost", "created_at", "expires_at")

DEFINITION = """
    user_id uuid NOT NULL, content_type text NOT NULL, cache_key text NOT NULL, content jsonb COMPRESSION lz4 NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}', story_id uuid, foundation_dependency text, semantic_similarity_hash text,
    token_cost numeric, created_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz NOT NULL,
    hit_count bigint NOT NULL DEFAULT 0, last_accessed timestamptz NOT NULL DEFAULT now(), reuse_score numeric(3,1) NOT NULL DEFAULT 5.0"""

TENANT = """
    CREATE ROLE bench_tenant NOLOGIN;
    SELECT cache_grant_tenant('bench_tenant');
    GRANT SELECT ON plain TO bench_tenant;
    ALTER TABLE plain ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON plain FOR ALL TO PUBLIC
        USING (user_id = cache_current_user_id()) WITH CHECK (user_id = cache_current_user_id())"""

PLAIN = f"CREATE TABLE plain ({DEFINITION}, PRIMARY KEY (user_id, content_type, cache_key))"

LEGACY = f"""
    CREATE TABLE legacy (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), {DEFINITION}, UNIQUE (user_id, content_type, cache_key));
    CREATE INDEX ON legacy (content_type, user_id, created_at);
    CREATE INDEX ON legacy (expires_at);
    CREATE INDEX ON legacy (created_at);
    CREATE INDEX ON legacy (last_accessed);
    CREATE INDEX ON legacy (content_type, reuse_score DESC, hit_count DESC);
    CREATE INDEX ON legacy (story_id);
    CREATE INDEX ON legacy (foundation_dependency);
    CREATE INDEX ON legacy (semantic_similarity_hash);
    CREATE INDEX ON legacy USING gin (metadata)"""

PARTMAN = f"""
    CREATE TABLE partman ({DEFINITION}, PRIMARY KEY (user_id, content_type, cache_key, created_at)) PARTITION BY RANGE (created_at);
    CREATE SCHEMA partitioning;
    CREATE EXTENSION pg_partman SCHEMA partitioning"""

TABLES = {"plain": f"{PLAIN}; {TENANT}", "legacy": LEGACY, "partman": PARTMAN}


def create(connection, table, months):
    """Creates an empty table; returns whether this server can."""
    if table == "partman" and not has_partman(connection):
        return False
    connection.execute(TABLES[table])
    if table == "partman":
        version = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'pg_partman'").fetchone()[0]
        major = int(version.split(".")[0])
        interval = "p_type := 'native', p_interval := 'monthly'" if major < 5 else "p_interval := '1 month'"
        connection.execute(f"""
            SELECT partitioning.create_parent('public.partman', 'created_at', {interval}, p_premake := 3,
                p_start_partition := (date_trunc('month', now()) - interval '{months - 1} months')::text)""")
    return True


def has_partman(connection):
    return connection.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_partman'").fetchone()[0] == 1


def existing(server, tables):
    """Returns the tables that the server could create."""
    return [table for table in tables if server.execute("SELECT to_regclass(%s)", (table,))[0][0]]


def fill(table):
    columns = ", ".join(COLUMNS)
    return f"INSERT INTO {table} ({columns}) SELECT {columns} FROM infinite_pages_cache_partitioned"


# ── statements for pgbench, of the variables of bench/months.py ──

def lookup(table, user, content_type, key, what="content"):
    newest = " ORDER BY created_at DESC LIMIT 1" if table == "partman" else ""
    return (f"SELECT {what} FROM {table} WHERE user_id = {user} AND content_type = {content_type} AND cache_key = {key} "
            f"AND expires_at > now(){newest}")


def counted_lookup(user, content_type, key):
    """Returns the legacy lookup, which counts the hit by UPDATE. pgbench fails when it finds nothing."""
    return (lookup("legacy", user, content_type, key, "id, content") + " \\gset found_\n"
            "UPDATE legacy SET hit_count = hit_count + 1, last_accessed = now() WHERE id = :found_id;\n")


VALUES = {"content": ":content{}::jsonb", "metadata": "'{{\"genre\": \"noir\"}}'::jsonb", "foundation_dependency": "'foundation ' || :u::text",
          "semantic_similarity_hash": ":k::text", "token_cost": "2"}


def values(content, user):
    return {**{name: value.format(content) for name, value in VALUES.items()}, "story_id": user}


def cache_upsert(content, user, content_type, key):
    arguments = ", ".join(f"{name} => {value}" for name, value in values(content, user).items())
    return f"SELECT cache_upsert({user}, {content_type}, {key}, ttl => '30 days', {arguments});\n"


def upsert(table, content, user, content_type, key):
    fields = {**values(content, user), "created_at": "now()", "expires_at": "now() + interval '30 days'"}
    address = {"user_id": user, "content_type": content_type, "cache_key": key}
    names, expressions = ", ".join([*address, *fields]), ", ".join([*address.values(), *fields.values()])
    if table == "partman":
        new = ", ".join(f"{name} = {value}" for name, value in fields.items() if name != "created_at")
        where = " AND ".join(f"{name} = {value}" for name, value in address.items())
        return (f"WITH updated AS (UPDATE partman SET {new} WHERE {where} RETURNING 1) "
                f"INSERT INTO partman ({names}) SELECT {expressions} WHERE NOT EXISTS (SELECT FROM updated);\n")
    new = ", ".join(f"{name} = excluded.{name}" for name in fields)
    return (f"INSERT INTO {table} ({names}) VALUES ({expressions}) "
            f"ON CONFLICT (user_id, content_type, cache_key) DO UPDATE SET {new};\n")
