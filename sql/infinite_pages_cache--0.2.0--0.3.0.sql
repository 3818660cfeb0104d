-- From 0.2.0 to 0.3.0. The tables are no members of the extension: cache_setup() brings them to the shape of this version,
-- also after the restore of an old dump.

-- A function whose arguments or columns have changed is renamed, and created anew. cache_replace() then gives the new function
-- the owner, the grants and an operator's comment of the old one, and drops the old one. It refuses if a user's object depends
-- on the old one.
CREATE FUNCTION @extschema@.cache_replace(old regprocedure, new regprocedure, released_comment text) RETURNS void
    LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'cache_replace_wrapper';

-- Renews a comment that this version has changed, unless an operator has changed it.
CREATE FUNCTION @extschema@.cache_renew_comment(catalog regclass, object oid, released_comment text, new_comment text) RETURNS void
    LANGUAGE c VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS 'MODULE_PATHNAME', 'cache_renew_comment_wrapper';

-- A time to live takes a number of seconds.
CREATE CAST (smallint AS @extschema@.cache_ttl) WITH INOUT AS IMPLICIT;
CREATE CAST (integer AS @extschema@.cache_ttl) WITH INOUT AS IMPLICIT;
CREATE CAST (bigint AS @extschema@.cache_ttl) WITH INOUT AS IMPLICIT;
CREATE CAST (numeric AS @extschema@.cache_ttl) WITH INOUT AS IMPLICIT;
CREATE CAST (real AS @extschema@.cache_ttl) WITH INOUT AS IMPLICIT;
CREATE CAST (double precision AS @extschema@.cache_ttl) WITH INOUT AS IMPLICIT;
SELECT @extschema@.cache_renew_comment('pg_type', 'cache_ttl'::regtype,
    'Time to live: any interval (a month counts 30 days, a day 24 hours) or infinity',
    'Time to live: any interval (a month counts 30 days, a day 24 hours), a number of seconds, or infinity');
SELECT @extschema@.cache_renew_comment('pg_proc', 'cache_ttl_in(cstring)'::regprocedure,
    'Reads a time to live: an interval or infinity',
    'Reads a time to live: an interval, a number of seconds, or infinity');

ALTER FUNCTION @extschema@.cache_upsert(uuid, text, text, jsonb, @extschema@.cache_ttl, jsonb, numeric, text, jsonb, uuid, text, integer, text, numeric, timestamptz)
    RENAME TO replaced_cache_upsert;
CREATE FUNCTION @extschema@.cache_upsert(
        user_id uuid, content_type text, cache_key text, content jsonb,
        ttl @extschema@.cache_ttl DEFAULT NULL, metadata jsonb DEFAULT NULL, token_cost double precision DEFAULT NULL,
        prompt_template text DEFAULT NULL, prompt_variables jsonb DEFAULT NULL, story_id uuid DEFAULT NULL,
        foundation_dependency text DEFAULT NULL, priority_tier integer DEFAULT NULL,
        semantic_similarity_hash text DEFAULT NULL, reuse_score double precision DEFAULT NULL,
        expires_at timestamptz DEFAULT NULL, lease uuid DEFAULT NULL) RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_upsert_with_doubles_wrapper';
COMMENT ON FUNCTION @extschema@.cache_upsert(uuid, text, text, jsonb, @extschema@.cache_ttl, jsonb, double precision, text, jsonb, uuid, text, integer, text, double precision, timestamptz, uuid) IS
    'Stores an answer, or a new version of it, and returns the id of its entry. What is not given comes from cache_content_policies. NULL with a notice: it was not stored, because accept_if is not true of it, or because its lease has ended or is outdated';
