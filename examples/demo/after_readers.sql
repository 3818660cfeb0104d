-- What has become of the readers, and two more scenes of leases.
\set QUIET on
\pset footer off
\pset null '(null)'
SELECT id AS ilse FROM app.users WHERE name = 'ilse' \gset
\set ECHO queries
\echo
SELECT state, count(*) AS readers, count(*) FILTER (WHERE has_lease) AS paid_for_it, max(chapter) AS chapter,
       round(max(seconds), 1) AS seconds
FROM app.readers GROUP BY state ORDER BY state;

\echo
\echo '── 14. The foundation is edited while a chapter is being written ──────────────────────────'
\echo 'Ilse\'s application is told to generate chapter 3, and the model begins.'
\echo
SELECT state, lease FROM cache_fetch(:'ilse', 'chapter_content', 'greenhouse-nine, chapter 3', foundation_dependency => 'greenhouse-nine') \gset
\echo 'The state is:' :state
\echo
\echo 'Meanwhile she edits the foundation.'
\echo
SELECT cache_invalidate_dependents(:'ilse', 'greenhouse-nine') AS removed;
\echo 'What the model has written was made from the old one. It is not stored.'
\echo
SET client_min_messages = notice;
SELECT cache_upsert(:'ilse', 'chapter_content', 'greenhouse-nine, chapter 3', '{"title": "Made from what she has deleted"}',
                    foundation_dependency => 'greenhouse-nine', lease => :'lease') AS id;
RESET client_min_messages;
SELECT cache_lookup(:'ilse', 'chapter_content', 'greenhouse-nine, chapter 3') AS chapter_3;

\echo
\echo '── 15. An expired chapter is served while it is written anew ──────────────────────────────'
\echo
UPDATE cache_content_policies SET stale_ttl = '1 hour' WHERE content_type = 'chapter_content';
\echo 'Sessions follow a change of the policies within a minute, new ones at once.'
\echo
\c
SELECT cache_upsert(:'ilse', 'chapter_content', 'greenhouse-nine, chapter 1', '{"title": "Glass"}', ttl => '1 second') IS NOT NULL AS stored;
SELECT pg_sleep(1.1) \g /dev/null
\echo 'One reader is chosen to have it written anew. All others are served the old one meanwhile.'
\echo
SELECT state, content ->> 'title' AS chapter, lease FROM cache_fetch(:'ilse', 'chapter_content', 'greenhouse-nine, chapter 1') \gset chosen_
\echo 'The first is told:' :chosen_state'. It serves:' :chosen_chapter
SELECT state, content ->> 'title' AS chapter, lease FROM cache_fetch(:'ilse', 'chapter_content', 'greenhouse-nine, chapter 1') \gset other_
\echo 'The second is told:' :other_state'. It serves:' :other_chapter
\echo
SELECT cache_upsert(:'ilse', 'chapter_content', 'greenhouse-nine, chapter 1', '{"title": "Glass, and What Grows Behind It"}', lease => :'chosen_lease') IS NOT NULL AS stored;
SELECT state, content ->> 'title' AS chapter FROM cache_fetch(:'ilse', 'chapter_content', 'greenhouse-nine, chapter 1');
\set ECHO none
-- For check.sql.
CREATE TABLE app.told AS SELECT :'chosen_state' AS chosen, :'chosen_chapter' AS chosen_chapter, :'other_state' AS other, :'other_chapter' AS other_chapter;
