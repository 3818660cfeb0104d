-- The entries of a large cache, counted by maintenance, so that reports need not read them all. Empty while
-- the cache is small.
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
