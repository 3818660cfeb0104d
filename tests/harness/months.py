"""Months, and the partitions of the cache and of the audit log."""

import os
import time
from datetime import datetime, timezone

from harness.entries import ALICE, CACHE


def month(offset, today=None):
    """The start of the month that is so many months from the current one, in UTC."""
    today = today or datetime.now(timezone.utc)
    number = today.year * 12 + today.month - 1 + offset
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=timezone.utc)


def name_of(offset):
    """The name of the cache's partition of that month."""
    return f"infinite_pages_cache_{month(offset):%Y_%m}"


def this_month(connection):
    """The current month as names of partitions have it, by the server's clock."""
    return connection.execute("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')").fetchone()[0]


BOUNDS = f"""
    SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = '{CACHE}'::regclass"""


def bounds(database):
    """The bounds of each partition of the cache, by its name. Reading one locks the partition for a moment, so a DROP beside it may give up."""
    with database.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'")
        return dict(connection.execute(BOUNDS).fetchall())


def partitions(database):
    """The names of the cache's partitions. Locks none of them, so a test may ask while months are dropped."""
    return {name for (name,) in database.execute(f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{CACHE}'::regclass")}


def age(database, partition, days=2):
    """Make the files of a partition so many days old."""
    moment = time.time() - days * 86_400
    for (path,) in database.execute("SELECT pg_relation_filepath(relid) FROM pg_partition_tree(%s) WHERE isleaf", (partition,)):
        os.utime(database.cluster.data / path, (moment, moment))


def add_month(database, offset):
    """Create a month's partition, and age it, because maintenance does not drop an empty partition that is new. Returns its name."""
    name = database.value("SELECT create_monthly_cache_partition(%s::timestamp)", (month(offset).replace(tzinfo=None),))
    age(database, name)
    return name


def add_audit_month(database, offset, rows=1):
    """Create a month's partition of the audit log, with so many rows. Returns its name."""
    first, after = month(offset), month(offset + 1)
    name = f"cache_audit_log_{first:%Y_%m}"
    database.execute(f"CREATE TABLE {name} PARTITION OF cache_audit_log FOR VALUES FROM ('{first}') TO ('{after}')")
    database.execute("INSERT INTO cache_audit_log (action, \"timestamp\") SELECT 'upsert', %s FROM generate_series(1, %s)", (first, rows))
    return name


def add_dead_months(database, *ago):
    """Create partitions of months so long ago, each with an expired entry. Returns their names."""
    names = []
    with database.connect() as connection:
        for months in ago:
            created, = connection.execute("SELECT date_trunc('month', now(), 'UTC') - %s * interval '1 month'", (months,)).fetchone()
            names += connection.execute("SELECT create_monthly_cache_partition(%s::timestamp)", (created.replace(tzinfo=None),)).fetchone()
            connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) "
                               "VALUES (%s, 'tone', %s, '1', %s, %s)", (ALICE, f"old{months}", created, created))
    return names


# The table that clients had before there was the extension; cache_setup() adopts it.
LEGACY = """
    CREATE TABLE infinite_pages_cache_partitioned (
        id uuid DEFAULT gen_random_uuid(), cache_key text NOT NULL, content jsonb NOT NULL, content_type text NOT NULL,
        user_id uuid NOT NULL, story_id uuid, metadata jsonb DEFAULT '{}', foundation_dependency text,
        prompt_template text, prompt_variables jsonb DEFAULT '{}', semantic_similarity_hash text,
        reuse_score numeric(3,1) DEFAULT 5.0, created_at timestamptz DEFAULT now(),
        expires_at timestamptz DEFAULT now() + interval '7 days', hit_count integer DEFAULT 0,
        adaptation_count integer DEFAULT 0, token_cost_saved bigint DEFAULT 0, last_accessed timestamptz DEFAULT now(),
        access_frequency integer DEFAULT 1, priority_tier integer DEFAULT 3, compression_applied boolean DEFAULT false,
        PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at);
    CREATE POLICY tenant_isolation_cache_access ON infinite_pages_cache_partitioned USING (user_id = gen_random_uuid());
"""


def legacy_month(offset):
    """Statements that give the table above a month's partition with an entry."""
    first, after = month(offset), month(offset + 1)
    return (f"CREATE TABLE {name_of(offset)} PARTITION OF {CACHE} FOR VALUES FROM ('{first}') TO ('{after}'); "
            f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at, hit_count) "
            f"VALUES ('{ALICE}', 'tone', 'k{offset}', '{offset}', '{first}', 'infinity', 7);")
