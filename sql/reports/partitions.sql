-- Partitions of all tables: parent, partition and, of a partition by a range of one timestamp, its bounds. A bound is NULL for
-- MINVALUE and MAXVALUE. PostgreSQL shows bounds to SQL as text only. Bounds of other types are not read, because a report may
-- read bounds before it leaves out the partitions of other tables.
SELECT i.inhparent AS parent, c.oid, c.relname, c.relnamespace, c.relrowsecurity, c.reltuples,
       pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT' AS is_default,
       CASE WHEN k.is_timestamp THEN
           substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''(-?infinity|\d+-\d+-\d+ \d+:[^'']+)''\)')::timestamptz END AS starts,
       CASE WHEN k.is_timestamp THEN
           substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(-?infinity|\d+-\d+-\d+ \d+:[^'']+)''\)')::timestamptz END AS ends
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
CROSS JOIN LATERAL (SELECT EXISTS (
    SELECT FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
    WHERE p.partrelid = i.inhparent AND p.partnatts = 1 AND a.atttypid = 'timestamptz'::regtype) AS is_timestamp) k