SELECT @extschema@.cache_replace('replaced_cache_upsert(uuid, text, text, jsonb, @extschema@.cache_ttl, jsonb, numeric, text, jsonb, uuid, text, integer, text, numeric, timestamptz)',
    'cache_upsert(uuid, text, text, jsonb, @extschema@.cache_ttl, jsonb, double precision, text, jsonb, uuid, text, integer, text, double precision, timestamptz, uuid)',
    'Stores an answer, or a new version of it, and returns the id of its entry. What is not given comes from cache_content_policies');

SELECT @extschema@.cache_renew_comment('pg_proc', 'cache_key(jsonb)'::regprocedure,
    'Key of a request: SHA-256, in hexadecimal, of its canonical JSON (RFC 8785). The same request gives the same key in every language',
    'Key of a request: SHA-256, in hexadecimal, of its canonical JSON (RFC 8785), where a number has all its digits. The same request gives the same key in every language');

ALTER FUNCTION @extschema@.cache_search(uuid, text, jsonb, integer)
    RENAME TO replaced_cache_search;
CREATE FUNCTION @extschema@.cache_search(user_id uuid, content_type text, metadata jsonb DEFAULT '{}', max_results integer DEFAULT 10)
    RETURNS TABLE (id uuid, cache_key text, content jsonb, metadata jsonb, reuse_score numeric,
                   created_at timestamptz, expires_at timestamptz, age interval, token_cost numeric,
                   priority_tier integer, story_id uuid, foundation_dependency text, hit_count bigint)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 10 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_search';
COMMENT ON FUNCTION @extschema@.cache_search(uuid, text, jsonb, integer) IS
    'A user''s live entries of a content type whose metadata contains the given object, by reuse_score and then the newest first. Writes nothing';
SELECT @extschema@.cache_replace('replaced_cache_search(uuid, text, jsonb, integer)',
    'cache_search(uuid, text, jsonb, integer)',
    'A user''s live entries of a content type whose metadata contains the given object, by reuse_score and then the newest first. Writes nothing');
