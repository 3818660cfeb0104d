-- The day, section by section. Each statement is shown as it is sent, then what the server answered.
\set QUIET on
\pset footer off
\pset null '(null)'
SELECT max(id::text) FILTER (WHERE name = 'nadia') AS nadia,
       max(id::text) FILTER (WHERE name = 'tomas') AS tomas,
       max(id::text) FILTER (WHERE name = 'ilse') AS ilse FROM app.users \gset
\set ECHO queries

\echo
\echo '── 1. A request that nobody has made before ───────────────────────────────────────────────'
\echo 'Ilse asks for the foundation of a children\'s book. The whole request makes the key.'
\echo
SELECT cache_key(request) AS key, request ->> 'model' AS model, left(request ->> 'prompt', 60) || '…' AS prompt
FROM app.texts WHERE name = 'greenhouse-nine/story_foundation';
\set ECHO none
SELECT app.key('greenhouse-nine/story_foundation') AS key \gset
\set ECHO queries
\echo 'It is looked up. NULL is a miss, so the application asks its language model, and stores the answer.'
\echo
SELECT cache_lookup(:'ilse', 'story_foundation', :'key');
SELECT cache_upsert(:'ilse', 'story_foundation', :'key', answer, token_cost => tokens,
                    metadata => '{"story": "greenhouse-nine"}') AS id
FROM app.texts WHERE name = 'greenhouse-nine/story_foundation';
\echo 'From now on the same request is a hit.'
\echo
SELECT left(cache_lookup(:'ilse', 'story_foundation', :'key') ->> 'text', 80) || '…' AS text;
SELECT token_cost, metadata, date_trunc('hour', expires_at - created_at) AS time_to_live
FROM cache_get(:'ilse', 'story_foundation', :'key');

\echo
\echo '── 2. The morning: everything is new ──────────────────────────────────────────────────────'
\echo 'Three authors work. What the application does with a request stands in app.sql: look up; on a'
\echo 'miss generate and store. Only the last of these requests has been made before.'
\echo
CREATE TABLE app.counted AS SELECT sum(hits) AS hits, sum(misses) AS misses FROM cache_statistics();
CALL app.work('08:00', '10:00');
SELECT to_char(at, 'HH24:MI') AS at, who, content_type, title, CASE WHEN hit THEN 'hit' ELSE 'miss' END AS cache, tokens
FROM app.log ORDER BY id;

\echo
\echo '── 3. The day: they come back to what they have ───────────────────────────────────────────'
\echo
CALL app.work('10:00', '22:00');
SELECT to_char(at, 'HH24') || ' h' AS hour, count(*) AS requests,
       count(*) FILTER (WHERE NOT hit) AS misses, count(*) FILTER (WHERE hit) AS hits,
       coalesce(sum(tokens) FILTER (WHERE NOT hit), 0) AS tokens_paid,
       coalesce(sum(tokens) FILTER (WHERE hit), 0) AS tokens_saved,
       round(max(lookup_ms), 2) AS slowest_lookup_ms
FROM app.log GROUP BY 1 ORDER BY 1;
INSERT INTO app.counted SELECT sum(hits), sum(misses) FROM cache_statistics();
\echo 'The cache has counted the same, in memory, without a write:'
\echo
SELECT max(hits) - min(hits) AS hits, max(misses) - min(misses) AS misses FROM app.counted;

\echo
\echo '── 4. A better version takes the place of the old one ─────────────────────────────────────'
\echo 'Tomas has the tone written again. There is still one entry, and it holds the new text.'
\echo
SELECT cache_upsert(:'tomas', 'tone', app.key('public-clocks/tone'), token_cost => 260,
                    content => '{"title": "Tone", "text": "As before. And no pigeon after page three."}') AS id;
SELECT count(*) AS entries, max(content ->> 'text') AS text
FROM infinite_pages_cache_partitioned
WHERE user_id = :'tomas' AND content_type = 'tone' AND cache_key = app.key('public-clocks/tone');

\echo
\echo '── 5. Nothing is served past its time ─────────────────────────────────────────────────────'
\echo 'A preview for Ilse lives one second. After that it is a miss, although its row is still there.'
\echo
SELECT cache_upsert(:'ilse', 'export_txt', 'preview', '"Chapter one, as plain text"', ttl => '1 second') AS id;
SELECT cache_lookup(:'ilse', 'export_txt', 'preview') AS at_once;
SELECT pg_sleep(1.1) \g /dev/null
\echo
SELECT cache_lookup(:'ilse', 'export_txt', 'preview') AS after_a_second,
       (SELECT count(*) FROM infinite_pages_cache_partitioned WHERE cache_key = 'preview') AS rows_left;

