-- Partitions of all tables: parent, partition and, of a partition by a range of one timestamp, its bounds. A bound is NULL for
-- MINVALUE and MAXVALUE. PostgreSQL shows bounds to SQL as text only. The pattern fits no other type, because a report may read
-- bounds before it leaves out the partitions of other tables.
SELECT i.inhparent AS parent, c.oid, c.relname, c.relnamespace, c.relrowsecurity, c.reltuples,
       pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT' AS is_default,
       substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''(-?infinity|\d+-\d+-\d+ \d+:[^'']+)''\)')::timestamptz AS starts,
       substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(-?infinity|\d+-\d+-\d+ \d+:[^'']+)''\)')::timestamptz AS ends
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
