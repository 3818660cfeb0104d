-- Cached answers, a partition a month. The primary key serves clients that address an entry by its id;
-- user_id stands in it so that the table can be distributed by user. Lookups go through the unique
-- digest index that each partition has of its own: a unique index here would have to hold created_at.
CREATE TABLE @extschema@.infinite_pages_cache_partitioned (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    cache_key text NOT NULL,
    content jsonb NOT NULL,
    content_type text NOT NULL CHECK (octet_length(content_type) BETWEEN 1 AND 255),
    user_id uuid NOT NULL,
    story_id uuid,
    metadata jsonb DEFAULT '{}',
    foundation_dependency text,
    prompt_template text,
    prompt_variables jsonb DEFAULT '{}',
    semantic_similarity_hash text,
    reuse_score numeric(3,1) DEFAULT 5.0 CHECK (reuse_score BETWEEN 0 AND 10),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL DEFAULT now() + interval '7 days',
    hit_count bigint NOT NULL DEFAULT 0 CHECK (hit_count >= 0),
    adaptation_count bigint NOT NULL DEFAULT 0 CHECK (adaptation_count >= 0),
    token_cost_saved bigint NOT NULL DEFAULT 0 CHECK (token_cost_saved >= 0),
    last_accessed timestamptz DEFAULT now(),
    access_frequency integer DEFAULT 1 CHECK (access_frequency >= 0),
    priority_tier integer NOT NULL DEFAULT 3 CHECK (priority_tier BETWEEN 1 AND 3),
    compression_applied boolean DEFAULT false,
    token_cost numeric(16,6) CHECK (token_cost BETWEEN 0 AND 1e9),
    PRIMARY KEY (id, user_id, created_at)
) PARTITION BY RANGE (created_at);

-- Serves cleanup, and the question whether anything in a partition is still live.
CREATE INDEX infinite_pages_cache_partitioned_expires_at_idx
    ON @extschema@.infinite_pages_cache_partitioned (expires_at);

-- Serves the search by metadata, as cache_search() and as clients write it: WHERE user_id = ... AND
-- content_type = ... AND metadata @> ... ORDER BY reuse_score DESC, created_at DESC LIMIT n. Under row
-- security no index can serve metadata @> ..., which is not leakproof, so this one leads to the rows of one
-- user and type, and the rest is filtered and sorted. It also serves cache_invalidate_content_type().
CREATE INDEX ON @extschema@.infinite_pages_cache_partitioned (user_id, content_type);

-- Metadata stays in the row, so that a search in it does not visit the TOAST table.
ALTER TABLE @extschema@.infinite_pages_cache_partitioned ALTER COLUMN metadata SET STORAGE MAIN;

COMMENT ON TABLE @extschema@.infinite_pages_cache_partitioned IS
    'Cached answers of infinite_pages_cache, a partition for each month of created_at (UTC)';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.token_cost IS
    'What generating the answer cost, in the application''s own unit, to a millionth';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.priority_tier IS
    '1 = high ... 3 = low: the order in which entries are kept when a user has too many';
