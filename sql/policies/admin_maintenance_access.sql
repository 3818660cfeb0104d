-- cache_grant_service() adds a role to this policy.
CREATE POLICY admin_maintenance_access ON @extschema@.@table@
    FOR ALL TO pg_database_owner
    USING (true)
    WITH CHECK (true);
