-- What was counted lately, hour by hour, with what is not stored yet; of an hour that has begun before a
-- window the share that lies in the window counts. An index cannot serve what changes while it is read, as
-- clock_timestamp() does. What is of 0.2.0 has no evictions: there the name is found outside the subquery, in `none`.
SELECT content_type, hits, misses, tokens_spent, tokens_saved, lookup_us, evictions,
       greatest(0, least(1, extract(epoch FROM hour - clock_timestamp()) / 3600 + 2)) AS in_hour,
       greatest(0, least(1, extract(epoch FROM hour - clock_timestamp()) / 3600 + 25)) AS in_day
FROM (
    SELECT content_type, hour, hits, misses, tokens_spent, tokens_saved, lookup_us,
           (SELECT evictions FROM (SELECT stored.*) s) AS evictions
    FROM @extschema@.cache_statistics_hourly stored, (SELECT 0::bigint AS evictions) none
    WHERE hour > statement_timestamp() - interval '25 hours'
    UNION ALL
    SELECT content_type, clock_timestamp(), hits, misses, tokens_spent, tokens_saved, lookup_us,
           (SELECT evictions FROM (SELECT counted.*) c)
    FROM @extschema@.cache_statistics(pending => true) counted, (SELECT 0::bigint AS evictions) none) h