\echo
\echo '── 6. Each author sees only their own entries ─────────────────────────────────────────────'
\echo 'Over the web, requests run in a tenant\'s role, with the user in the claims of the token.'
\echo
SELECT cache_grant_tenant('authenticated');
\echo 'Tomas counts his entries. He cannot see Nadia\'s foundation.'
\echo
\set ECHO none
SELECT app.key('flat-water/story_foundation') AS foundation \gset
\set ECHO queries
BEGIN;
SET LOCAL ROLE authenticated;
SELECT set_config('request.jwt.claims', json_build_object('sub', :'tomas')::text, true) AS claims;
SELECT count(*) AS entries, count(DISTINCT user_id) AS users FROM infinite_pages_cache_partitioned;
SELECT cache_lookup(:'nadia', 'story_foundation', :'foundation') AS of_nadia;
\echo 'Nor may he write in her name:'
\echo
\set ON_ERROR_STOP off
SELECT cache_upsert(:'nadia', 'story_foundation', :'foundation', '"Tomas was here"');
\set ON_ERROR_STOP on
ROLLBACK;

\echo
\echo '── 7. What the operator sees ──────────────────────────────────────────────────────────────'
\echo
SELECT content_type, total_entries, lookups, cache_hits, hit_rate_percentage, p50_ms, p99_ms, tokens_saved, cost_saved_percentage
FROM cache_performance_metrics ORDER BY tokens_saved DESC NULLS LAST;
SELECT u.name, a.total_cache_entries, a.content_types_used, a.total_cache_hits, a.total_tokens_saved, a.avg_hits_per_entry
FROM user_cache_analytics a JOIN app.users u ON u.id = a.user_id ORDER BY a.total_tokens_saved DESC;
SELECT partition_name, size, live_entries, expired_entries, months_ahead FROM partition_health_metrics;

\echo
\echo '── 8. The foundation changes, and what was built on it goes ───────────────────────────────'
\echo 'Late in the evening Nadia makes the man on the ferry a brother. Chapters written for a stranger'
\echo 'must not be served again.'
\echo
SELECT cache_invalidate_dependents(:'nadia', 'flat-water') AS removed;
CALL app.work('22:00', '24:00');
SELECT to_char(at, 'HH24:MI') AS at, who, content_type, title, CASE WHEN hit THEN 'hit' ELSE 'miss' END AS cache, tokens
FROM app.log WHERE at >= '22:00' ORDER BY id;

\echo
\echo '── 9. Cleanup ─────────────────────────────────────────────────────────────────────────────'
\echo 'The row of the preview, which expired in section 5, is deleted.'
\echo
SELECT * FROM cleanup_expired_cache_entries_production();

\echo
\echo '── 10. What it saved ──────────────────────────────────────────────────────────────────────'
\echo 'By the application\'s own log of the day; a token is taken as four characters.'
\echo
SELECT count(*) AS requests, count(*) FILTER (WHERE hit) AS hits,
       round(100.0 * count(*) FILTER (WHERE hit) / count(*), 1) AS hit_percent,
       sum(tokens) AS tokens_without_cache, sum(tokens) FILTER (WHERE NOT hit) AS tokens_paid,
       round(100.0 * sum(tokens) FILTER (WHERE hit) / sum(tokens), 1) AS saved_percent
FROM app.log;
SELECT who, count(*) FILTER (WHERE hit) || ' of ' || count(*) AS hits, sum(tokens) FILTER (WHERE hit) AS tokens_saved,
       round((percentile_cont(0.5) WITHIN GROUP (ORDER BY lookup_ms))::numeric, 3) AS median_lookup_ms
FROM app.log GROUP BY who ORDER BY tokens_saved DESC;

\echo
\echo '── 11. What would raise an alarm ──────────────────────────────────────────────────────────'
\echo
SELECT severity, rule, value, threshold, firing FROM cache_alerts;

\echo
\echo '── 12. Who looks after it ─────────────────────────────────────────────────────────────────'
\echo 'A worker of the server does, each 30 seconds. (It leaves out the cleanup that section 9 has shown.)'
\echo
SELECT worker, next_run, consecutive_failures, months_ahead FROM cache_maintenance_status;
