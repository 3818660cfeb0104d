-- Who changed what, a partition a month. Written with the owner's rights only, so no tenant can forge a row.
CREATE TABLE @extschema@.cache_audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY,
    user_id uuid,
    cache_key text,
    content_type text,
    action text NOT NULL,
    "timestamp" timestamptz NOT NULL DEFAULT clock_timestamp(),
    ip_address inet,
    user_agent text,
    success boolean NOT NULL DEFAULT true,
    role name,
    PRIMARY KEY (id, "timestamp")
) PARTITION BY RANGE ("timestamp");

-- A few kilobytes however long the log: rows come in the order of time.
CREATE INDEX cache_audit_log_timestamp_idx ON @extschema@.cache_audit_log USING brin ("timestamp");

COMMENT ON TABLE @extschema@.cache_audit_log IS
    'Audit log of infinite_pages_cache, a partition for each month of timestamp (UTC)';
