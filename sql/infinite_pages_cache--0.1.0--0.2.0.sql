-- From 0.1.0 to 0.2.0. The tables, which are no members of the extension, cache_setup() brings to the shape of this
-- version, also after the restore of an old dump.
ALTER FUNCTION @extschema@.cache_entry_digest(text, text) COST 100;

CREATE FUNCTION @extschema@.cache_search(user_id uuid, content_type text, metadata jsonb, max_results integer DEFAULT 10)
    RETURNS TABLE (id uuid, cache_key text, content jsonb, metadata jsonb, reuse_score numeric,
                   created_at timestamptz, expires_at timestamptz, age interval, token_cost numeric,
                   priority_tier integer, story_id uuid, foundation_dependency text)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 10 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_search';
COMMENT ON FUNCTION @extschema@.cache_search(uuid, text, jsonb, integer) IS
    'A user''s live entries of a content type whose metadata contains the given object, by reuse_score and then the newest first. Writes nothing';

CREATE FUNCTION @extschema@.cache_pending_hits_by(per text)
    RETURNS TABLE (user_id uuid, content_type text, entry_digest uuid, hits bigint, tokens_saved numeric,
                   last_accessed timestamptz)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'infinite_pages_cache_pending_hits';
COMMENT ON FUNCTION @extschema@.cache_pending_hits_by(text) IS
    'Hits that are counted in shared memory and not yet in their entry''s row, summed up per user or content_type, or per entry; a tenant''s own only';

COMMENT ON VIEW @extschema@.cache_maintenance_status IS
    'What the background worker does in this database, or why it does nothing: when it ran last and runs next, failures, months ahead, the oldest entry that has expired and is still there. What is not ready, verify_production_cache() names. last_success: the last run in which no step failed, or waited to be tried again; after a restart, until the first tick, the last that cache_maintenance_log knows of';

SELECT @extschema@.cache_setup();
