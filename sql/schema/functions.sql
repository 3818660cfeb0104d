-- The functions of the extension, in the order of docs/reference.md. Those with a view stand in views.sql; cache_setup()
-- creates the tables. A function that runs statements sets its search_path, so that no caller's path, operator or temporary
-- object can change what the statements mean. cache_lookup, the hot path, names every operator's schema instead, because
-- a SET clause would cost a fifth of its time.

-- == time to live ==
-- A type of its own, because interval has no infinity before PostgreSQL 17. It takes what interval takes, a number of
-- seconds, and 'infinity'. Casts accept an interval or a number wherever a time to live is expected.
CREATE TYPE @extschema@.cache_ttl;
CREATE FUNCTION @extschema@.cache_ttl_in(cstring) RETURNS @extschema@.cache_ttl
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'cache_ttl_in_wrapper';
CREATE FUNCTION @extschema@.cache_ttl_out(@extschema@.cache_ttl) RETURNS cstring
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'cache_ttl_out_wrapper';
CREATE TYPE @extschema@.cache_ttl (
    INPUT = @extschema@.cache_ttl_in, OUTPUT = @extschema@.cache_ttl_out,
    INTERNALLENGTH = 8, PASSEDBYVALUE, ALIGNMENT = double
);
COMMENT ON TYPE @extschema@.cache_ttl IS
    'Time to live: any interval (a month counts 30 days, a day 24 hours), a number of seconds, or infinity';
COMMENT ON FUNCTION @extschema@.cache_ttl_in(cstring) IS 'Reads a time to live: an interval, a number of seconds, or infinity';
COMMENT ON FUNCTION @extschema@.cache_ttl_out(@extschema@.cache_ttl) IS 'Writes a time to live';

CREATE FUNCTION @extschema@.cache_ttl_from_interval(value interval) RETURNS @extschema@.cache_ttl
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'cache_ttl_from_interval_wrapper';
COMMENT ON FUNCTION @extschema@.cache_ttl_from_interval(interval) IS 'Turns an interval into a time to live';
CREATE CAST (interval AS @extschema@.cache_ttl)
    WITH FUNCTION @extschema@.cache_ttl_from_interval(interval) AS IMPLICIT;
-- A number counts seconds, as in the text that cache_ttl_in() reads.
CREATE CAST (smallint AS @extschema@.cache_ttl) WITH INOUT AS IMPLICIT;
CREATE CAST (integer AS @extschema@.cache_ttl) WITH INOUT AS IMPLICIT;
CREATE CAST (bigint AS @extschema@.cache_ttl) WITH INOUT AS IMPLICIT;
CREATE CAST (numeric AS @extschema@.cache_ttl) WITH INOUT AS IMPLICIT;
CREATE CAST (real AS @extschema@.cache_ttl) WITH INOUT AS IMPLICIT;
CREATE CAST (double precision AS @extschema@.cache_ttl) WITH INOUT AS IMPLICIT;

-- == keys and identity ==
CREATE FUNCTION @extschema@.cache_key(request jsonb) RETURNS text
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'cache_key_wrapper';
COMMENT ON FUNCTION @extschema@.cache_key(jsonb) IS
    'Key of a request: SHA-256, in hexadecimal, of its canonical JSON (RFC 8785), where a number has all its digits. The same request gives the same key in every language';

-- LEAKPROOF: the function raises on no input, so row security may use it in an index condition. COST: a SHA-256 is
-- expensive compared with a comparison. Because the planner knows this, it looks up a key by the index that holds the
-- digest, not by the smaller one on user and content type.
CREATE FUNCTION @extschema@.cache_entry_digest(content_type text, cache_key text) RETURNS uuid
    LANGUAGE c IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE COST 100 AS 'MODULE_PATHNAME', 'cache_entry_digest_wrapper';
COMMENT ON FUNCTION @extschema@.cache_entry_digest(text, text) IS
    'First 128 bits of the SHA-256 of content type and key; what the unique index of each partition holds';

CREATE FUNCTION @extschema@.cache_current_user_id() RETURNS uuid
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cache_current_user_id_wrapper';
COMMENT ON FUNCTION @extschema@.cache_current_user_id() IS
    'User the session acts for: the claim sub in request.jwt.claims or, where there are no claims, infinite_pages_cache.user_id. NULL when there is none or it is malformed';

