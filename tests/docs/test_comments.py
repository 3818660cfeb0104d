"""Each column of each table says in the catalog what it is; what an operator says of it stays."""

import pytest

from harness.database import Database
from harness.upgrade import RELEASES, UPDATE, old

COMMENTS = """
    SELECT c.relname, a.attname, col_description(c.oid, a.attnum) FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped"""


def comments(database):
    return {(table, column): comment for table, column, comment in database.execute(COMMENTS)}


def test_every_column_of_every_table_has_a_comment(database):
    found = comments(database)
    assert len({table for table, _ in found}) == 7 and len(found) > 70
    assert [place for place, comment in found.items() if not comment] == []


def test_set_up_gives_comments_where_there_are_none_and_keeps_an_operators_own(database):
    expected = comments(database)
    mine = ("infinite_pages_cache_partitioned", "token_cost")
    old_one = ("cache_statistics_hourly", "content_type")
    with database.connect() as connection:
        for table, column in expected:
            connection.execute(f'COMMENT ON COLUMN {table}."{column}" IS NULL')
        connection.execute("COMMENT ON COLUMN infinite_pages_cache_partitioned.token_cost IS 'in cents'")
        connection.execute("COMMENT ON COLUMN cache_statistics_hourly.content_type IS "
                           "'Empty for all types beyond infinite_pages_cache.max_tracked_content_types'")
    database.execute("ALTER TABLE cache_audit_log ADD COLUMN of_mine text; SELECT cache_setup()")
    found = comments(database)
    assert found.pop(("cache_audit_log", "of_mine")) is None
    assert found[mine] == "in cents" and "Empty, which" in found[old_one]
    assert found == {**expected, mine: "in cents"}


@pytest.mark.parametrize("version", RELEASES)
def test_an_update_gives_the_tables_their_comments_the_archive_too(cluster, known, version):
    database, fresh = old(cluster, version), Database(cluster)
    database.execute("COMMENT ON COLUMN cache_audit_archive.action IS 'my own'")
    assert list(comments(database).values()).count(None) > 50
    database.execute(UPDATE)
    found, expected = comments(database), comments(fresh)
    archive = {column: comment for (table, column), comment in found.items() if table == "cache_audit_archive"}
    log = {column: comment for (table, column), comment in expected.items() if table == "cache_audit_log"}
    assert archive == {**log, "action": "my own"}
    assert {place: comment for place, comment in found.items() if place[0] != "cache_audit_archive"} == expected
    for one in (database, fresh):
        one.drop()
