-- What was counted lately, hour by hour, with what is not stored yet; of an hour that has begun before a
-- window the share that lies in the window counts. An index cannot serve what changes while it is read, as
-- clock_timestamp() does.
SELECT content_type, hits, misses, tokens_spent, tokens_saved, lookup_us,
       greatest(0, least(1, extract(epoch FROM hour - clock_timestamp()) / 3600 + 2)) AS in_hour,
       greatest(0, least(1, extract(epoch FROM hour - clock_timestamp()) / 3600 + 25)) AS in_day
FROM (
    SELECT content_type, hour, hits, misses, tokens_spent, tokens_saved, lookup_us
    FROM @extschema@.cache_statistics_hourly WHERE hour > statement_timestamp() - interval '25 hours'
    UNION ALL
    SELECT content_type, clock_timestamp(), hits, misses, tokens_spent, tokens_saved, lookup_us
    FROM @extschema@.cache_statistics(pending => true)) h
