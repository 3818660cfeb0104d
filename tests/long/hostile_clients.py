"""Clients of the hostile run: they look up, write, touch and invalidate, in transactions and without, of which some
roll back, and check each answer."""

import collections
import contextlib
import json
import random
import threading
import time
import uuid

import psycopg
from psycopg.pq import TransactionStatus

from harness.entries import CACHE
from long.hostile_ledger import ABORTED, COMMITTED, EXPIRING, INVALIDATED, MONTHS, NEVER_MISSED, PERMANENT, TOUCHED, TYPES, UNKNOWN

USERS = [str(uuid.UUID(int=(number << 64) + 0x5eed, version=4)) for number in range(1, 9)]
KEYS = 10
SCHEMAS = ("cache", "renamed")
OWNER, TENANT, READER = "hostile_owner", "hostile_tenant", "hostile_reader"

# What a statement may end in beside others who cancel, terminate, lock, move and rename: canceled, terminated, lock timeout,
# deadlock, serialization failure, and a table or a schema that is not there for now.
INTERRUPTED = {"57014", "57P01", "55P03", "40P01", "40001"}
MOVED = {"42P01", "3F000", "42883"}
# PostgreSQL's own: a session that writes a long value while REINDEX CONCURRENTLY swaps the index of the TOAST table takes the new index for
# invalid until it changes again. What the server reloads of an open index leaves out, for TOAST tables, whether it is valid.
STALE_TOAST_INDEX = "no valid index found for toast relation"


class Failed(Exception):
    """A statement has failed, and note is taken of it."""


class Actor(threading.Thread):
    """Somebody with a connection, which is made again when it has been terminated."""

    allowed = INTERRUPTED | MOVED
    settings = ()

    def __init__(self, database, name, seed):
        super().__init__(daemon=True, name=name)
        self.database, self.dice, self.stop = database, random.Random(seed), threading.Event()
        self.done, self.errors, self.problems = collections.Counter(), collections.Counter(), []
        self.connection = self.pid = None

    def connect(self):
        """Nobody cancels what has no process id yet."""
        connection = self.database.connect(application_name=self.name)
        for setting in ("search_path = cache, renamed, public", "lock_timeout = '3s'", "statement_timeout = '20s'", *self.settings):
            connection.execute(f"SET {setting}")
        self.prepare(connection)
        self.connection, self.pid = connection, connection.info.backend_pid

    def prepare(self, connection):
        """What else a session begins with."""

    def run(self):
        while not self.stop.is_set():
            try:
                if self.connection is None:
                    self.connect()
                self.act()
            except Failed:
                pass
            except psycopg.Error as error:
                self.failed(error, "connect")
            except Exception as error:  # a defect of the run itself must not pass for silence
                self.problems.append(f"{self.name}: {type(error).__name__} {error}")
                return
        if self.connection is not None:
            self.connection.close()

    def failed(self, error, what=""):
        """Takes note of an error; of a lost connection, too."""
        lost = self.connection is None or self.connection.closed or error.sqlstate == "57P01"
        state = error.sqlstate or ("57P01" if lost else "none")
        self.errors[state] += 1
        if state not in self.allowed and STALE_TOAST_INDEX not in str(error):
            self.problems.append(f"{self.name}: {state} {what} {error}".replace("\n", " | ")[:600])
        if state in MOVED:
            # It takes others a moment to bring it back.
            time.sleep(0.02)
        if lost:
            if self.connection is not None:
                self.connection.close()
            self.connection = self.pid = None
            time.sleep(0.05)

    def execute(self, sql, parameters=None, what=None):
        """Runs a statement; takes note of its error."""
        try:
            return self.connection.execute(sql, parameters)
        except psycopg.Error as error:
            self.failed(error, what or sql)
            raise Failed(error.sqlstate) from error

    def act(self):
        raise NotImplementedError


