-- The privileges decide: the table holds nothing of a user's that whoever may read it must not see.
CREATE POLICY privileged_readonly_access ON @extschema@.@table@
    FOR SELECT TO PUBLIC
    USING (true);
