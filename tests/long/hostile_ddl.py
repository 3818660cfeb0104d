"""Those who change everything under the clients' feet in the hostile run: partitions, schemas, indexes, rights; and who cancel,
terminate and maintain."""

import contextlib
import datetime
import json
import re
import threading
import time

from harness.entries import CACHE
from harness.worker import LAUNCHER, WORKER
from long.hostile_clients import INTERRUPTED, KEYS, MOVED, OWNER, READER, SCHEMAS, STALE_TOAST_INDEX, TENANT, USERS, Actor, Failed
from long.hostile_ledger import MONTHS, PERMANENT

# What PostgreSQL says of itself, to whoever makes tables and indexes anew: of indexes that an interrupted REINDEX has left; and of the part
# out of line of a version of a row that nobody sees any more, which a vacuum of that part alone has removed. And STALE_TOAST_INDEX.
OF_ITSELF = re.compile(r"indexer XX002 WARNING:  cannot reindex invalid index|indexer XX001 ERROR:  (missing|unexpected) chunk number \d+ |"
                       rf"XX000 ERROR:  {STALE_TOAST_INDEX}")
# PostgreSQL itself fails with "tuple concurrently updated" when two sessions rename, move, or change the rights of one object.
one_object = threading.Lock()
# Whoever sets up what is somewhere else for a moment makes it anew.
nothing_is_away = threading.Lock()


