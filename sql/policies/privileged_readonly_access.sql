-- Privileges decide: a role with SELECT on the table sees every row. Monitors have no privilege on the log of maintenance,
-- because an error in it may quote any row.
CREATE POLICY privileged_readonly_access ON @extschema@.@table@
    FOR SELECT TO PUBLIC
    USING (true);
