-- Counters of the last 25 hours, with those not stored yet. An hour that began before a window counts by its share in the
-- window. The condition uses statement_timestamp(), because no index can serve the volatile clock_timestamp(). Tables and
-- functions of 0.2.0 have no column evictions: the name then resolves outside the subquery, in `none`.
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
