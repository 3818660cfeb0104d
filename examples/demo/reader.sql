-- One of the readers of section 13.
\set QUIET on
SELECT id AS ilse, clock_timestamp() AS began FROM app.users WHERE name = 'ilse' \gset

-- Whoever is told to generate gets a lease. All others sleep until the answer is committed.
SELECT state, state = 'generate' AS generate, lease, content ->> 'title' AS chapter
FROM cache_fetch(:'ilse', 'chapter_content', 'greenhouse-nine, chapter 2', wait => '8 seconds', foundation_dependency => 'greenhouse-nine') \gset
\if :generate
    SELECT pg_sleep(1) \g /dev/null
    SELECT cache_upsert(:'ilse', 'chapter_content', 'greenhouse-nine, chapter 2', '{"title": "The Night Watch of the Seedlings"}',
                        token_cost => 900, foundation_dependency => 'greenhouse-nine', lease => :'lease') \g /dev/null
    \set chapter 'The Night Watch of the Seedlings'
    INSERT INTO app.readers VALUES (:reader, :'state', true, :'chapter', extract(epoch FROM clock_timestamp() - :'began'));
\else
    INSERT INTO app.readers VALUES (:reader, :'state', false, :'chapter', extract(epoch FROM clock_timestamp() - :'began'));
\endif
