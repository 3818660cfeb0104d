-- The same for each user.
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
