-- What is refused, with SQLSTATE, rule, value and way out.
\set alice '''a11ce000-0000-4000-8000-000000000001'''
\set SHOW_CONTEXT never

-- Arguments
SELECT cache_lookup(NULL, 'tone', 'noir');
\echo :LAST_ERROR_SQLSTATE
SELECT cache_lookup(:alice, '', 'noir');
\echo :LAST_ERROR_SQLSTATE
SELECT cache_lookup(:alice, 'tone', repeat('x', 1025));
\echo :LAST_ERROR_SQLSTATE
SELECT cache_upsert(:alice, '*', 'noir', '"dry"');
\echo :LAST_ERROR_SQLSTATE
SELECT cache_upsert(:alice, 'tone', 'noir', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT cache_upsert(:alice, 'tone', 'noir', '"dry"', ttl => 'soon');
\echo :LAST_ERROR_SQLSTATE
SELECT cache_upsert(:alice, 'tone', 'noir', '"dry"', ttl => '-1 day');
\echo :LAST_ERROR_SQLSTATE
SELECT cache_upsert(:alice, 'tone', 'noir', '"dry"', token_cost => -1);
\echo :LAST_ERROR_SQLSTATE
SELECT cache_upsert(:alice, 'tone', 'noir', '"dry"', priority_tier => 4);
\echo :LAST_ERROR_SQLSTATE
SELECT cache_upsert(:alice, 'tone', 'noir', '"dry"', reuse_score => 11);
\echo :LAST_ERROR_SQLSTATE

-- Batches name the entry
SELECT cache_upsert_many('{"user_id": "a11ce000-0000-4000-8000-000000000001"}');
\echo :LAST_ERROR_SQLSTATE
SELECT cache_upsert_many('[{"user_id": "a11ce000-0000-4000-8000-000000000001", "content_type": "tone", "cache_key": "noir", "content": 1},
                           {"user_id": "Alice", "content_type": "tone", "cache_key": "noir", "content": 2}]');
\echo :LAST_ERROR_SQLSTATE
SELECT cache_upsert_many('[{"user_id": "a11ce000-0000-4000-8000-000000000001", "content_type": "tone", "cache_key": "noir", "content": 1, "tll": 60}]');
\echo :LAST_ERROR_SQLSTATE

-- Size
SET infinite_pages_cache.max_content_bytes = '1kB';
SELECT cache_upsert(:alice, 'tone', 'noir', to_jsonb(repeat('x', 2000)));
\echo :LAST_ERROR_SQLSTATE
RESET infinite_pages_cache.max_content_bytes;

-- Search and invalidation
SELECT * FROM cache_search(:alice, 'tone', '[]');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM cache_search(:alice, 'tone', max_results => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT cache_invalidate_where(:alice, '1');
\echo :LAST_ERROR_SQLSTATE

-- Operation
SELECT create_monthly_cache_partition('infinity');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM drop_old_cache_partitions(0);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM archive_audit_logs('-1 day');
\echo :LAST_ERROR_SQLSTATE
SELECT cache_grant_tenant('regress_cache_unknown');
\echo :LAST_ERROR_SQLSTATE
SET infinite_pages_cache.skip_steps = 'sweep';
\echo :LAST_ERROR_SQLSTATE
BEGIN READ ONLY;
SELECT cache_upsert(:alice, 'tone', 'noir', '"dry"');
ROLLBACK;
\echo :LAST_ERROR_SQLSTATE
