-- For a predefined role: a role that may read all data of the database may read every tenant's. And a dump restores into
-- a cluster that lacks this one's roles.
CREATE POLICY analytics_readonly_access ON @extschema@.@table@
    FOR SELECT TO pg_read_all_data
    USING (true);
