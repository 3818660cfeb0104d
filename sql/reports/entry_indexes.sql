-- Tables that have their entry index. Read from the catalog's columns, because pg_get_indexdef() fails if the table is
-- dropped meanwhile.
SELECT x.indrelid
FROM pg_index x
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid AND d.refclassid = 'pg_proc'::regclass
JOIN pg_proc f ON f.oid = d.refobjid AND f.proname = 'cache_entry_digest'
WHERE x.indisunique AND x.indisvalid
  AND ARRAY(SELECT v.attnum[1]::int FROM regexp_matches(x.indexprs::text, ':varattno ([0-9]+)', 'g') WITH ORDINALITY v (attnum, place) ORDER BY v.place)
    = ARRAY(SELECT a.attnum::int FROM unnest('{content_type,cache_key}'::name[]) WITH ORDINALITY n (name, place)
            JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attname = n.name ORDER BY n.place)
