-- A predefined role: whoever may read all data of the database may read every tenant's here, and a
-- dump restores into a cluster that has none of this one's roles.
CREATE POLICY analytics_readonly_access ON @extschema@.@table@
    FOR SELECT TO pg_read_all_data
    USING (true);
