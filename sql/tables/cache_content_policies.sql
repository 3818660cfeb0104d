-- What each content type costs and how long it lives, for operators to edit. The row '*' serves every type that has no row
-- of its own.
CREATE TABLE @extschema@.cache_content_policies (
    content_type text PRIMARY KEY CHECK (octet_length(content_type) BETWEEN 1 AND 255),
    ttl interval CHECK (ttl > interval '0'),
    stale_ttl interval NOT NULL DEFAULT '0' CHECK (stale_ttl >= interval '0'),
    token_cost numeric NOT NULL DEFAULT 1 CHECK (token_cost BETWEEN 0 AND 1e9),
    similarity_threshold numeric NOT NULL DEFAULT 0.75 CHECK (similarity_threshold BETWEEN 0 AND 1),
    max_entries integer CHECK (max_entries > 0),
    priority_tier integer NOT NULL DEFAULT 3 CHECK (priority_tier BETWEEN 1 AND 3),
    lease_ttl interval NOT NULL DEFAULT '2 minutes' CHECK (lease_ttl BETWEEN '1 second' AND '1 day'),
    accept_if jsonpath
);
COMMENT ON TABLE @extschema@.cache_content_policies IS
    'Defaults for each type of content; * is for all others';
COMMENT ON COLUMN @extschema@.cache_content_policies.content_type IS 'Type of content; * is for all that have no row of their own';
COMMENT ON COLUMN @extschema@.cache_content_policies.ttl IS 'Time to live of a new entry; NULL = for ever';
COMMENT ON COLUMN @extschema@.cache_content_policies.stale_ttl IS
    'How long after its expiry an entry is kept, and served by cache_fetch() while it is generated anew';
COMMENT ON COLUMN @extschema@.cache_content_policies.token_cost IS 'What generating one answer costs, in the application''s own unit';
COMMENT ON COLUMN @extschema@.cache_content_policies.similarity_threshold IS
    'Reserved for lookups by similarity, which this version does not have';
COMMENT ON COLUMN @extschema@.cache_content_policies.max_entries IS 'Most entries of this type that a user keeps; NULL = no limit';
COMMENT ON COLUMN @extschema@.cache_content_policies.priority_tier IS
    '1 = high ... 3 = low: the order in which entries are kept when a user has too many';
COMMENT ON COLUMN @extschema@.cache_content_policies.lease_ttl IS
    'How long one client may generate an answer before cache_fetch() asks another; cache_extend_lease() gives it more';
COMMENT ON COLUMN @extschema@.cache_content_policies.accept_if IS
    'Condition, as jsonpath with the fields of the metadata as variables, that an answer must meet to be stored; NULL = none';

INSERT INTO @extschema@.cache_content_policies (content_type, ttl, token_cost, similarity_threshold, max_entries) VALUES
    ('*', '7 days', 1, 0.75, NULL),
    ('story_foundation', '30 days', 8, 0.75, 200),
    ('main_characters', '21 days', 2, 0.70, 1000),
    ('setting', '21 days', 1.5, 0.65, 400),
    ('plot_structure', '14 days', 2, 0.75, 300),
    ('themes', '30 days', 1, 0.60, 600),
    ('tone', '14 days', 0.5, 0.65, 200),
    ('target_audience', '30 days', 0.5, 0.80, 100),
    ('chapter_outline', '7 days', 2, 0.70, 400),
    ('chapter_content', '3 days', 5, 0.75, 1000),
    ('chapter_summary', '7 days', 1, 0.80, 500),
    ('key_events', '5 days', 0.5, 0.75, 300),
    ('character_development', '10 days', 1, 0.80, 400),
    ('foreshadowing', '3 days', 0.5, 0.70, 200),
    ('improvement_general', '2 days', 3, 0.85, 200),
    ('improvement_dialogue', '3 days', 2, 0.80, 200),
    ('improvement_description', '3 days', 2, 0.80, 200),
    ('improvement_pacing', '2 days', 2, 0.85, 200),
    ('improvement_character', '5 days', 2, 0.80, 200),
    ('improvement_plot', '2 days', 3, 0.85, 200),
    ('improvement_style', '7 days', 2, 0.75, 200),
    ('improvement_grammar', '1 days', 1, 0.90, 200),
    ('analysis_comprehensive', '5 days', 3, 0.75, 100),
    ('analysis_style', '10 days', 2, 0.80, 100),
    ('analysis_structure', '7 days', 2, 0.80, 100),
    ('analysis_quality', '3 days', 2, 0.75, 100),
    ('analysis_readability', '14 days', 1, 0.85, 100),
    ('analysis_genre', '21 days', 1, 0.70, 100),
    ('export_pdf', '14 days', 1, 0.95, 50),
    ('export_epub', '14 days', 1, 0.95, 50),
    ('export_docx', '14 days', 1, 0.95, 50),
    ('export_txt', '7 days', 0.5, 0.95, 50);
