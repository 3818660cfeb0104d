-- What CREATE EXTENSION makes, what cache_setup() mends, and what is left when the extension is dropped.
SELECT extversion = default_version AS is_current, extnamespace::regnamespace AS schema
FROM pg_extension JOIN pg_available_extensions ON name = extname WHERE extname = 'infinite_pages_cache';

-- Tables that belong to the database, not to the extension: a dump has them, and their rows.
SELECT relname, relkind, relrowsecurity AS has_row_security
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
ORDER BY relname COLLATE "C";

-- Months are ready: the current one, and as many as the setting says.
LOAD 'infinite_pages_cache';
SELECT inhparent::regclass AS partitioned, count(*) > current_setting('infinite_pages_cache.premake')::integer AS are_ready
FROM pg_inherits WHERE inhparent::regclass::text IN ('cache_audit_log', 'infinite_pages_cache_partitioned')
GROUP BY inhparent ORDER BY inhparent::regclass::text COLLATE "C";

SELECT content_type, ttl, token_cost, max_entries, priority_tier FROM cache_content_policies
WHERE content_type IN ('*', 'chapter_content', 'story_foundation') ORDER BY content_type COLLATE "C";

-- What is missing comes back, and what is there stays.
UPDATE cache_content_policies SET ttl = '45 days' WHERE content_type = 'story_foundation';
DROP POLICY tenant_isolation_cache_access ON infinite_pages_cache_partitioned;
DROP INDEX infinite_pages_cache_partitioned_expires_at_idx;
SELECT cache_setup();
SELECT polname FROM pg_policy WHERE polrelid = 'infinite_pages_cache_partitioned'::regclass ORDER BY polname COLLATE "C";
SELECT to_regclass('infinite_pages_cache_partitioned_expires_at_idx') IS NOT NULL AS has_index;
SELECT ttl FROM cache_content_policies WHERE content_type = 'story_foundation';

-- Rows outlive the extension.
SELECT cache_upsert('a11ce000-0000-4000-8000-000000000001', 'tone', 'kept', '"dry, with rain"', ttl => 'infinity') IS NOT NULL AS stored;
\set VERBOSITY terse
DROP EXTENSION infinite_pages_cache;
SET client_min_messages = error;
DROP EXTENSION infinite_pages_cache CASCADE;
RESET client_min_messages;
SELECT content_type, cache_key, content FROM infinite_pages_cache_partitioned;
SET client_min_messages = error; -- it warns where the library is not preloaded
CREATE EXTENSION infinite_pages_cache;
RESET client_min_messages;
SELECT cache_lookup('a11ce000-0000-4000-8000-000000000001', 'tone', 'kept');
UPDATE cache_content_policies SET ttl = '30 days' WHERE content_type = 'story_foundation';
SELECT cache_invalidate('a11ce000-0000-4000-8000-000000000001', 'tone', 'kept');
