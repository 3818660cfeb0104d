-- A tenant reaches the entries of the user that it acts for; a service reaches all.
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_cache_tenant, regress_cache_service;
RESET client_min_messages;
CREATE ROLE regress_cache_tenant;
CREATE ROLE regress_cache_service;
\set alice '''a11ce000-0000-4000-8000-000000000001'''
\set bob '''b0b00000-0000-4000-8000-000000000002'''

-- Without a grant PostgreSQL refuses, and the HINT names the grant.
SET ROLE regress_cache_tenant;
SELECT cache_lookup(:alice, 'tone', 'noir');
RESET ROLE;
SELECT cache_grant_tenant('regress_cache_tenant');
SELECT cache_grant_service('regress_cache_service');
SELECT cache_upsert(:alice, 'tone', 'noir', '"of Alice"') IS NOT NULL AS alice, cache_upsert(:bob, 'tone', 'noir', '"of Bob"') IS NOT NULL AS bob;

-- Nobody's session sees nothing.
SET ROLE regress_cache_tenant;
SELECT cache_current_user_id(), cache_lookup(:alice, 'tone', 'noir'), (SELECT count(*) FROM infinite_pages_cache_partitioned);

-- A session sees what is the user's, by functions, in the table and in views.
BEGIN;
SET LOCAL infinite_pages_cache.user_id = 'a11ce000-0000-4000-8000-000000000001';
SELECT cache_current_user_id();
SELECT cache_lookup(:alice, 'tone', 'noir') AS alice, cache_lookup(:bob, 'tone', 'noir') AS bob;
SELECT user_id, content FROM infinite_pages_cache_partitioned;
SELECT user_id FROM user_cache_analytics;
SELECT cache_touch(:bob, 'tone', 'noir'), cache_invalidate(:bob, 'tone', 'noir');
COMMIT;

-- Claims count before the setting, and malformed ones are nobody's.
BEGIN;
SET LOCAL infinite_pages_cache.user_id = 'a11ce000-0000-4000-8000-000000000001';
SET LOCAL request.jwt.claims = '{"sub": "b0b00000-0000-4000-8000-000000000002", "role": "regress_cache_tenant"}';
SELECT cache_lookup(:alice, 'tone', 'noir') AS alice, cache_lookup(:bob, 'tone', 'noir') AS bob;
SET LOCAL request.jwt.claims = '{"sub": "Bob"}';
SELECT cache_current_user_id(), cache_lookup(:bob, 'tone', 'noir') AS bob;
ROLLBACK;

-- To write for another user is an error, by a function and in the table.
SET infinite_pages_cache.user_id = 'a11ce000-0000-4000-8000-000000000001';
SELECT cache_upsert(:bob, 'tone', 'noir', '"of Mallory"');
INSERT INTO infinite_pages_cache_partitioned (user_id, content_type, cache_key, content) VALUES (:bob, 'tone', 'western', '"of Mallory"');
UPDATE infinite_pages_cache_partitioned SET user_id = :bob;
RESET infinite_pages_cache.user_id;

-- A service acts for every user.
SET ROLE regress_cache_service;
SELECT cache_lookup(:alice, 'tone', 'noir') AS alice, cache_lookup(:bob, 'tone', 'noir') AS bob;
SELECT user_id, content FROM infinite_pages_cache_partitioned WHERE content_type = 'tone' AND cache_key = 'noir' ORDER BY user_id;
SELECT cache_invalidate(:bob, 'tone', 'noir');
RESET ROLE;

SELECT cache_invalidate(:alice, 'tone', 'noir');
DROP OWNED BY regress_cache_tenant, regress_cache_service;
DROP ROLE regress_cache_tenant, regress_cache_service;
