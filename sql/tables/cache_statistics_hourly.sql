-- What was counted in each hour (UTC) for each type of content: the history behind ratios and quantiles.
CREATE TABLE @extschema@.cache_statistics_hourly (
    hour timestamptz,
    content_type text,
    hits bigint NOT NULL DEFAULT 0,
    misses bigint NOT NULL DEFAULT 0,
    stale bigint NOT NULL DEFAULT 0,
    upserts bigint NOT NULL DEFAULT 0,
    invalidations bigint NOT NULL DEFAULT 0,
    expirations bigint NOT NULL DEFAULT 0,
    tokens_spent numeric NOT NULL DEFAULT 0,
    tokens_saved numeric NOT NULL DEFAULT 0,
    untracked_hits bigint NOT NULL DEFAULT 0,
    audit_lost bigint NOT NULL DEFAULT 0,
    lookup_us bigint[] NOT NULL DEFAULT '{}',
    upsert_us bigint[] NOT NULL DEFAULT '{}',
    evictions bigint NOT NULL DEFAULT 0,
    leases_granted bigint NOT NULL DEFAULT 0,
    leases_denied bigint NOT NULL DEFAULT 0,
    leases_expired bigint NOT NULL DEFAULT 0,
    waits bigint NOT NULL DEFAULT 0,
    waits_hit bigint NOT NULL DEFAULT 0,
    stale_served bigint NOT NULL DEFAULT 0,
    refused_fills bigint NOT NULL DEFAULT 0,
    refused_by_gate bigint NOT NULL DEFAULT 0,
    failures bigint NOT NULL DEFAULT 0,
    generations bigint NOT NULL DEFAULT 0,
    generation_total_ms bigint NOT NULL DEFAULT 0,
    generation_ms bigint[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (hour, content_type)
) WITH (fillfactor = 70);
COMMENT ON TABLE @extschema@.cache_statistics_hourly IS
    'What was counted in each hour (UTC) for each content type; rows older than infinite_pages_cache.statistics_retention are deleted by maintenance';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.hour IS 'Beginning of the hour';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.content_type IS
    'Empty, which no type can be, for all types without counters of their own (infinite_pages_cache.max_tracked_content_types)';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.hits IS 'Lookups that found a live entry';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.misses IS 'Lookups that found none';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.stale IS 'Those of the misses that found an expired entry';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.upserts IS 'Entries stored';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.invalidations IS 'Entries removed by the functions that invalidate';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.expirations IS 'Expired entries deleted by maintenance';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.tokens_spent IS 'What generating the stored entries cost';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.tokens_saved IS 'What the hits have saved';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.untracked_hits IS
    'Hits that no entry was given, because shared memory was full (infinite_pages_cache.max_tracked_entries)';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.audit_lost IS
    'Audited lookups that gave way to newer ones (infinite_pages_cache.audit_buffer_size)';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.lookup_us IS 'How long calls took: buckets for cache_latency_ms()';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.upsert_us IS 'How long calls took: buckets for cache_latency_ms()';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.evictions IS
    'Live entries deleted by maintenance because their user had more than max_entries of their type';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.leases_granted IS
    'Leases granted by cache_fetch()';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.leases_denied IS
    'Leases that were not granted because there was no room (infinite_pages_cache.max_leases)';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.leases_expired IS
    'Leases whose time ended before an answer was stored (lease_ttl of the content policy)';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.waits IS
    'Fetches that waited for another''s generation';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.waits_hit IS
    'Those of the waits that ended in a hit';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.stale_served IS
    'Those of the hits that returned an expired entry without a lease, by stale_ttl of the content policy';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.refused_fills IS
    'Answers that were not stored because what they were made from was invalidated, or because their lease had ended';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.refused_by_gate IS
    'Answers that were not stored because accept_if of the content policy was not true of them';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.failures IS
    'Generations that their clients gave up as failed';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.generations IS
    'Answers that were stored with a lease';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.generation_total_ms IS
    'How long these took in all, in milliseconds, each at most a minute';
COMMENT ON COLUMN @extschema@.cache_statistics_hourly.generation_ms IS
    'How long these took, from the lease to the answer: buckets in milliseconds, of which cache_latency_ms() makes seconds';