def months_ago(count):
    today = datetime.datetime.now(datetime.timezone.utc)
    number = today.year * 12 + today.month - 1 - count
    return datetime.date(number // 12, number % 12 + 1, 1)


def name_of(month):
    return f"infinite_pages_cache_{month:%Y_%m}"


class Disruptor(Actor):
    """Takes one of its actions after another, with a pause between them."""

    pause = 0.1

    def actions(self):
        raise NotImplementedError

    def act(self):
        action = self.dice.choice(self.actions())
        before = sum(self.errors.values())
        action()
        if sum(self.errors.values()) == before:
            self.done[action.__name__.replace("_", " ")] += 1
        self.stop.wait(self.dice.random() * 2 * self.pause)

    def located(self, relation):
        """The name of a relation with the schema that it is in now, quoted; None when there is none."""
        rows = self.execute("SELECT oid::regclass::text, relnamespace::regnamespace::text FROM pg_class WHERE relname = %s", (relation,)).fetchall()
        return f"{rows[0][1]}.{relation}" if rows else None

    def home(self):
        return self.execute("SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'infinite_pages_cache'").fetchone()[0]

    def set_up(self):
        with nothing_is_away, one_object:
            self.execute("SELECT cache_setup()")

    def this_month(self):
        return self.located(name_of(months_ago(0))) or "public.none"


class Months(Disruptor):
    """Old months come and go. Those in which nothing lives the worker drops, too."""

    # There already; not a partition, or one that overlaps; being detached; no partition, or not this one, for a row.
    allowed = INTERRUPTED | MOVED | {"42P07", "42809", "42P17", "55000", "23514"}

    def __init__(self, database, ledger, number):
        super().__init__(database, f"months {number}", f"months {number}")
        self.ledger, self.months = ledger, [months_ago(ago) for ago in range(2 + number, 10, 2)]

    def actions(self):
        return (self.create_month, self.create_month, self.fill_month, self.fill_month, self.fill_month, self.detach, self.detach_concurrently,
                self.detach_concurrently, self.attach, self.attach, self.attach, self.drop_month, self.drop_old_months)

    def month(self):
        month = self.dice.choice(self.months)
        return month, self.located(name_of(month)) or f"{self.home()}.{name_of(month)}"

    def create_month(self):
        self.execute("SELECT create_monthly_cache_partition(%s)", (self.month()[0],))

    def fill_month(self):
        month, _ = self.month()
        keys = [(self.dice.choice(USERS), MONTHS, f"k{number}") for number in range(KEYS)]
        contents = [{"user": key[0], "type": key[1], "key": key[2], "number": self.ledger.old(key).number, "text": "m" * 500} for key in keys]
        self.execute(f"INSERT INTO {self.located(CACHE)} (user_id, content_type, cache_key, content, created_at, expires_at) "
                     "SELECT (c ->> 'user')::uuid, c ->> 'type', c ->> 'key', c, %s::date + 3, 'infinity' FROM jsonb_array_elements(%s::jsonb) c "
                     "ON CONFLICT DO NOTHING", (month, json.dumps(contents)))

    def detach(self):
        self.execute(f"ALTER TABLE {self.located(CACHE)} DETACH PARTITION {self.month()[1]}")

    def detach_concurrently(self):
        _, name = self.month()
        try:
            self.execute(f"ALTER TABLE {self.located(CACHE)} DETACH PARTITION {name} CONCURRENTLY")
        except Failed:
            if self.connection is None:
                raise
            # What was interrupted is there for some, until it is finished. Others see that, too.
            self.stop.wait(self.dice.random())
            self.execute(f"ALTER TABLE {self.located(CACHE)} DETACH PARTITION {name} FINALIZE")

    def attach(self):
        month, name = self.month()
        after = (month + datetime.timedelta(days=31)).replace(day=1)
        self.execute(f"ALTER TABLE {self.located(CACHE)} ATTACH PARTITION {name} FOR VALUES FROM ('{month} 00:00+00') TO ('{after} 00:00+00')")

    def drop_month(self):
        self.execute(f"DROP TABLE {self.month()[1]}")

    def drop_old_months(self):
        self.execute("SELECT * FROM drop_old_cache_partitions(%s, true)", (self.dice.randint(5, 9),))


class Mover(Disruptor):
    """Renames and moves the schema and what is in it."""

    pause = 0.3
    # There already, or, when the worker has just made a table, in the way.
    allowed = INTERRUPTED | MOVED | {"42P07", "0A000"}

    def __init__(self, database):
        super().__init__(database, "mover", "mover")

    def actions(self):
        return (self.rename_schema, self.move_the_table, self.move_the_policies, self.move_a_partition, self.rename_a_partition, self.move_the_extension)

    def rename_schema(self):
        schema = self.home()
        self.alter(f"ALTER SCHEMA {schema} RENAME TO {SCHEMAS[schema == SCHEMAS[0]]}")

    def there_and_back(self, table, seconds):
        with nothing_is_away:
            self.alter(f"ALTER TABLE {self.located(table)} SET SCHEMA elsewhere")
            try:
                time.sleep(seconds)
            finally:
                self.bring_back(table)

    def alter(self, sql):
        with one_object:
            self.execute(sql)

    def bring_back(self, table):
        """Until it is where it belongs, whatever interrupts it."""
        while True:
            with contextlib.suppress(Failed):
                if self.connection is None:
                    self.connect()
                if (name := self.located(table)) and name.startswith("elsewhere."):
                    # An index that is made while its table moves stays behind, and is in the way.
                    for (index,) in self.execute("SELECT indexrelid::regclass::text FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = "
                                                 "to_regclass(%s) AND c.relnamespace <> 'elsewhere'::regnamespace", (name,)).fetchall():
                        self.alter(f"DROP INDEX {index}")
                    self.alter(f"ALTER TABLE {name} SET SCHEMA {self.home()}")
                return

    def move_the_table(self):
        self.there_and_back(CACHE, 0.05)

    def move_the_policies(self):
        self.there_and_back("cache_content_policies", 0.05)

    def move_a_partition(self):
        if self.located(table := name_of(months_ago(self.dice.choice((0, 0, 0, 2, 3))))):
            self.there_and_back(table, self.dice.random())

    def rename_a_partition(self):
        name = self.this_month()
        with nothing_is_away:
            self.alter(f"ALTER TABLE {name} RENAME TO of_another_name")
            while True:
                with contextlib.suppress(Failed):
                    if self.connection is None:
                        self.connect()
                    self.alter(f"ALTER TABLE {self.located('of_another_name')} RENAME TO {name.split('.')[1]}")
                    return

    def move_the_extension(self):
        """Which is refused."""
        try:
            self.execute("ALTER EXTENSION infinite_pages_cache SET SCHEMA elsewhere")
        except Failed as failure:
            if str(failure) not in self.allowed:
                raise


class Indexer(Disruptor):
    """Makes indexes and tables anew, drops the index of the entries, and brings it back."""

    pause = 0.3
    # The partition or its index may have another name, or none; a name that an interrupted REINDEX has taken; an index that is invalid;
    # what PostgreSQL itself (bug 18351) may miss when it makes a table or an index anew: see OF_ITSELF.
    allowed = INTERRUPTED | MOVED | {"42704", "42P07", "55000", "0A000", "XX001"}

    def __init__(self, database):
        super().__init__(database, "indexer", "indexer")

    def actions(self):
        return (self.reindex, self.reindex_concurrently, self.reindex_concurrently, self.reindex_the_table, self.drop_index,
                self.drop_index_concurrently, self.second_index, self.analyze, self.vacuum, self.vacuum_full, self.cluster, self.set_fillfactor)

    def index(self):
        """The unique index of this month's entries: one of those it has. A dead one, which an interrupted REINDEX CONCURRENTLY has left,
        stays behind when its table moves; made anew there, it would stop any later move in an assertion of the server."""
        rows = self.execute("SELECT c.relnamespace::regnamespace::text || '.' || quote_ident(c.relname) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid "
                            "WHERE x.indrelid = to_regclass(%s) AND x.indisunique AND x.indnatts = 2 AND x.indexprs IS NOT NULL AND x.indislive "
                            "AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = x.indrelid)", (self.this_month(),)).fetchall()
        return self.dice.choice(rows)[0] if rows else "public.none"

    def reindex(self):
        self.execute(f"REINDEX INDEX {self.index()}")

    def reindex_concurrently(self):
        self.execute(f"REINDEX INDEX CONCURRENTLY {self.index()}")

    def reindex_the_table(self):
        self.execute(f"REINDEX TABLE {self.dice.choice(('', 'CONCURRENTLY'))} {self.this_month()}")

    def drop_index(self, how=""):
        self.execute(f"DROP INDEX {how} {self.index()}")
        self.stop.wait(self.dice.random())
        self.set_up()

    def drop_index_concurrently(self):
        self.drop_index("CONCURRENTLY")

    def second_index(self):
        self.execute(f"CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS second ON {self.this_month()} (user_id, {self.home()}.cache_entry_digest(content_type, cache_key))")
        self.stop.wait(self.dice.random())
        self.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {self.located('second') or 'public.second'}")

    def analyze(self):
        self.execute(f"ANALYZE {self.located(CACHE)}")

    def vacuum(self):
        self.execute(f"VACUUM (ANALYZE) {self.located(CACHE)}")

    def vacuum_full(self):
        self.execute(f"VACUUM FULL {self.this_month()}")

    def cluster(self):
        self.execute(f"CLUSTER {self.this_month()} USING {self.index().split('.')[1]}")

    def set_fillfactor(self):
        self.execute(f"ALTER TABLE {self.this_month()} SET (fillfactor = {self.dice.randint(60, 80)})")


class Rights:
    """Whether the reader may read everything: what has been acknowledged, and when it last began to change."""

    def __init__(self):
        self.value, self.since, self.changing = None, 0.0, True


class Grantor(Disruptor):
    """Gives and takes what the reader must have, and changes roles and rights that change nothing for the clients."""

    # What another has changed at the same time.
    allowed = INTERRUPTED | MOVED
    pause = 0.1

    def __init__(self, database, rights):
        super().__init__(database, "grantor", "grantor")
        self.rights = rights

    def actions(self):
        return (self.bypass, self.select, self.membership, self.usage, self.grant_tenant, self.alter_role, self.unrelated)

    def change(self, take, give):
        """Takes something from the reader, and gives it back."""
        for sql, value in ((take, False), (give, True)):
            self.rights.changing = True
            while True:
                try:
                    if self.connection is None:
                        self.connect()
                    with one_object:
                        self.execute(sql() if callable(sql) else sql)
                    break
                except Failed as failure:
                    if str(failure) not in self.allowed:
                        raise
            self.rights.value, self.rights.since, self.rights.changing = value, time.monotonic(), False
            self.stop.wait(self.dice.random() * 0.3)

    def bypass(self):
        self.change(f"ALTER ROLE {READER} NOBYPASSRLS", f"ALTER ROLE {READER} BYPASSRLS")

    def select(self):
        self.change(lambda: f"REVOKE SELECT ON {self.located(CACHE)} FROM hostile_members", lambda: f"GRANT SELECT ON {self.located(CACHE)} TO hostile_members")

    def membership(self):
        self.change(f"REVOKE hostile_members FROM {READER}", f"GRANT hostile_members TO {READER}")

    def usage(self):
        self.change(lambda: f"REVOKE USAGE ON SCHEMA {self.home()} FROM hostile_members", lambda: f"GRANT USAGE ON SCHEMA {self.home()} TO hostile_members")

    def grant_tenant(self):
        with one_object:
            self.execute("SELECT cache_grant_tenant(%s)", (TENANT,))

    def alter_role(self):
        self.execute(f"ALTER ROLE {self.dice.choice((TENANT, OWNER))} {self.dice.choice(('CONNECTION LIMIT 50', 'INHERIT', 'SET work_mem = 4096'))}")

    def unrelated(self):
        self.execute("CREATE OR REPLACE FUNCTION public.unrelated() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TEMP TABLE unrelated (a int); DROP TABLE unrelated")


class Reader(Actor):
    """A role that may read all entries, at times."""

    allowed = INTERRUPTED | MOVED | {"42501"}

    def __init__(self, database, ledger, rights, number):
        super().__init__(database, f"reader {number}", f"reader {number}")
        self.ledger, self.rights = ledger, rights

    def prepare(self, connection):
        connection.execute(f"SET ROLE {READER}")

    def act(self):
        key = (self.dice.choice(USERS), PERMANENT, f"k{self.dice.randrange(KEYS)}")
        began, clock = time.monotonic(), time.time()
        before = (self.rights.changing, self.rights.since)
        content, failure, error = None, None, None
        try:
            [(content,)] = self.execute("SELECT read_for_hostile(%s, %s, %s)", key)
        except Failed as caught:
            failure, error = str(caught), caught.__cause__
        after, value = (self.rights.changing, self.rights.since), self.rights.value
        if before == after and not after[0]:
            if value is True and failure == "42501":
                self.problems.append(f"{self.name}: refused {began - after[1]:.3f} s after everything was given: {error}".replace("\n", " | "))
            elif value is True and failure is None:
                self.ledger.check(key, content, began, clock)
                self.done["lookups with all rights"] += 1
            elif value is False and content is not None:
                self.problems.append(f"{self.name}: {key} was read {began - after[1]:.3f} s after a right was taken")
            else:
                self.done["lookups that lack a right"] += 1
        time.sleep(0.02)


class Maintainer(Disruptor):
    """Does what an operator and the worker do."""

    pause = 0.5
    allowed = INTERRUPTED | MOVED

    def __init__(self, database):
        super().__init__(database, "maintainer", "maintainer")

    def actions(self):
        return (self.run_maintenance, self.set_up, self.flush, self.reports, self.archive, self.change_settings)

    def run_maintenance(self):
        self.execute("SELECT * FROM cache_run_maintenance()")

    def flush(self):
        self.execute("SELECT * FROM cache_flush_statistics()")

    def reports(self):
        for report in ("verify_production_cache()", "check_partition_health()", "cache_alerts()", "partition_health_metrics()", "cache_performance_metrics()"):
            self.execute(f"SELECT * FROM {report}")

    def archive(self):
        self.execute("SELECT * FROM archive_audit_logs('1 second')")

    def change_settings(self):
        name, value = self.dice.choice((("audit", "all"), ("audit", "write"), ("premake", "2"), ("premake", "3"), ("cleanup_batch_size", "50")))
        self.execute(f"ALTER SYSTEM SET infinite_pages_cache.{name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")


class Killer(Disruptor):
    """Cancels and terminates at random moments."""

    pause = 0.04

    def __init__(self, database, actors):
        super().__init__(database, "killer", "killer")
        self.actors = actors

    def actions(self):
        return (self.cancel,) * 40 + (self.terminate,) * 2 + (self.terminate_a_worker,)

    def victim(self):
        return self.dice.choice(self.actors).pid

    def cancel(self):
        if pid := self.victim():
            self.execute("SELECT pg_cancel_backend(%s)", (pid,))

    def terminate(self):
        if pid := self.victim():
            self.execute("SELECT pg_terminate_backend(%s)", (pid,))

    def terminate_a_worker(self):
        self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type IN (%s, %s) ORDER BY random() LIMIT 1", (WORKER, LAUNCHER))
