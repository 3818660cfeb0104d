-- What the eight readers of section 13 find, and the text of what each of them does.
\set QUIET on
\echo
\echo '── 13. Eight readers open the same new chapter at once ────────────────────────────────────'
\echo 'cache_fetch() is a lookup that also says who generates. Each reader sends what stands in reader.sql.'
\echo 'The model takes a second to write.'
CREATE TABLE app.readers (reader integer, state text NOT NULL, has_lease boolean NOT NULL, chapter text, seconds numeric NOT NULL);
