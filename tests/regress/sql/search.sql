-- A search looks into metadata, the best score first.
\set alice '''a11ce000-0000-4000-8000-000000000001'''

SELECT cardinality(cache_upsert_many('[
    {"user_id": "a11ce000-0000-4000-8000-000000000001", "content_type": "setting", "cache_key": "lisbon", "content": "trams",
     "metadata": {"genre": "noir", "tags": ["rain", "tram"]}, "reuse_score": 8.5},
    {"user_id": "a11ce000-0000-4000-8000-000000000001", "content_type": "setting", "cache_key": "porto", "content": "bridges",
     "metadata": {"genre": "noir", "tags": ["rain"]}, "reuse_score": 9},
    {"user_id": "a11ce000-0000-4000-8000-000000000001", "content_type": "setting", "cache_key": "evora", "content": "walls",
     "metadata": {"genre": "pastoral"}, "reuse_score": 10},
    {"user_id": "a11ce000-0000-4000-8000-000000000001", "content_type": "tone", "cache_key": "lisbon", "content": "dry",
     "metadata": {"genre": "noir"}, "reuse_score": 10}]'));

SELECT cache_key, reuse_score, content, metadata FROM cache_search(:alice, 'setting', '{"genre": "noir"}');
SELECT cache_key FROM cache_search(:alice, 'setting', '{"tags": ["rain", "tram"]}');
SELECT cache_key FROM cache_search(:alice, 'setting', max_results => 2);
SELECT cache_key FROM cache_search(:alice, 'setting', '{"genre": "western"}');
SELECT cache_key FROM cache_search('b0b00000-0000-4000-8000-000000000002', 'setting');

-- What has expired is not found.
UPDATE infinite_pages_cache_partitioned SET expires_at = now() WHERE cache_key = 'porto' AND user_id = :alice;
SELECT cache_key FROM cache_search(:alice, 'setting', '{"genre": "noir"}');

SELECT entries_deleted >= 3 AS erased FROM cache_forget_user(:alice);
