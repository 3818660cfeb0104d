-- Counters of the last 25 hours, with those not stored yet. An hour that began before a window counts by its share in the
-- window. The condition uses statement_timestamp(), because no index can serve the volatile clock_timestamp(). Tables and
-- functions of earlier versions lack columns: the name of one then resolves outside the subquery, in `none`.
SELECT h.*,
       greatest(0, least(1, extract(epoch FROM hour - clock_timestamp()) / 3600 + 2)) AS in_hour,
       greatest(0, least(1, extract(epoch FROM hour - clock_timestamp()) / 3600 + 25)) AS in_day
FROM (
    SELECT s.content_type, s.hour, s.hits, s.misses, s.upserts, s.tokens_spent, s.tokens_saved, s.lookup_us, newer.*
    FROM @extschema@.cache_statistics_hourly s, @none@, LATERAL (SELECT @newer@ FROM (SELECT s.*) known) newer
    WHERE hour > statement_timestamp() - interval '25 hours'
    UNION ALL
    SELECT s.content_type, clock_timestamp(), s.hits, s.misses, s.upserts, s.tokens_spent, s.tokens_saved, s.lookup_us, newer.*
    FROM @extschema@.cache_statistics(pending => true) s, @none@, LATERAL (SELECT @newer@ FROM (SELECT s.*) known) newer) h
