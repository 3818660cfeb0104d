-- Cached answers, a partition for each month. The primary key serves clients that address an entry by its id; it contains
-- user_id so that the table can be distributed by user. Lookups use the entry index, which each partition has of its own
-- because a unique index on this table would have to contain created_at.
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

-- Serves cleanup where entries are kept after their expiry: each content type has a range of its own, so that what is kept is
-- not read. The expression keeps the planner from the index above, which has the same order, and reads what is kept.
CREATE INDEX ON @extschema@.infinite_pages_cache_partitioned (content_type, (expires_at AT TIME ZONE 'UTC'));

-- Serves the search by metadata, in cache_search() and in clients' statements: WHERE user_id = ... AND content_type = ...
-- AND metadata @> ... ORDER BY reuse_score DESC, created_at DESC LIMIT n. Under row security no index can serve
-- metadata @> ..., which is not leakproof. So this index finds the rows of one user and type, which are then filtered and
-- sorted. It also serves cache_invalidate_content_type().
CREATE INDEX ON @extschema@.infinite_pages_cache_partitioned (user_id, content_type);

-- Metadata stays in the row, so that a search in it does not visit the TOAST table.
ALTER TABLE @extschema@.infinite_pages_cache_partitioned ALTER COLUMN metadata SET STORAGE MAIN;

COMMENT ON TABLE @extschema@.infinite_pages_cache_partitioned IS
    'Cached answers of infinite_pages_cache, a partition for each month of created_at (UTC)';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.id IS 'Stays the same when the entry is replaced';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.cache_key IS
    'What the entry is found by, with user and content type: any text up to 1 kB, such as cache_key() makes of a request';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.content IS 'The answer';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.content_type IS
    'Kind of content: its content policy is the row of this name in cache_content_policies, or else the row *';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.user_id IS 'User whose entry it is; row security shows it to no other tenant';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.story_id IS 'Story that it belongs to, if any';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.metadata IS 'What cache_search() and cache_invalidate_where() look into';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.foundation_dependency IS
    'Key of the foundation that the entry was made from; cache_invalidate_dependents() finds it by this key';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.prompt_template IS 'Prompt that the answer was generated from';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.prompt_variables IS 'Values that were put into the prompt';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.semantic_similarity_hash IS
    'Reserved for lookups by similarity, which this version does not have; stored as given';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.reuse_score IS
    'How well it can be used again, 0 to 10: cache_search() has the best first';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.created_at IS
    'When this version was stored: decides which partition it is in, and which of several versions is the newest';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.expires_at IS
    'From then on it is not found, and maintenance may delete it; infinity = never';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.hit_count IS
    'Hits that are stored; cache_pending_hits() has those that are not yet';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.adaptation_count IS
    'Kept for the application: how often the answer was adapted';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.token_cost_saved IS 'What its hits have saved, in whole units of token_cost';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.last_accessed IS 'Last hit that is stored, or when the entry was stored';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.access_frequency IS 'Kept for the application';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.priority_tier IS
    '1 = high ... 3 = low: the order in which entries are kept when a user has too many';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.compression_applied IS
    'Reserved, without effect: PostgreSQL compresses content by itself';
COMMENT ON COLUMN @extschema@.infinite_pages_cache_partitioned.token_cost IS
    'What generating the answer cost, in the application''s own unit, to a millionth';