-- == read ==
CREATE FUNCTION @extschema@.cache_lookup(user_id uuid, content_type text, cache_key text) RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'cache_lookup_wrapper';
COMMENT ON FUNCTION @extschema@.cache_lookup(uuid, text, text) IS
    'Content of the live entry, or NULL for a miss. Writes nothing';

CREATE FUNCTION @extschema@.cache_get(user_id uuid, content_type text, cache_key text)
    RETURNS TABLE (id uuid, content jsonb, metadata jsonb, created_at timestamptz, expires_at timestamptz,
                   age interval, hit_count bigint, token_cost numeric, priority_tier integer,
                   story_id uuid, foundation_dependency text)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_get';
COMMENT ON FUNCTION @extschema@.cache_get(uuid, text, text) IS
    'The live entry with its metadata, age, expiry and hits; no row for a miss. Writes nothing';

CREATE FUNCTION @extschema@.cache_lookup_many(user_id uuid, content_type text, cache_keys text[])
    RETURNS TABLE (cache_key text, content jsonb)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 100 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_lookup_many';
COMMENT ON FUNCTION @extschema@.cache_lookup_many(uuid, text, text[]) IS
    'One row for each requested key, in the order of the request; content is NULL for a miss. Writes nothing';

CREATE FUNCTION @extschema@.cache_search(user_id uuid, content_type text, metadata jsonb DEFAULT '{}', max_results integer DEFAULT 10)
    RETURNS TABLE (id uuid, cache_key text, content jsonb, metadata jsonb, reuse_score numeric,
                   created_at timestamptz, expires_at timestamptz, age interval, token_cost numeric,
                   priority_tier integer, story_id uuid, foundation_dependency text, hit_count bigint)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 10 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_search';
COMMENT ON FUNCTION @extschema@.cache_search(uuid, text, jsonb, integer) IS
    'A user''s live entries of a content type whose metadata contains the given object, by reuse_score and then the newest first. Writes nothing';

