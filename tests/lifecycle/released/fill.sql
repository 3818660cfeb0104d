-- A cache that has been in use for months, and has been changed by its operator. The dumps beside this file were made by
-- it on a server with the released version; tests run it on the current one to compare. The roles anon, authenticated,
-- service_role, app_tenant, app_service and app_reader must exist.
SET TimeZone = 'UTC';
SELECT create_monthly_cache_partition(month::date) FROM unnest('{2025-12-01, 2026-02-01, 2026-11-01}'::text[]) month;
INSERT INTO infinite_pages_cache_partitioned (id, user_id, content_type, cache_key, content, metadata, token_cost, hit_count, created_at, expires_at, last_accessed)
SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'a11ce000-0000-4000-8000-000000000001', 'setting', 'k' || n, jsonb_build_object('n', n),
       '{"genre": "noir"}', n + 0.123456, n, m, 'infinity', m
FROM generate_series(0, 19) n, LATERAL (SELECT (ARRAY['2025-12-15', '2026-02-15', '2026-11-15'])[n % 3 + 1]::timestamptz) month (m);
INSERT INTO infinite_pages_cache_partitioned (id, user_id, content_type, cache_key, content, created_at, expires_at, last_accessed)
VALUES ('00000000-0000-4000-8000-0000000000ff', 'b0b00000-0000-4000-8000-000000000002', 'setting', 'expired', '"é"', '2026-02-01', '2026-02-02', '2026-02-01'),
       ('00000000-0000-4000-8000-0000000000fe', 'b0b00000-0000-4000-8000-000000000002', 'tone', 'bob', '"his"', '2026-02-01', 'infinity', '2026-02-01');
CREATE INDEX by_story ON infinite_pages_cache_partitioned (story_id);
CREATE INDEX in_one_month ON infinite_pages_cache_2026_02 USING gin (metadata);
CREATE POLICY from_the_operator ON infinite_pages_cache_partitioned FOR SELECT TO app_reader USING (priority_tier = 1);
ALTER POLICY analytics_readonly_access ON infinite_pages_cache_partitioned USING (hit_count >= 0);
GRANT SELECT ON infinite_pages_cache_partitioned TO app_reader WITH GRANT OPTION;
GRANT SELECT ON partition_health_metrics TO app_reader;
GRANT EXECUTE ON FUNCTION partition_health_metrics() TO app_reader;
GRANT SELECT ON cache_content_policies TO anon;
REVOKE EXECUTE ON FUNCTION cache_lookup_many(uuid, text, text[]) FROM PUBLIC;
SELECT cache_grant_tenant('app_tenant');
SELECT cache_grant_service('app_service');
UPDATE cache_content_policies SET ttl = '90 days', max_entries = NULL WHERE content_type = 'tone';
DELETE FROM cache_content_policies WHERE content_type = 'export_txt';
INSERT INTO cache_content_policies (content_type, ttl, token_cost) VALUES ('Gedicht', NULL, 2.5);
COMMENT ON TABLE infinite_pages_cache_partitioned IS 'ours';
CREATE TABLE cache_audit_log_2026_01 PARTITION OF cache_audit_log
    FOR VALUES FROM ('2026-01-01 00:00:00+00') TO ('2026-02-01 00:00:00+00');
INSERT INTO cache_audit_log (user_id, cache_key, content_type, action, role, "timestamp")
VALUES ('a11ce000-0000-4000-8000-000000000001', 'k0', 'setting', 'upsert', 'postgres', '2026-01-31 23:59:59.999999+00');
SELECT count(*) FROM archive_audit_logs('1 day');
CREATE TABLE cache_audit_log_2026_03 PARTITION OF cache_audit_log
    FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00');
INSERT INTO cache_audit_log (user_id, cache_key, content_type, action, role, "timestamp")
VALUES ('b0b00000-0000-4000-8000-000000000002', 'bob', 'tone', 'upsert', 'postgres', '2026-03-31 23:59:59+00');
INSERT INTO cache_statistics_hourly (hour, content_type, hits, misses) VALUES ('2026-02-15 12:00:00+00', 'setting', 7, 3);
