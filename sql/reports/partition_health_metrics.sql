WITH partition AS (
    SELECT n.nspname, p.relname, p.oid, p.reltuples, p.starts
    FROM @partitions@ p JOIN pg_namespace n ON n.oid = p.relnamespace
    WHERE p.parent = '@extschema@.infinite_pages_cache_partitioned'::regclass
),
entries AS (
    SELECT partition_name, sum(entries)::bigint AS entries, sum(expired_entries)::bigint AS expired
    FROM @entries_by_type@ e
    GROUP BY partition_name
)
SELECT p.nspname,
       p.relname,
       pg_size_pretty(pg_total_relation_size(p.oid)),
       -- A partition that was never analyzed has no estimate, so the count stands in.
       CASE WHEN p.reltuples < 0 THEN coalesce(e.entries, 0) ELSE p.reltuples::bigint END,
       greatest(0, extract(day FROM clock_timestamp() - p.starts))::integer,
       pg_total_relation_size(p.oid),
       coalesce(e.entries - e.expired, 0),
       coalesce(e.expired, 0),
       (p.starts AT TIME ZONE 'UTC')::date,
       ((extract(year FROM p.starts AT TIME ZONE 'UTC') - extract(year FROM clock_timestamp() AT TIME ZONE 'UTC')) * 12
         + extract(month FROM p.starts AT TIME ZONE 'UTC') - extract(month FROM clock_timestamp() AT TIME ZONE 'UTC'))::integer
FROM partition p
LEFT JOIN entries e ON e.partition_name = p.relname
ORDER BY p.starts