CREATE FUNCTION @extschema@.cache_explain(user_id uuid, content_type text, cache_key text, request jsonb DEFAULT NULL)
    RETURNS TABLE (reason text, detail text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 5 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_explain';
COMMENT ON FUNCTION @extschema@.cache_explain(uuid, text, text, jsonb) IS
    'Why a lookup of a key misses, or would; with the request, which entry comes nearest to it. For people, not for the hot path';

-- == generate once ==
-- cache_fetch is on the hot path, too, as cache_lookup is.
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

-- == write ==
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

CREATE FUNCTION @extschema@.cache_upsert_many(entries jsonb) RETURNS uuid[]
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_upsert_many_wrapper';
COMMENT ON FUNCTION @extschema@.cache_upsert_many(jsonb) IS
    'Stores an array of objects whose fields are named like the arguments of cache_upsert, all or none; returns their ids in order, NULL for one that accept_if or its lease keeps out. Of two objects with the same key the last one counts';

CREATE FUNCTION @extschema@.cache_touch(user_id uuid, content_type text, cache_key text, ttl @extschema@.cache_ttl DEFAULT NULL)
    RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_touch_wrapper';
COMMENT ON FUNCTION @extschema@.cache_touch(uuid, text, text, @extschema@.cache_ttl) IS
    'Gives a live entry a new time to live from now and returns its new expiry; NULL when there is no live entry';

CREATE FUNCTION @extschema@.cache_invalidate(user_id uuid, content_type text, cache_key text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_invalidate_wrapper';
COMMENT ON FUNCTION @extschema@.cache_invalidate(uuid, text, text) IS
    'Removes one key; returns how many entries were removed';

CREATE FUNCTION @extschema@.cache_invalidate_content_type(user_id uuid, content_type text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_invalidate_content_type_wrapper';
COMMENT ON FUNCTION @extschema@.cache_invalidate_content_type(uuid, text) IS
    'Removes a user''s entries of one content type; returns how many';

CREATE FUNCTION @extschema@.cache_invalidate_where(user_id uuid, metadata jsonb) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_invalidate_where_wrapper';
COMMENT ON FUNCTION @extschema@.cache_invalidate_where(uuid, jsonb) IS
    'Removes a user''s entries whose metadata contains the given object; returns how many';

CREATE FUNCTION @extschema@.cache_invalidate_dependents(user_id uuid, foundation_dependency text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_invalidate_dependents_wrapper';
COMMENT ON FUNCTION @extschema@.cache_invalidate_dependents(uuid, text) IS
    'Removes a user''s entries that were made from the given foundation; returns how many';

CREATE FUNCTION @extschema@.cache_invalidate_content_type_for_all_users(content_type text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_invalidate_content_type_for_all_users_wrapper';
COMMENT ON FUNCTION @extschema@.cache_invalidate_content_type_for_all_users(text) IS
    'Removes every user''s entries of one content type, when a prompt template or a model has changed; returns how many';

CREATE FUNCTION @extschema@.cache_forget_user(user_id uuid)
    RETURNS TABLE (entries_deleted bigint, audit_rows_deleted bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_forget_user_wrapper';
COMMENT ON FUNCTION @extschema@.cache_forget_user(uuid) IS
    'Erases a user: every entry, every audit row, archived ones too. Leaves no trace, not even of the erasure';

-- == partitions ==
CREATE FUNCTION @extschema@.create_monthly_cache_partition(target_date timestamp) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'create_monthly_cache_partition_wrapper';
COMMENT ON FUNCTION @extschema@.create_monthly_cache_partition(timestamp) IS
    'Makes sure that the month of a date has its partition; returns the partition''s name';

-- SECURITY DEFINER: a tenant's first write of a month must not fail because the partition is missing. The function takes
-- no argument and can only create the partition of the current month.
CREATE FUNCTION @extschema@.cache_create_current_partition() RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_create_current_partition_wrapper';
COMMENT ON FUNCTION @extschema@.cache_create_current_partition() IS
    'Makes sure that the current month has its partition; open to tenants, for clients that insert into the table themselves';

CREATE FUNCTION @extschema@.drop_old_cache_partitions(months_to_keep integer DEFAULT 6, include_live boolean DEFAULT false)
    RETURNS TABLE (partition_name text, dropped boolean, live_entries bigint, freed_bytes bigint, detail text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'drop_old_cache_partitions_wrapper';
COMMENT ON FUNCTION @extschema@.drop_old_cache_partitions(integer, boolean) IS
    'Drops the partitions of months before the last months_to_keep (the current one included). One that still holds live entries is kept unless include_live';

CREATE FUNCTION @extschema@.check_partition_health()
    RETURNS TABLE (partition_name text, ok boolean, detail text, hint text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 20 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_report';
COMMENT ON FUNCTION @extschema@.check_partition_health() IS
    'Checks each partition for its entry index, row security, grants, size, and a gap after it; and whether the current month and the next have one';

-- == maintenance ==
CREATE FUNCTION @extschema@.cleanup_expired_cache_entries_production()
    RETURNS TABLE (deleted_count bigint, freed_space_mb numeric, cleanup_duration_ms numeric, partition_cleaned text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cleanup_expired_cache_entries_production_wrapper';
COMMENT ON FUNCTION @extschema@.cleanup_expired_cache_entries_production() IS
    'Deletes expired entries in bounded batches; a row for each partition in which there were any, or one row of zeros';

CREATE FUNCTION @extschema@.cache_run_maintenance()
    RETURNS TABLE (step text, status text, affected bigint, duration_ms numeric, detail text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_run_maintenance_wrapper';
COMMENT ON FUNCTION @extschema@.cache_run_maintenance() IS
    'Runs every step of maintenance and returns a row for each: partitions ahead, expiry, limits, audit retention, ANALYZE, drop of dead months, and more';

-- == operate ==
CREATE FUNCTION @extschema@.cache_setup() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_setup_wrapper';
COMMENT ON FUNCTION @extschema@.cache_setup() IS
    'Creates what is missing of tables, indexes, policies and partitions; adopts what exists. CREATE EXTENSION calls it';

CREATE FUNCTION @extschema@.cache_grant_tenant(role text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_grant_tenant_wrapper';
COMMENT ON FUNCTION @extschema@.cache_grant_tenant(text) IS
    'Lets a role use the cache as a tenant: the entries of the user in its claims and no others';

CREATE FUNCTION @extschema@.cache_grant_service(role text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_grant_service_wrapper';
COMMENT ON FUNCTION @extschema@.cache_grant_service(text) IS
    'Lets a role use and watch the cache for every user: all entries, the audit log, metrics and cleanup';

CREATE FUNCTION @extschema@.cache_grant_monitor(role text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE STRICT SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_grant_monitor_wrapper';
COMMENT ON FUNCTION @extschema@.cache_grant_monitor(text) IS
    'Lets a role watch the cache: every metric, alert, check and statistic, and nothing of what is cached';

CREATE FUNCTION @extschema@.verify_production_cache()
    RETURNS TABLE (name text, ok boolean, detail text, hint text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 20 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_verify';
COMMENT ON FUNCTION @extschema@.verify_production_cache() IS
    'A row for each check of the installation, with what to do about those that are not ok';

CREATE FUNCTION @extschema@.archive_audit_logs(older_than interval DEFAULT '90 days')
    RETURNS TABLE (archived_partition text, audit_rows bigint, bytes bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'archive_audit_logs_wrapper';
COMMENT ON FUNCTION @extschema@.archive_audit_logs(interval) IS
    'Moves the months of the audit log that ended longer ago than older_than to cache_audit_archive, where retention leaves them alone';

CREATE FUNCTION @extschema@.get_infinite_pages_analytics(user_id uuid) RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'get_infinite_pages_analytics_wrapper';
COMMENT ON FUNCTION @extschema@.get_infinite_pages_analytics(uuid) IS
    'What the cache holds for a user and what it saved, in total and by content type';

CREATE FUNCTION @extschema@.cache_refresh_candidates(within interval DEFAULT '1 day', max_results integer DEFAULT 100)
    RETURNS TABLE (user_id uuid, content_type text, cache_key text, expires_at timestamptz, hit_count bigint,
                   token_cost numeric, worth numeric, prompt_template text, prompt_variables jsonb, metadata jsonb)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_refresh_candidates';
COMMENT ON FUNCTION @extschema@.cache_refresh_candidates(interval, integer) IS
    'Live entries that expire soon and have been hit, by what their hits have saved: what to generate before it is asked for';

-- == statistics ==
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

CREATE FUNCTION @extschema@.cache_pending_hits()
    RETURNS TABLE (user_id uuid, content_type text, entry_digest uuid, hits bigint, tokens_saved numeric,
                   last_accessed timestamptz)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_pending_hits';
COMMENT ON FUNCTION @extschema@.cache_pending_hits() IS
    'Hits that are counted in shared memory and not yet in their entry''s row; a tenant''s own only';

CREATE FUNCTION @extschema@.cache_pending_hits_by(per text)
    RETURNS TABLE (user_id uuid, content_type text, entry_digest uuid, hits bigint, tokens_saved numeric,
                   last_accessed timestamptz)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_pending_hits';
COMMENT ON FUNCTION @extschema@.cache_pending_hits_by(text) IS
    'Hits that are counted in shared memory and not yet in their entry''s row, summed up per user or content_type, or per entry; a tenant''s own only';

CREATE FUNCTION @extschema@.cache_latency_ms(buckets double precision[], share double precision) RETURNS numeric
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'cache_latency_ms_wrapper';
COMMENT ON FUNCTION @extschema@.cache_latency_ms(double precision[], double precision) IS
    'Latency in milliseconds that a share of calls (0.95: the 95th percentile) did not exceed, from the buckets of lookup_us or upsert_us';

CREATE FUNCTION @extschema@.cache_flush_statistics()
    RETURNS TABLE (entries_updated bigint, entries_locked bigint, content_types bigint, audit_rows bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'cache_flush_statistics_wrapper';
COMMENT ON FUNCTION @extschema@.cache_flush_statistics() IS
    'Stores what is counted in shared memory: hits in their entries, counters in cache_statistics_hourly, audited lookups in cache_audit_log. The worker does it at each of its ticks';
