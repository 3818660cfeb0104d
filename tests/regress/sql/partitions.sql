-- A month is made, filled, cleaned and dropped. One transaction: the worker does nothing meanwhile.
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
\set alice '''a11ce000-0000-4000-8000-000000000001'''

BEGIN;
-- Bounds are in UTC, whatever the time zone.
SET LOCAL timezone = 'Asia/Tokyo';
SELECT create_monthly_cache_partition('2021-03-31 23:59'), create_monthly_cache_partition('2021-03-01') AS again;
SET LOCAL timezone = 'UTC';
SELECT pg_get_expr(relpartbound, oid) AS bounds, relrowsecurity AS has_row_security,
       relowner = (SELECT relowner FROM pg_class WHERE oid = 'infinite_pages_cache_partitioned'::regclass) AS has_the_owner
FROM pg_class WHERE oid = 'infinite_pages_cache_2021_03'::regclass;
SELECT pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = 'infinite_pages_cache_2021_03'::regclass ORDER BY indexrelid::regclass::text COLLATE "C";
SELECT ok FROM check_partition_health() WHERE partition_name = 'infinite_pages_cache_2021_03';

-- Clients may use the table directly.
INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content, created_at, expires_at) VALUES
    (:alice, 'tone', 'dead', '"dry"', '2021-03-10', '2021-03-17'),
    (:alice, 'tone', 'live', '"wet"', '2021-03-10', 'infinity');
SELECT tableoid::regclass AS partition, cache_key FROM infinite_pages_cache_partitioned WHERE user_id = :alice ORDER BY cache_key;
SELECT cache_lookup(:alice, 'tone', 'dead') AS dead, cache_lookup(:alice, 'tone', 'live') AS live;

-- A key is unique in its month.
SAVEPOINT before;
INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content, created_at)
VALUES (:alice, 'tone', 'live', '"wet"', '2021-03-11');
ROLLBACK TO before;

SELECT deleted_count, partition_cleaned FROM cleanup_expired_cache_entries_production();
SELECT deleted_count, partition_cleaned FROM cleanup_expired_cache_entries_production();

-- A month with live entries goes only if told so.
SELECT partition_name, dropped, live_entries, detail FROM drop_old_cache_partitions(months_to_keep => 12);
SELECT partition_name, dropped, live_entries, detail FROM drop_old_cache_partitions(months_to_keep => 12, include_live => true);
SELECT to_regclass('infinite_pages_cache_2021_03');
ROLLBACK;

-- A write makes the month that it needs.
BEGIN;
SELECT cache_create_current_partition() AS current \gset
DROP TABLE :current;
SELECT cache_upsert(:alice, 'tone', 'noir', '"dry"') IS NOT NULL AS stored;
SELECT tableoid::regclass = :'current'::regclass AS is_in_it FROM infinite_pages_cache_partitioned WHERE user_id = :alice;
ROLLBACK;