CREATE FUNCTION @extschema@.cache_grant_monitor(role text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_grant_monitor_wrapper';
COMMENT ON FUNCTION @extschema@.cache_grant_monitor(text) IS
    'Lets a role watch the cache: every metric, alert, check and statistic, and nothing of what is cached';

ALTER FUNCTION @extschema@.cache_statistics(boolean)
    RENAME TO replaced_cache_statistics;
CREATE FUNCTION @extschema@.cache_statistics(pending boolean DEFAULT false)
    RETURNS TABLE (content_type text, hits bigint, misses bigint, stale bigint, upserts bigint,
                   invalidations bigint, expirations bigint, tokens_spent numeric, tokens_saved numeric,
                   untracked_hits bigint, audit_lost bigint, lookup_us bigint[], upsert_us bigint[],
                   evictions bigint, leases_granted bigint, leases_denied bigint, leases_expired bigint,
                   waits bigint, waits_hit bigint, stale_served bigint, refused_fills bigint,
                   refused_by_gate bigint, failures bigint, generations bigint, generation_total_ms bigint,
                   generation_ms bigint[])
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 30 AS 'MODULE_PATHNAME', 'cache_statistics_with_leases_wrapper';
COMMENT ON FUNCTION @extschema@.cache_statistics(boolean) IS
    'Counters of each content type in this database: since the server started or, if pending, those not yet in cache_statistics_hourly';
SELECT @extschema@.cache_replace('replaced_cache_statistics(boolean)',
    'cache_statistics(boolean)',
    'What was counted for each content type in this database since the server started or, pending, is not yet in cache_statistics_hourly');

ALTER FUNCTION @extschema@.cache_performance_metrics()
    RENAME TO replaced_cache_performance_metrics;
CREATE FUNCTION @extschema@.cache_performance_metrics()
    RETURNS TABLE (content_type text, total_entries bigint, cache_hits bigint, avg_hit_count numeric,
                   avg_tokens_saved numeric, tokens_saved numeric, expired_entries bigint,
                   high_priority_entries bigint, last_activity timestamptz, hit_rate_percentage numeric,
                   lookups bigint, hit_rate_last_hour numeric, hit_rate_last_day numeric,
                   p50_ms numeric, p95_ms numeric, p99_ms numeric, tokens_spent_last_day numeric,
                   tokens_saved_last_day numeric, cost_saved_percentage numeric, measured_at timestamptz,
                   evictions_last_day bigint, leases_last_day bigint, waits_last_day bigint,
                   waits_hit_last_day bigint, stale_served_last_day bigint, refused_fills_last_day bigint,
                   refused_by_gate_last_day bigint, failures_last_day bigint, generation_p50_s numeric,
                   generation_p95_s numeric, generations_avoided_last_day bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 30 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_report';
-- The view stays, and so does what depends on it: the new column is the last.
CREATE OR REPLACE VIEW @extschema@.cache_performance_metrics AS SELECT * FROM @extschema@.cache_performance_metrics();
SELECT @extschema@.cache_renew_comment('pg_class', 'cache_performance_metrics'::regclass,
    'For each content type: entries, hits, tokens saved; lookups and hit ratio since the server started, of the last hour and day; latency of the lookups of the last hour; share of the cost saved in the last day',
    'For each content type: entries, hits, tokens saved; lookups and hit ratio since the server started, of the last hour and day; latency of the lookups of the last hour; share of the cost saved, entries evicted by max_entries, leases, waits, refused answers, failures and the time that generations took, in the last day');
COMMENT ON FUNCTION @extschema@.cache_performance_metrics() IS 'The rows of the view of this name';
SELECT @extschema@.cache_replace('replaced_cache_performance_metrics()',
    'cache_performance_metrics()',
    'The rows of the view of this name');

CREATE FUNCTION @extschema@.cache_invalidate_content_type_for_all_users(content_type text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_invalidate_content_type_for_all_users_wrapper';
COMMENT ON FUNCTION @extschema@.cache_invalidate_content_type_for_all_users(text) IS
    'Removes every user''s entries of one content type, when a prompt template or a model has changed; returns how many';

SELECT @extschema@.cache_renew_comment('pg_proc', 'cache_upsert_many(jsonb)'::regprocedure,
    'Stores an array of objects whose fields are named like the arguments of cache_upsert, all or none; returns their ids in order. Of a key that stands twice the last one counts',
    'Stores an array of objects whose fields are named like the arguments of cache_upsert, all or none; returns their ids in order, NULL for one that accept_if or its lease keeps out. Of two objects with the same key the last one counts');
SELECT @extschema@.cache_renew_comment('pg_proc', 'check_partition_health()'::regprocedure,
    'A verdict on each partition: attached, indexed, protected by row security, of bearable size; and on gaps and months ahead',
    'Checks each partition for its entry index, row security, grants, size, and a gap after it; and whether the current month and the next have one');
SELECT @extschema@.cache_renew_comment('pg_proc', 'cache_run_maintenance()'::regprocedure,
    'All that keeps the cache in order, a row for each step: partitions ahead, expiry, limits, audit retention, ANALYZE, drop of dead months',
    'Runs every step of maintenance and returns a row for each: partitions ahead, expiry, limits, audit retention, ANALYZE, drop of dead months, and more');
SELECT @extschema@.cache_renew_comment('pg_class', 'cache_maintenance_status'::regclass,
    'What the background worker does in this database, or why it does nothing: when it ran last and runs next, failures, months ahead, the oldest entry that has expired and is still there. What is not ready, verify_production_cache() names. last_success: the last run in which no step failed, or waited to be tried again; after a restart, until the first tick, the last that cache_maintenance_log knows of',
    'Whether the background worker works in this database, or why not: when it ran last and runs next, failures, months ahead, the oldest expired entry that is still there. verify_production_cache() names what is not ready. last_success is the last run in which no step failed or waited to be tried again; after a restart, until the first tick, the last such run in cache_maintenance_log');

CREATE FUNCTION @extschema@.cache_explain(user_id uuid, content_type text, cache_key text, request jsonb DEFAULT NULL)
    RETURNS TABLE (reason text, detail text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 5 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_explain';
COMMENT ON FUNCTION @extschema@.cache_explain(uuid, text, text, jsonb) IS
    'Why a lookup of a key misses, or would; with the request, which entry comes nearest to it. For people, not for the hot path';

CREATE FUNCTION @extschema@.cache_refresh_candidates(within interval DEFAULT '1 day', max_results integer DEFAULT 100)
    RETURNS TABLE (user_id uuid, content_type text, cache_key text, expires_at timestamptz, hit_count bigint,
                   token_cost numeric, worth numeric, prompt_template text, prompt_variables jsonb, metadata jsonb)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_refresh_candidates';
COMMENT ON FUNCTION @extschema@.cache_refresh_candidates(interval, integer) IS
    'Live entries that expire soon and have been hit, by what their hits have saved: what to generate before it is asked for';

CREATE FUNCTION @extschema@.cache_fetch(user_id uuid, content_type text, cache_key text,
        wait interval DEFAULT '0', foundation_dependency text DEFAULT NULL,
        OUT state text, OUT content jsonb, OUT lease uuid, OUT retry_after interval, OUT expires_at timestamptz, OUT age interval)
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'cache_fetch_wrapper';
COMMENT ON FUNCTION @extschema@.cache_fetch(uuid, text, text, interval, text) IS
    'The answer, or who generates it: hit, refresh, stale, generate, wait or failed. Who gets a lease generates, and passes it to cache_upsert() or cache_release()';

CREATE FUNCTION @extschema@.cache_release(lease uuid, failed boolean DEFAULT false, retry_after interval DEFAULT '5 seconds')
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_release_wrapper';
COMMENT ON FUNCTION @extschema@.cache_release(uuid, boolean, interval) IS
    'Gives a lease back, so that somebody else generates; if failed, nobody for retry_after. At once, whatever becomes of the transaction. False when the lease has ended';

CREATE FUNCTION @extschema@.cache_extend_lease(lease uuid, ttl interval DEFAULT NULL) RETURNS interval
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_extend_lease_wrapper';
COMMENT ON FUNCTION @extschema@.cache_extend_lease(uuid, interval) IS
    'Gives a lease a new time from now, by default the lease_ttl of its content policy, and returns it; NULL when the lease has ended';

CREATE FUNCTION @extschema@.cache_end_leases(user_id uuid, content_type text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_end_leases_wrapper';
COMMENT ON FUNCTION @extschema@.cache_end_leases(uuid, text) IS
    'Ends a user''s leases, of one content type or all, and keeps their answers out: call it before entries are changed by other means. Returns how many';

CREATE FUNCTION @extschema@.cache_pending_invalidations()
    RETURNS TABLE (pid integer, user_id uuid, subject text, pending_for interval)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_pending_invalidations';
COMMENT ON FUNCTION @extschema@.cache_pending_invalidations() IS
    'Invalidations whose transaction is open: answers that they concern are not stored';

CREATE FUNCTION @extschema@.cache_leases()
    RETURNS TABLE (user_id uuid, content_type text, entry_digest uuid, state text, granted_at timestamptz,
                   ends_in interval, storing_pid integer, waiters integer)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_leases';
CREATE VIEW @extschema@.cache_leases AS SELECT * FROM @extschema@.cache_leases();
COMMENT ON VIEW @extschema@.cache_leases IS
    'Leases of cache_fetch(): who generates what. A tenant sees those of its user';
COMMENT ON FUNCTION @extschema@.cache_leases() IS 'The rows of the view of this name';

DROP FUNCTION @extschema@.cache_replace(regprocedure, regprocedure, text);
DROP FUNCTION @extschema@.cache_renew_comment(regclass, oid, text, text);

SELECT @extschema@.cache_setup();