class Client(Actor):
    """Every other one is a tenant, and of the others every other one the owner of the tables."""

    # And a caller's own error.
    allowed = Actor.allowed | {"22023"}

    def __init__(self, database, ledger, number):
        super().__init__(database, f"client {number}", number)
        self.ledger, self.number = ledger, number
        self.is_tenant = number % 2 == 1
        self.user = USERS[number // 2 % len(USERS)]
        self.own, self.writes, self.began = {}, [], None
        self.in_transaction = False

    def prepare(self, connection):
        if self.number % 4 < 2:
            connection.prepare_threshold = None
        if self.is_tenant:
            # Claims of two kinds.
            name, value = ("infinite_pages_cache.user_id", self.user) if self.number % 4 == 1 else ("request.jwt.claims", json.dumps({"sub": self.user}))
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
            connection.execute(f"SET ROLE {TENANT}")
        elif self.number % 4 == 2:
            connection.execute(f"SET ROLE {OWNER}")

    def act(self):
        if self.dice.random() < 0.6:
            with contextlib.suppress(Failed):
                self.operate()
        else:
            self.transact()
        # Others are to have a turn, too.
        time.sleep(self.dice.random() * 0.01)

    # ── transactions ─────────────────────────────────────────────────────────────────────────────

    def transact(self):
        isolation = self.dice.choice(("READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"))
        self.own, self.writes, self.in_transaction = {}, [], True
        self.began = time.monotonic() if isolation != "READ COMMITTED" else None
        outcome = ABORTED
        try:
            self.execute(f"BEGIN ISOLATION LEVEL {isolation}")
            for _ in range(self.dice.randint(1, 5)):
                if self.dice.random() < 0.3:
                    self.subtransact()
                else:
                    self.operate()
            if self.dice.random() < 0.7:
                self.done["commits"] += 1
                # Once it has been sent nobody knows, until it is answered.
                outcome = UNKNOWN
                self.execute("COMMIT")
                outcome = COMMITTED
            else:
                self.done["rollbacks"] += 1
                self.execute("ROLLBACK")
        except Failed:
            if outcome == UNKNOWN and self.connection is not None:
                outcome = ABORTED
            # Which may be cancelled, too.
            while self.connection is not None and self.connection.info.transaction_status != TransactionStatus.IDLE:
                with contextlib.suppress(Failed):
                    self.execute("ROLLBACK")
        finally:
            self.in_transaction = False
            for write in self.writes:
                # Of several of a key the last is all that others can ever see.
                self.ledger.finish(write, outcome if outcome == ABORTED or self.own.get(write.key) is write else ABORTED)
            self.own, self.writes, self.began = {}, [], None

    def subtransact(self):
        """Some operations of which nothing stays, or all."""
        own, count = dict(self.own), len(self.writes)
        self.execute("SAVEPOINT s")
        try:
            for _ in range(self.dice.randint(1, 3)):
                self.operate()
            if self.dice.random() < 0.5:
                self.execute("RELEASE s")
                return
            if self.dice.random() < 0.3:
                # An error of the caller's, in the middle of a statement that has found an entry.
                self.execute("SELECT cache_lookup(%s, %s, %s), cache_lookup(%s, '', '')", (*self.key(PERMANENT), self.user))
        except Failed:
            if self.connection is None:
                raise
        self.execute("ROLLBACK TO s")
        self.done["subtransactions rolled back"] += 1
        self.own = own
        undone, self.writes = self.writes[count:], self.writes[:count]
        for write in undone:
            self.ledger.finish(write, ABORTED)

    @contextlib.contextmanager
    def writing(self, keys, is_nothing=False, ttl=None):
        """Writes of keys by the statement that the block runs."""
        writes = [self.ledger.begin(key, is_nothing, self.began) for key in keys]
        # In a transaction they are told to have failed with it.
        self.writes += writes if self.in_transaction else []
        outcome = UNKNOWN
        try:
            yield writes
            outcome = COMMITTED
        except Failed:
            outcome = UNKNOWN if self.connection is None else ABORTED
            raise
        finally:
            last = {write.key: write for write in writes}
            if outcome == COMMITTED:
                for write in writes:
                    write.expires = time.time() + ttl if ttl and write.key[1] == EXPIRING else None
                self.own |= last if self.in_transaction else {}
            if not self.in_transaction:
                for write in writes:
                    self.ledger.finish(write, outcome if last[write.key] is write else ABORTED)

    # ── operations ───────────────────────────────────────────────────────────────────────────────

    def key(self, kind=None, user=None):
        kind = kind or self.dice.choice(TYPES)
        return user or (self.user if self.is_tenant else self.dice.choice(USERS)), kind, f"k{self.dice.randrange(KEYS)}"

    def operate(self):
        operation = self.dice.choices((self.look_up, self.look_up_many, self.get, self.upsert, self.upsert_many, self.invalidate,
                                       self.invalidate_more, self.touch, self.pry), (30, 10, 8, 22, 6, 8, 2, 6, 4))[0]
        operation()
        self.done[operation.__name__.replace("_", " ")] += 1

    def content(self, write):
        # From short to what is compressed, and what is stored out of line.
        size = self.dice.choice((0, 30, 300, 3000, 30_000))
        return {"user": write.key[0], "type": write.key[1], "key": write.key[2], "number": write.number,
                "text": "".join(self.dice.choices("abcdefghijklmnopqrstuvwxyz ", k=100)) * (size // 100) if size < 30_000 else self.dice.randbytes(size // 2).hex()}

    def ttl(self, kind):
        return self.dice.choice((0.2, 1, 3)) if kind in (EXPIRING, TOUCHED) else None

    def look_up(self):
        key = self.key()
        began, clock = self.began or time.monotonic(), time.time()
        [(content,)] = self.execute("SELECT cache_lookup(%s, %s, %s)", key)
        self.ledger.check(key, content, began, clock, self.own.get(key))

    def get(self):
        key = self.key()
        began, clock = self.began or time.monotonic(), time.time()
        rows = self.execute("SELECT content FROM cache_get(%s, %s, %s)", key).fetchall()
        self.ledger.check(key, rows[0][0] if rows else None, began, clock, self.own.get(key))

    def look_up_many(self):
        user, kind, _ = self.key()
        keys = [f"k{self.dice.randrange(KEYS + 2)}" for _ in range(self.dice.randint(1, 2 * KEYS))]
        began, clock = self.began or time.monotonic(), time.time()
        rows = self.execute("SELECT cache_key, content FROM cache_lookup_many(%s, %s, %s)", (user, kind, keys)).fetchall()
        if [key for key, _ in rows] != keys:
            self.problems.append(f"{self.name}: cache_lookup_many answers {rows} to {keys}")
        for key, content in rows:
            self.ledger.check((user, kind, key), content, began, clock, self.own.get((user, kind, key)))

    def upsert(self):
        key = self.key()
        ttl = self.ttl(key[1])
        with self.writing([key], ttl=ttl) as [write]:
            self.execute("SELECT cache_upsert(%s, %s, %s, %s::jsonb, ttl => %s, metadata => %s::jsonb, foundation_dependency => %s)",
                                    (*key, json.dumps(self.content(write)), f"{ttl} seconds" if ttl else "infinity", json.dumps({"type": key[1]}), key[1]))

    def upsert_many(self):
        user, kind, _ = self.key()
        # The same key may stand twice.
        keys = [(user, kind, f"k{self.dice.randrange(KEYS)}") for _ in range(self.dice.randint(1, KEYS))]
        ttl = self.ttl(kind)
        with self.writing(keys, ttl=ttl) as writes:
            entries = [{"user_id": user, "content_type": kind, "cache_key": write.key[2], "content": self.content(write),
                        "ttl": f"{ttl} seconds" if ttl else "infinity", "metadata": {"type": kind}, "foundation_dependency": kind} for write in writes]
            self.execute("SELECT cache_upsert_many(%s::jsonb)", (json.dumps(entries),))

    def invalidate(self):
        with self.writing([key := self.key(INVALIDATED)], is_nothing=True):
            self.execute("SELECT cache_invalidate(%s, %s, %s)", key)

    def invalidate_more(self):
        user, kind, _ = self.key(INVALIDATED)
        with self.writing([(user, kind, f"k{number}") for number in range(KEYS)], is_nothing=True):
            self.execute(*self.dice.choice((
                ("SELECT cache_invalidate_content_type(%s, %s)", (user, kind)),
                ("SELECT cache_invalidate_where(%s, %s::jsonb)", (user, json.dumps({"type": kind}))),
                ("SELECT cache_invalidate_dependents(%s, %s)", (user, kind)))))

    def touch(self):
        kind = self.dice.choice((TOUCHED, *NEVER_MISSED, MONTHS))
        ttl = "2 seconds" if kind == TOUCHED else "infinity"
        self.execute("SELECT cache_touch(%s, %s, %s, %s)", (*self.key(kind), ttl))

    def pry(self):
        """A tenant asks for, and writes to, what is another's."""
        if not self.is_tenant:
            return
        key = self.key(user=self.dice.choice([user for user in USERS if user != self.user]))
        for sql in ("SELECT cache_lookup(%s, %s, %s)", "SELECT content FROM cache_get(%s, %s, %s)",
                    "SELECT content FROM cache_lookup_many(%s, %s, ARRAY[%s])",
                    "SELECT cache_touch(%s, %s, %s)", "SELECT nullif(cache_invalidate(%s, %s, %s), 0)"):
            rows = self.execute(sql, key).fetchall()
            if any(row != (None,) for row in rows):
                self.problems.append(f"{self.name}: {sql} of {key} gives {rows} to another")


def check_all(connection, ledger):
    """Checks every entry both ways while nobody writes; returns what stands twice."""
    for way in ("on", "off"):
        connection.execute(f"SET enable_indexscan = {way}")
        for user in USERS:
            for kind in TYPES:
                keys, began, clock = [f"k{number}" for number in range(KEYS)], time.monotonic(), time.time()
                for key, content in connection.execute("SELECT * FROM cache_lookup_many(%s, %s, %s)", (user, kind, keys)).fetchall():
                    ledger.check((user, kind, key), content, began, clock)
    connection.execute("RESET enable_indexscan")
    rows = connection.execute(f"SELECT content_type, user_id, cache_key, count(*) FROM {CACHE} WHERE content_type = ANY (%s) "
                              "GROUP BY 1, 2, 3 HAVING count(*) > 1", (list(NEVER_MISSED),)).fetchall()
    return [f"entries that stand twice: {row}" for row in rows]
