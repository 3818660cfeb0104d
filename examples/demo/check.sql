-- What the day has shown, checked: an error here means that the demo did not do what it said.
CREATE TEMP TABLE claims (claim text, holds boolean);

INSERT INTO claims
SELECT 'every first request was a miss, every repeated one a hit',
       count(*) = 57 AND bool_and(hit = repeated)
FROM (SELECT hit, row_number() OVER (PARTITION BY who, content_type, title, at >= '22:00' ORDER BY id) > 1 AS repeated
      FROM app.log) AS requests;

INSERT INTO claims
SELECT 'the cache counted what the application saw', c.hits = l.hits AND c.misses = l.misses
FROM (SELECT max(hits) - min(hits) AS hits, max(misses) - min(misses) AS misses FROM app.counted) c,
     (SELECT count(*) FILTER (WHERE hit) AS hits, count(*) FILTER (WHERE NOT hit) AS misses FROM app.log WHERE at < '22:00') l;

INSERT INTO claims
SELECT 'one entry for each user, content type and key', count(*) > 0 AND count(*) = count(DISTINCT (user_id, content_type, cache_key))
FROM infinite_pages_cache_partitioned;

INSERT INTO claims
SELECT 'the expired preview is gone', count(*) = 0
FROM infinite_pages_cache_partitioned WHERE cache_key = 'preview';

INSERT INTO claims
SELECT 'nothing of Flat Water was built on the old foundation', count(*) = 2
FROM infinite_pages_cache_partitioned WHERE foundation_dependency = 'flat-water';

INSERT INTO claims
SELECT 'every text came back as it was stored', count(*) > 0 AND bool_and(e.content = t.answer)
FROM infinite_pages_cache_partitioned e JOIN app.texts t ON e.cache_key = cache_key(t.request) AND t.name <> 'public-clocks/tone';

INSERT INTO claims
SELECT 'of eight readers one paid for the chapter, and all got it', count(*) = 8 AND count(*) FILTER (WHERE has_lease) = 1
       AND bool_and(chapter = 'The Night Watch of the Seedlings')
FROM app.readers;

INSERT INTO claims
SELECT 'what was made from a foundation that was edited meanwhile is not there', count(*) = 0
FROM infinite_pages_cache_partitioned WHERE cache_key = 'greenhouse-nine, chapter 3';

INSERT INTO claims
SELECT 'an expired chapter was served while one reader had it written anew',
       (chosen, chosen_chapter, other, other_chapter) = ('refresh', 'Glass', 'stale', 'Glass')
FROM app.told;

SELECT set_config('request.jwt.claims', json_build_object('sub', (SELECT id FROM app.users WHERE name = 'tomas'))::text, false) AS ignored \gset
SELECT id AS tomas FROM app.users WHERE name = 'tomas' \gset
SET ROLE authenticated;
SELECT count(*) > 0 AND bool_and(user_id = :'tomas') AS isolated FROM infinite_pages_cache_partitioned \gset
RESET ROLE;
INSERT INTO claims VALUES ('a tenant sees only entries of its user', :'isolated');

\pset footer off
\echo
\echo '── Checked ──────────────────────────────────────────────────────────────────────────────'
\echo
SELECT claim, CASE WHEN holds THEN 'yes' ELSE 'NO' END AS holds FROM claims;
DO $$
BEGIN
    IF EXISTS (SELECT FROM claims WHERE holds IS NOT TRUE) THEN
        RAISE EXCEPTION 'the demo did not do what it said';
    END IF;
END $$;
