-- The function is called without a sub-select, because with one the table could not be distributed.
CREATE POLICY tenant_isolation_cache_access ON @extschema@.infinite_pages_cache_partitioned
    FOR ALL TO PUBLIC
    USING (user_id = @extschema@.cache_current_user_id())
    WITH CHECK (user_id = @extschema@.cache_current_user_id());
