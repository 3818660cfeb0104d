"""Dumps lose nothing: from each PostgreSQL into the same version and the next one, a month later, while the worker ticks.
`make test-restore` runs it; MAJORS names the versions."""

from contextlib import ExitStack
from datetime import datetime, timedelta, timezone

import pytest

from harness.clock import ClockCluster
from harness.cluster import Cluster
from harness.database import Database
from harness.dumps import ROLES, WAYS, compress_with_lz4, dumped_as_archive, fill_for_years, lasting_state, same, with_lz4, works
from harness.majors import MAJORS, bindir, of_both_versions
from harness.roles import temporary_roles
from harness.worker import WORKER, is_served, processes, settings, status, wait_until

PAIRS = [(old, new) for old in MAJORS for new in (old, old + 1) if new in MAJORS]

# What the worker computes from the entries, anew in another month.
DERIVED = {"cache_entry_summary", "cache_user_summary", "cache_statistics_hourly"}


def months_on(count, moment=None):
    """The first of a month so many months after now, or after a moment."""
    moment = moment or datetime.now(timezone.utc)
    years, month = divmod(moment.month - 1 + count, 12)
    return datetime(moment.year + years, month + 1, 1, tzinfo=timezone.utc)


# The clock of whoever restores, and the months that the worker makes there: that one and three more.
RESTORED_AT = months_on(1) + timedelta(days=2)
MADE = {f"{table}_{months_on(ahead, RESTORED_AT):%Y_%m}" for table in ("infinite_pages_cache", "cache_audit_log") for ahead in range(4)}


class Servers:
    """A cluster to dump, and one of the same or the next version to restore into."""

    def __init__(self, old, new):
        self.old, self.new = old, new
        self.source = Cluster(bindir=bindir(old))
        self.target = ClockCluster({"infinite_pages_cache.naptime": "100ms", "max_parallel_maintenance_workers": 0}, bindir(new))
        self.target.set_clock(RESTORED_AT)
        self.same_compression = with_lz4(self.source) == with_lz4(self.target)

    def remove(self):
        self.source.remove()
        self.target.remove()

    def comparable(self, found, added):
        """A state without what has to differ: months that were added, summaries, and what the servers do not share."""
        def is_added(name):
            return any(name.startswith(month) for month in added)

        found = {part: [row for row in rows if not is_added(row[0])] if part != "rows" else rows for part, rows in found.items()}
        found["rows"] = {table: rows for table, rows in found["rows"].items() if not is_added(table) and table not in DERIVED}
        if not self.same_compression:
            found["columns"] = [(*row[:6], *row[7:]) for row in found["columns"]]
        return of_both_versions(found, self.old, self.new)


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: "from {} to {}".format(*pair))
def servers(request):
    servers = Servers(*request.param)
    yield servers
    servers.remove()


@pytest.fixture(scope="module", params=[True, False], ids=["with the roles", "without the roles"])
def source(servers, request):
    """A cache in use, its state, and where it goes to the roles that it knows, if it knows any."""
    with ExitStack() as stack:
        if request.param:
            for cluster in (servers.source, servers.target):
                stack.enter_context(temporary_roles(cluster, *ROLES))
            database = Database(servers.source)
            fill_for_years(database)
        else:
            database = Database(servers.source)
            with temporary_roles(servers.source, *ROLES):
                fill_for_years(database)
        database.with_roles = request.param
        database.state = lasting_state(database)
        yield database
        database.drop()


@pytest.fixture
def target(servers, source):
    database = Database(servers.target, extension=False)
    yield database
    database.drop()


@pytest.mark.parametrize("way", WAYS)
def test_a_restore_loses_nothing(servers, source, target, tmp_path, way):
    dump_and_restore, *options = WAYS[way]
    if not servers.same_compression:
        # A server without lz4 refuses a column that has it.
        if dump_and_restore is dumped_as_archive:
            options[0] += " --no-toast-compression"
        else:
            options.append("--no-toast-compression")
    dump_and_restore(source, target, tmp_path / "dump", *options)
    added = MADE - source.state["rows"].keys()
    wait_until(lambda: target.value("SELECT count(*) FROM pg_class WHERE relname = ANY (%s)", (list(added),)) == len(added))
    found = lasting_state(target)
    assert found["rows"].keys() - source.state["rows"].keys() == added
    same(servers.comparable(found, added), servers.comparable(source.state, ()))
    is_served(target)
    assert status(target)["consecutive_failures"] == 0 and status(target)["last_error"] is None
    # Every index is valid, and each of the parent is attached to one of each partition.
    assert [row for row in found["indexes"] if not row[2]] == []
    assert target.value("""
        SELECT count(*) FROM pg_index parent JOIN pg_class p ON p.oid = parent.indrelid AND p.relkind = 'p' JOIN pg_inherits i ON i.inhparent = p.oid
        WHERE NOT EXISTS (SELECT FROM pg_inherits x JOIN pg_index child ON child.indexrelid = x.inhrelid
                          WHERE x.inhparent = parent.indexrelid AND child.indrelid = i.inhrelid)""") == 0
    assert target.value("SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
                        "WHERE c.relkind = 'r' AND NOT c.relrowsecurity") == 0
    with ExitStack() as stack:
        stack.enter_context(settings(servers.target, naptime="1h"))
        # What follows runs maintenance by hand, which a tick would skip.
        wait_until(lambda: not processes(servers.target, WORKER))
        if not source.with_roles:
            stack.enter_context(temporary_roles(servers.target, *ROLES))
            target.execute("SELECT cache_grant_tenant('app_tenant'), cache_grant_service('app_service')")
        if with_lz4(servers.target) and not servers.same_compression:
            compress_with_lz4(target)
        works(target, "public")
