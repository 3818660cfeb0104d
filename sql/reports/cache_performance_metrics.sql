-- Counters begin with the server; ratios and latencies of the last hour and day come from the roll-up.
WITH stored AS (
    SELECT content_type, sum(entries) AS entries, sum(hits) AS hits, sum(tokens_saved) AS tokens_saved,
           sum(expired_entries) AS expired_entries, sum(high_priority_entries) AS high_priority_entries,
           max(last_activity) AS last_activity, min(measured_at) AS measured_at
    FROM @entries_by_type@ e GROUP BY content_type
),
pending AS (
    SELECT content_type, hits::numeric AS hits, tokens_saved, last_accessed
    FROM @pending_by_type@
),
counted AS (
    SELECT content_type, hits, least(hits::numeric + misses, 9223372036854775807)::bigint AS lookups
    FROM @extschema@.cache_statistics()
),
hourly AS MATERIALIZED (
    SELECT * FROM @recent_statistics@ r
),
recent AS (
    SELECT content_type,
           sum(hits * in_hour) AS hour_hits, sum((hits::numeric + misses) * in_hour) AS hour_lookups,
           sum(hits * in_day) AS day_hits, sum((hits::numeric + misses) * in_day) AS day_lookups,
           sum(tokens_spent * in_day) AS day_spent, sum(tokens_saved * in_day) AS day_saved,
           sum(evictions * in_day) AS day_evictions,
           sum(leases_granted * in_day) AS day_leases_granted,
           sum(waits * in_day) AS day_waits,
           sum(waits_hit * in_day) AS day_waits_hit,
           sum(stale_served * in_day) AS day_stale_served,
           sum(refused_fills * in_day) AS day_refused_fills,
           sum(refused_by_gate * in_day) AS day_refused_by_gate,
           sum(failures * in_day) AS day_failures
    FROM hourly GROUP BY content_type
),
latency AS (
    SELECT content_type, array_agg(calls ORDER BY bucket) AS buckets
    FROM (SELECT content_type, bucket, sum(calls * in_hour)::double precision AS calls
          FROM hourly, unnest(lookup_us) WITH ORDINALITY AS b (calls, bucket) GROUP BY 1, 2) b
    GROUP BY content_type
),
-- Buckets in milliseconds, so that seconds come out.
generation AS (
    SELECT content_type, array_agg(answers ORDER BY bucket) AS buckets
    FROM (SELECT content_type, bucket, sum(answers * in_day)::double precision AS answers
          FROM hourly, unnest(generation_ms) WITH ORDINALITY AS b (answers, bucket) GROUP BY 1, 2) b
    GROUP BY content_type
)
SELECT content_type,
       coalesce(s.entries, 0)::bigint,
       least(coalesce(s.hits, 0) + coalesce(p.hits, 0), 9223372036854775807)::bigint,
       round((s.hits + coalesce(p.hits, 0)) / nullif(s.entries, 0), 2),
       round((s.tokens_saved + coalesce(p.tokens_saved, 0)) / nullif(s.entries, 0), 2),
       trim_scale(coalesce(s.tokens_saved, 0) + coalesce(p.tokens_saved, 0)),
       coalesce(s.expired_entries, 0)::bigint,
       coalesce(s.high_priority_entries, 0)::bigint,
       greatest(s.last_activity, p.last_accessed),
       round(100.0 * c.hits / nullif(c.lookups, 0), 2),
       c.lookups,
       round((100 * r.hour_hits / nullif(r.hour_lookups, 0))::numeric, 2),
       round((100 * r.day_hits / nullif(r.day_lookups, 0))::numeric, 2),
       @extschema@.cache_latency_ms(l.buckets, 0.5),
       @extschema@.cache_latency_ms(l.buckets, 0.95),
       @extschema@.cache_latency_ms(l.buckets, 0.99),
       round(r.day_spent, 2),
       round(r.day_saved, 2),
       round(100 * r.day_saved / nullif(r.day_saved + r.day_spent, 0), 2),
       s.measured_at,
       least(round(coalesce(r.day_evictions, 0)::numeric), 9223372036854775807)::bigint,
       least(round(coalesce(r.day_leases_granted, 0)::numeric), 9223372036854775807)::bigint,
       least(round(coalesce(r.day_waits, 0)::numeric), 9223372036854775807)::bigint,
       least(round(coalesce(r.day_waits_hit, 0)::numeric), 9223372036854775807)::bigint,
       least(round(coalesce(r.day_stale_served, 0)::numeric), 9223372036854775807)::bigint,
       least(round(coalesce(r.day_refused_fills, 0)::numeric), 9223372036854775807)::bigint,
       least(round(coalesce(r.day_refused_by_gate, 0)::numeric), 9223372036854775807)::bigint,
       least(round(coalesce(r.day_failures, 0)::numeric), 9223372036854775807)::bigint,
       @extschema@.cache_latency_ms(g.buckets, 0.5),
       @extschema@.cache_latency_ms(g.buckets, 0.95),
       least(round(coalesce(r.day_waits_hit + r.day_stale_served, 0)::numeric), 9223372036854775807)::bigint
FROM stored s
FULL JOIN counted c USING (content_type)
FULL JOIN recent r USING (content_type)
LEFT JOIN pending p USING (content_type)
LEFT JOIN latency l USING (content_type)
LEFT JOIN generation g USING (content_type)
ORDER BY coalesce(s.entries, 0) DESC, content_type
