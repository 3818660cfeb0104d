-- Entries are stored, found, replaced, touched and removed.
\set alice '''a11ce000-0000-4000-8000-000000000001'''
\set bob '''b0b00000-0000-4000-8000-000000000002'''

-- A key is the SHA-256 of the request's canonical JSON: neither order nor notation counts.
SELECT cache_key('{"model": "large", "temperature": 0.70, "prompt": "A noir story in Lisbon"}');
SELECT cache_key('{"prompt":"A noir story in Lisbon","temperature":7e-1,"model":"large"}');
SELECT cache_entry_digest('story_foundation', 'noir-in-lisbon');

-- A miss is NULL.
SELECT cache_lookup(:alice, 'story_foundation', 'noir-in-lisbon');

-- What is not given comes from the content policy.
SELECT cache_upsert(:alice, 'story_foundation', 'noir-in-lisbon', '{"title": "The Tram at Night"}') AS id \gset
SELECT cache_lookup(:alice, 'story_foundation', 'noir-in-lisbon');
SELECT id = :'id' AS same_id, content, metadata, expires_at - created_at AS ttl, token_cost, priority_tier, story_id, foundation_dependency
FROM cache_get(:alice, 'story_foundation', 'noir-in-lisbon');

-- What is given counts. A new version keeps the id.
SELECT cache_upsert(:alice, 'story_foundation', 'noir-in-lisbon', '{"title": "The Last Tram"}', ttl => '3 days', token_cost => 0.0123,
                    metadata => '{"genre": "noir"}', foundation_dependency => 'lisbon', priority_tier => 1) = :'id' AS same_id;
SELECT content, metadata, expires_at - created_at AS ttl, token_cost, priority_tier, foundation_dependency
FROM cache_get(:alice, 'story_foundation', 'noir-in-lisbon');

-- Entries of another user, type or key are others.
SELECT cache_lookup(:bob, 'story_foundation', 'noir-in-lisbon') AS of_bob,
       cache_lookup(:alice, 'tone', 'noir-in-lisbon') AS of_another_type,
       cache_lookup(:alice, 'story_foundation', 'noir in lisbon') AS of_another_key;

-- Many at once: all or none is stored, and each key of a lookup has a row, in its order.
SELECT cardinality(cache_upsert_many('[
    {"user_id": "a11ce000-0000-4000-8000-000000000001", "content_type": "tone", "cache_key": "noir", "content": "wet", "ttl": 3600},
    {"user_id": "a11ce000-0000-4000-8000-000000000001", "content_type": "tone", "cache_key": "noir", "content": "dry", "ttl": "infinity"},
    {"user_id": "a11ce000-0000-4000-8000-000000000001", "content_type": "tone", "cache_key": "nothing", "content": null}]'));
SELECT * FROM cache_lookup_many(:alice, 'tone', ARRAY['western', 'noir', 'nothing']);
SELECT expires_at FROM cache_get(:alice, 'tone', 'noir');

-- An entry that has expired is not found, whether or not it has been deleted. A touch does not bring it back.
SELECT cache_touch(:alice, 'story_foundation', 'noir-in-lisbon', '60 days') > now() + interval '59 days' AS lives_longer;
UPDATE infinite_pages_cache_partitioned SET expires_at = now() WHERE id = :'id';
SELECT cache_lookup(:alice, 'story_foundation', 'noir-in-lisbon');
SELECT cache_touch(:alice, 'story_foundation', 'noir-in-lisbon');

-- The way of a statement finds what the way of the index does.
SET enable_indexscan = off;
SELECT * FROM cache_lookup_many(:alice, 'tone', ARRAY['western', 'noir', 'nothing']);
RESET enable_indexscan;

-- Each tells how many entries it has removed.
SELECT cache_upsert(:alice, 'themes', 'guilt', '"rain"', metadata => '{"genre": "noir", "tags": ["a", "b"]}') IS NOT NULL,
       cache_upsert(:alice, 'themes', 'hope', '"sun"', metadata => '{"genre": "pastoral"}', foundation_dependency => 'lisbon') IS NOT NULL;
SELECT cache_invalidate(:alice, 'tone', 'noir'), cache_invalidate(:alice, 'tone', 'noir') AS again;
SELECT cache_invalidate_content_type(:alice, 'tone');
SELECT cache_invalidate_where(:alice, '{"tags": ["b"]}');
SELECT cache_invalidate_dependents(:alice, 'lisbon') >= 1 AS removed;
SELECT count(*) FROM infinite_pages_cache_partitioned WHERE user_id = :alice AND expires_at > now();

-- Switched off, the cache misses and stores nothing.
SELECT cache_upsert(:alice, 'tone', 'noir', '"dry"') IS NOT NULL AS stored;
SET infinite_pages_cache.enabled = off;
SELECT cache_lookup(:alice, 'tone', 'noir'), cache_upsert(:alice, 'tone', 'other', '"wet"');
RESET infinite_pages_cache.enabled;
SELECT cache_lookup(:alice, 'tone', 'noir'), cache_lookup(:alice, 'tone', 'other') AS other;

-- A user is erased, every trace.
SELECT entries_deleted >= 1 AS erased FROM cache_forget_user(:alice);
SELECT count(*) FROM infinite_pages_cache_partitioned WHERE user_id = :alice;
