-- The entries of a large cache, counted by maintenance, so that reports need not read all of them. Empty while the cache
-- is small.
CREATE TABLE @extschema@.cache_entry_summary (
    partition_name text,
    content_type text,
    entries bigint NOT NULL,
    expired_entries bigint NOT NULL,
    high_priority_entries bigint NOT NULL,
    hits numeric NOT NULL,
    tokens_saved numeric NOT NULL,
    last_activity timestamptz,
    measured_at timestamptz NOT NULL,
    PRIMARY KEY (partition_name, content_type)
) WITH (fillfactor = 50);
COMMENT ON TABLE @extschema@.cache_entry_summary IS
    'Entries of each partition and content type at measured_at, for the reports of a large cache; hits are kept up to date';
COMMENT ON COLUMN @extschema@.cache_entry_summary.partition_name IS 'Partition that the entries are in';
COMMENT ON COLUMN @extschema@.cache_entry_summary.content_type IS 'Type of the entries';
COMMENT ON COLUMN @extschema@.cache_entry_summary.entries IS 'How many there are';
COMMENT ON COLUMN @extschema@.cache_entry_summary.expired_entries IS 'Those that are past their expiry and stale_ttl';
COMMENT ON COLUMN @extschema@.cache_entry_summary.high_priority_entries IS 'Those of priority_tier 1';
COMMENT ON COLUMN @extschema@.cache_entry_summary.hits IS 'Sum of their hits';
COMMENT ON COLUMN @extschema@.cache_entry_summary.tokens_saved IS 'What their hits have saved, in the application''s own unit';
COMMENT ON COLUMN @extschema@.cache_entry_summary.last_activity IS 'Newest of their creation and hits';
COMMENT ON COLUMN @extschema@.cache_entry_summary.measured_at IS 'When they were counted';
