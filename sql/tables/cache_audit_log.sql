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
    acting_user_id uuid,
    PRIMARY KEY (id, "timestamp")
) PARTITION BY RANGE ("timestamp");

-- A few kilobytes however long the log: rows come in the order of time.
CREATE INDEX cache_audit_log_timestamp_idx ON @extschema@.cache_audit_log USING brin ("timestamp");

COMMENT ON COLUMN @extschema@.cache_audit_log.user_id IS 'User whose entry it is';
COMMENT ON COLUMN @extschema@.cache_audit_log.acting_user_id IS
    'User whom the session acted for, as cache_current_user_id() says; NULL when it had no user';
COMMENT ON COLUMN @extschema@.cache_audit_log.role IS 'Role that acted';
COMMENT ON TABLE @extschema@.cache_audit_log IS
    'Audit log of infinite_pages_cache, a partition for each month of timestamp (UTC)';
