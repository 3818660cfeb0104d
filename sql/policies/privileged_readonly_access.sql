-- The privileges decide: who may read the table may see all of it. Of the log of maintenance, in which an error may quote any
-- row, monitors have none.
CREATE POLICY privileged_readonly_access ON @extschema@.@table@
    FOR SELECT TO PUBLIC
    USING (true);
