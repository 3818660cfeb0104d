-- As cache_entry_summary, for each user.
CREATE TABLE @extschema@.cache_user_summary (
    user_id uuid PRIMARY KEY,
    entries bigint NOT NULL,
    content_types bigint NOT NULL,
    hits numeric NOT NULL,
    tokens_saved numeric NOT NULL,
    avg_reuse_score numeric,
    last_accessed timestamptz,
    measured_at timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE @extschema@.cache_user_summary IS
    'Entries of each user at measured_at, for the reports of a large cache; hits are kept up to date';
COMMENT ON COLUMN @extschema@.cache_user_summary.user_id IS 'User whose entries they are';
COMMENT ON COLUMN @extschema@.cache_user_summary.entries IS 'How many there are';
COMMENT ON COLUMN @extschema@.cache_user_summary.content_types IS 'How many types of content they are of';
COMMENT ON COLUMN @extschema@.cache_user_summary.hits IS 'Sum of their hits';
COMMENT ON COLUMN @extschema@.cache_user_summary.tokens_saved IS 'What their hits have saved, in the application''s own unit';
COMMENT ON COLUMN @extschema@.cache_user_summary.avg_reuse_score IS 'Mean of their reuse_score';
COMMENT ON COLUMN @extschema@.cache_user_summary.last_accessed IS 'Newest last_accessed of theirs';
COMMENT ON COLUMN @extschema@.cache_user_summary.measured_at IS 'When they were counted';
