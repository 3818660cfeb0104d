WITH RECURSIVE wanted_table (name) AS (
    VALUES ('infinite_pages_cache_partitioned'), ('cache_audit_log'), ('cache_content_policies'), ('cache_maintenance_runs'),
           ('cache_statistics_hourly'), ('cache_entry_summary'), ('cache_user_summary')
),
found AS (
    SELECT w.name, c.oid, c.relrowsecurity, c.relowner
    FROM wanted_table w
    LEFT JOIN pg_class c ON c.relname = w.name AND c.relkind IN ('r', 'p')
        AND c.relnamespace = (SELECT extnamespace FROM pg_extension WHERE extname = 'infinite_pages_cache')
),
cache AS (
    SELECT oid FROM found WHERE name = 'infinite_pages_cache_partitioned' AND oid IS NOT NULL
),
partition AS (
    SELECT p.* FROM cache JOIN @partitions@ p ON p.parent = cache.oid
),
-- Partitions of every table, and their partitions.
below (oid) AS (
    SELECT i.inhrelid FROM found f JOIN pg_inherits i ON i.inhparent = f.oid
    UNION ALL
    SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid
),
open_partition AS (
    SELECT c.oid FROM below b JOIN pg_class c ON c.oid = b.oid WHERE c.relkind IN ('r', 'p') AND NOT c.relrowsecurity
),
version AS (
    SELECT current_setting('server_version_num')::integer AS number
)
SELECT * FROM (
    SELECT 'tables exist' AS name, bool_and(oid IS NOT NULL) AS ok,
           coalesce('missing: ' || string_agg(name, ', ') FILTER (WHERE oid IS NULL), count(*) || ' tables') AS detail,
           CASE WHEN NOT bool_and(oid IS NOT NULL) THEN 'Run SELECT @extschema@.cache_setup();' END AS hint
    FROM found
    UNION ALL
    SELECT 'the SQL is that of the library', extversion = '@version@', 'SQL ' || extversion || ', library @version@',
           CASE WHEN string_to_array(extversion, '.')::integer[] < string_to_array('@version@', '.')::integer[]
                THEN 'ALTER EXTENSION infinite_pages_cache UPDATE;'
                WHEN extversion <> '@version@' THEN 'Install version ' || extversion || ' of the library and restart the server.' END
    FROM pg_extension WHERE extname = 'infinite_pages_cache'
    UNION ALL
    SELECT 'the tables are those of this version', count(*) = 0, coalesce(string_agg(what, ', '), 'they are'),
           CASE WHEN count(*) > 0 THEN 'Run SELECT @extschema@.cache_setup(). It warns of what it cannot change.' END
    FROM (SELECT 'cache_audit_log has no acting_user_id' FROM found WHERE name = 'cache_audit_log' AND oid IS NOT NULL
              AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = oid AND attname = 'acting_user_id' AND NOT attisdropped)
          UNION ALL
          SELECT name || ' has no ' || wanted FROM found, unnest(ARRAY['lease_ttl', 'accept_if']) wanted
          WHERE name = 'cache_content_policies' AND oid IS NOT NULL
            AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = oid AND attname = wanted AND NOT attisdropped)
          UNION ALL
          SELECT name || '.token_cost has no scale' FROM found JOIN pg_attribute ON attrelid = oid AND attname = 'token_cost' AND NOT attisdropped
          WHERE name = 'infinite_pages_cache_partitioned' AND atttypid = 'numeric'::regtype AND atttypmod = -1
            AND EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = found.oid AND c.contype = 'c' AND c.conname LIKE '%token_cost_check')
          UNION ALL
          SELECT name || ' has no CHECK of content_type' FROM found WHERE name = 'cache_content_policies'
            AND EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = found.oid AND c.contype = 'c' AND c.conname LIKE '%token_cost_check')
            AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = found.oid AND c.contype = 'c'
                            AND strpos(pg_get_expr(c.conbin, c.conrelid), 'octet_length(content_type)') > 0)
          UNION ALL
          SELECT name || ' has an old ' || conname FROM found JOIN pg_constraint c ON conrelid = found.oid AND conname LIKE '%token_cost_check'
          WHERE strpos(pg_get_expr(c.conbin, c.conrelid), '1000000000000000') > 0) o (what)
    UNION ALL
    SELECT 'constraints hold for all rows', count(*) = 0, coalesce(string_agg(c.conrelid::regclass || ' ' || c.conname, ', '), 'they do'),
           'Correct or delete the rows that break them, then ' || string_agg(format('ALTER TABLE %s VALIDATE CONSTRAINT %I;', c.conrelid::regclass, c.conname), ' ')
    FROM found JOIN pg_constraint c ON c.conrelid = found.oid AND NOT c.convalidated
    UNION ALL
    SELECT 'the tables have one owner', count(DISTINCT relowner) <= 1,
           coalesce(string_agg(DISTINCT pg_get_userbyid(relowner)::text, ', '), 'no tables'),
           CASE WHEN count(DISTINCT relowner) > 1
                THEN 'Give them one with ALTER TABLE ... OWNER TO, because triggers of one table must not run with the rights of the owner of another.' END
    FROM found
    UNION ALL
    SELECT 'row security is on', coalesce(bool_and(relrowsecurity), false) AND NOT EXISTS (SELECT FROM open_partition),
           count(*) FILTER (WHERE relrowsecurity) || ' of ' || count(*) || ' tables, '
               || (SELECT count(*) FROM below) - (SELECT count(*) FROM open_partition) || ' of ' || (SELECT count(*) FROM below) || ' partitions',
           CASE WHEN NOT coalesce(bool_and(relrowsecurity), false) OR EXISTS (SELECT FROM open_partition)
                THEN 'Run SELECT @extschema@.cache_setup();' END
    FROM found
    UNION ALL
    SELECT 'maintenance sees every row', count(*) = 0,
           coalesce('FORCE ROW LEVEL SECURITY may hide rows from the owner of ' || string_agg(name, ', '), 'it does'),
           string_agg(format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;', oid::regclass), ' ')
               || ' Or ' || string_agg(DISTINCT format('ALTER ROLE %I BYPASSRLS;', pg_get_userbyid(relowner)), ' ')
    FROM found WHERE name = ANY ('{@hidden@}')
    UNION ALL
    SELECT 'policies exist', count(DISTINCT p.polname) = 3, coalesce(string_agg(DISTINCT p.polname::text, ', '), 'none'),
           CASE WHEN count(DISTINCT p.polname) < 3 THEN 'Run SELECT @extschema@.cache_setup();' END
    FROM cache LEFT JOIN pg_policy p ON p.polrelid = cache.oid
         AND p.polname IN ('tenant_isolation_cache_access', 'analytics_readonly_access', 'admin_maintenance_access')
    UNION ALL
    SELECT 'the current month has a partition', coalesce(bool_or(starts <= clock_timestamp() AND ends > clock_timestamp()), false),
           count(*) || ' partitions in all', 'Keep the worker running, or run cache_run_maintenance() on a schedule.'
    FROM partition
    UNION ALL
    SELECT 'coming months have partitions', count(*) >= 1, count(*) || ' months ahead',
           CASE WHEN count(*) < 1 THEN 'Run SELECT @extschema@.cache_run_maintenance();' END
    FROM partition WHERE starts > clock_timestamp()
    UNION ALL
    SELECT 'each partition has its entry index', count(*) = 0,
           coalesce('without one: ' || string_agg(relname::text, ', '), 'all have one'),
           CASE WHEN count(*) > 0 THEN 'Run SELECT @extschema@.cache_setup();' END
    FROM partition p
    WHERE NOT EXISTS (SELECT FROM @entry_indexes@ i WHERE i.indrelid = p.oid)
    UNION ALL
    SELECT 'searches have their index', count(x.*) > 0, coalesce(min(x.indexrelid::regclass::text), 'there is none on (user_id, content_type)'),
           CASE WHEN count(x.*) = 0 THEN 'Run SELECT @extschema@.cache_setup();' END
    FROM cache LEFT JOIN pg_index x ON x.indrelid = cache.oid AND x.indisvalid AND x.indpred IS NULL
         AND EXISTS (SELECT FROM pg_class i JOIN pg_am m ON m.oid = i.relam WHERE i.oid = x.indexrelid AND m.amname = 'btree')
         AND ARRAY['user_id', 'content_type'] = (
             SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(x.indkey::smallint[]) WITH ORDINALITY k (attnum, place)
             JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum WHERE k.place <= 2)
    UNION ALL
    SELECT 'cleanup has its index', count(x.*) > 0, coalesce(min(x.indexrelid::regclass::text), 'there is none on content type and expiry'),
           CASE WHEN count(x.*) = 0 THEN 'Run SELECT @extschema@.cache_setup(); without it cleanup is slow where stale_ttl is set.' END
    FROM cache LEFT JOIN pg_index x ON x.indrelid = cache.oid AND x.indisvalid AND x.indpred IS NULL
         AND strpos(pg_get_indexdef(x.indexrelid), 'USING btree (content_type, ((expires_at AT TIME ZONE ''UTC''::text))') > 0
    UNION ALL
    SELECT 'all indexes are valid', count(*) = 0, coalesce('invalid: ' || string_agg(x.indexrelid::regclass::text, ', '), 'all are'),
           CASE WHEN count(*) > 0 THEN 'REINDEX them.' END
    FROM pg_index x
    WHERE NOT x.indisvalid AND x.indrelid IN (SELECT oid FROM cache UNION ALL SELECT oid FROM partition)
    UNION ALL
    SELECT 'there is no DEFAULT partition', count(*) = 0, coalesce(string_agg(relname::text, ', '), 'none'),
           CASE WHEN count(*) > 0 THEN 'It blocks the creation of partitions. Move its rows and drop it.' END
    FROM partition WHERE is_default
    UNION ALL
    SELECT 'content is compressed with lz4', coalesce(bool_or(a.attcompression = 'l'), false) OR NOT bool_or(lz4.available),
           CASE WHEN bool_or(a.attcompression = 'l') THEN 'lz4'
                WHEN bool_or(lz4.available) THEN 'pglz'
                ELSE 'pglz: this server was built without lz4' END,
           CASE WHEN NOT coalesce(bool_or(a.attcompression = 'l'), false) AND bool_or(lz4.available)
                THEN 'ALTER TABLE @extschema@.infinite_pages_cache_partitioned ALTER COLUMN content SET COMPRESSION lz4; it reads back faster.' END
    FROM cache JOIN pg_attribute a ON a.attrelid = cache.oid AND a.attname = 'content',
         (SELECT 'lz4' = ANY (enumvals) AS available FROM pg_settings WHERE name = 'default_toast_compression') lz4
    UNION ALL
    SELECT 'the library is preloaded', @preloaded@, CASE WHEN @preloaded@ THEN 'it is' ELSE 'it is not' END,
           CASE WHEN NOT @preloaded@
                THEN 'Set shared_preload_libraries = ''infinite_pages_cache'' and restart: without it lookups are not counted and no worker maintains the cache.' END
    UNION ALL
    SELECT 'leases can be granted', @preloaded@,
           CASE WHEN NOT @preloaded@ THEN 'cache_fetch() grants none, so that all who miss at once generate'
                WHEN pg_is_in_recovery() THEN 'a standby grants none; call cache_fetch() on the primary'
                ELSE current_setting('infinite_pages_cache.max_leases', true) || ' at a time' END,
           CASE WHEN NOT @preloaded@ THEN 'Set shared_preload_libraries = ''infinite_pages_cache'' and restart.' END
    UNION ALL
    SELECT 'content types have counters of their own', coalesce(sum(hits::numeric + upserts), 0) = 0,
           coalesce(sum(hits::numeric + upserts), 0) || ' hits and upserts were counted without their content type',
           CASE WHEN coalesce(sum(hits::numeric + upserts), 0) > 0
                THEN 'Raise infinite_pages_cache.max_tracked_content_types and restart; give types that matter a row in cache_content_policies.' END
    FROM @extschema@.cache_statistics() WHERE content_type = ''
    UNION ALL
    SELECT 'the worker runs', worker IN ('on', 'standby'), worker,
           CASE CASE WHEN last_error = '@no_place@' THEN 'no place' ELSE worker END
                WHEN 'no place' THEN 'Raise max_worker_processes and restart: there was no free slot for a worker lately.'
                WHEN 'not preloaded' THEN 'Set shared_preload_libraries = ''infinite_pages_cache'' and restart.'
                WHEN 'off' THEN 'ALTER SYSTEM SET infinite_pages_cache.naptime = ''30s''; SELECT pg_reload_conf();'
                WHEN 'not running' THEN 'See the server''s log for why it has no launcher; max_worker_processes must leave it a slot.'
                WHEN 'overdue' THEN 'Look at cache_maintenance_progress for what keeps it busy, here or in other databases, and at the server''s log.'
                WHEN 'read only' THEN 'Set default_transaction_read_only = off for this database.'
                WHEN 'not ready' THEN 'Wait for the end of the restore, create the tables that the first check reports missing, or add the primary keys that tables of the cache lack.'
           END
    FROM @extschema@.cache_maintenance_status()
    UNION ALL
    SELECT 'the last tick succeeded', consecutive_failures = 0,
           CASE WHEN consecutive_failures > 0 THEN consecutive_failures || ' failed in a row: ' || last_error
                ELSE coalesce('at ' || last_success, 'none yet') END,
           CASE WHEN last_error = '@no_place@' THEN 'Raise max_worker_processes and restart the server.'
                WHEN consecutive_failures > 0 THEN 'Look at cache_maintenance_log, and at the server''s log.' END
    FROM @extschema@.cache_maintenance_status()
    UNION ALL
    SELECT 'the cache is switched on', current_setting('infinite_pages_cache.enabled')::boolean,
           'infinite_pages_cache.enabled = ' || current_setting('infinite_pages_cache.enabled'),
           CASE WHEN NOT current_setting('infinite_pages_cache.enabled')::boolean THEN 'SET infinite_pages_cache.enabled = on;' END
    UNION ALL
    SELECT 'writes are audited', current_setting('infinite_pages_cache.audit') <> 'off',
           'infinite_pages_cache.audit = ' || current_setting('infinite_pages_cache.audit'),
           CASE WHEN current_setting('infinite_pages_cache.audit') = 'off' THEN 'Set infinite_pages_cache.audit = write.' END
    UNION ALL
    SELECT 'lookups can be audited', @preloaded@ AND NOT pg_is_in_recovery(), 'infinite_pages_cache.audit = all',
           CASE WHEN NOT @preloaded@
                THEN 'Set shared_preload_libraries = ''infinite_pages_cache'' and restart: without it writes alone are audited.'
                WHEN pg_is_in_recovery()
                THEN 'A standby cannot store the audit, and keeps only the newest lookups in memory until it is promoted. Send lookups that must be audited to the primary.' END
    WHERE current_setting('infinite_pages_cache.audit') = 'all'
    UNION ALL
    SELECT 'the server has its minimum release', number >= minimum, current_setting('server_version'),
           CASE WHEN number < minimum THEN 'Update to the newest minor release of this major version: older ones let row security leak through statistics.' END
    FROM version, LATERAL (SELECT CASE number / 10000 WHEN 14 THEN 140019 WHEN 15 THEN 150014 WHEN 16 THEN 160010 WHEN 17 THEN 170006 ELSE 0 END) m (minimum)
) checks
