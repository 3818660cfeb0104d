-- The function is called bare: with a sub-select around it the table could not be distributed.
CREATE POLICY tenant_isolation_cache_access ON @extschema@.infinite_pages_cache_partitioned
    FOR ALL TO PUBLIC
    USING (user_id = @extschema@.cache_current_user_id())
    WITH CHECK (user_id = @extschema@.cache_current_user_id());
