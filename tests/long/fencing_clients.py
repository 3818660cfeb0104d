"""Clients of the fencing run: they look up, generate, store, edit and invalidate at random, in transactions and without, of which some
roll back. Every edit gives its source a number that no other edit has, and every answer carries the number that its generator
has read, so that what is served can be compared with the source by one snapshot."""

import contextlib
import json
import time
import uuid

from psycopg.pq import TransactionStatus

from harness.entries import CACHE
from long.hostile_clients import Actor, Failed

TENANT = "fencing_tenant"
USERS = [str(uuid.UUID(int=(number << 64) + 0xfe2ce, version=4)) for number in range(1, 3)]
# Nobody edits anything of hers.
QUIET = str(uuid.UUID(int=(99 << 64) + 0xfe2ce, version=4))
KIND = "fenced"
OTHER_KIND = "quiet"
# Sources of each user: the answers made from the first name it as their foundation, those made from the second do not.
SOURCES = {"named": "named", "unnamed": None}
KEYS = 3

# Canceled, terminated, deadlock, lock timeout, serialization failure.
TOLD = {"57014", "57P01", "40P01", "55P03", "40001"}

CHECKED = {
    "lookup": "cache_lookup(s.user_id, %(kind)s, k.key)",
    "get": "(SELECT content FROM cache_get(s.user_id, %(kind)s, k.key))",
    "lookup many": "(SELECT content FROM cache_lookup_many(s.user_id, %(kind)s, ARRAY[k.key]))",
    "search": "(SELECT content FROM cache_search(s.user_id, %(kind)s, jsonb_build_object('source', s.name), 100) c WHERE c.cache_key = k.key)",
    "select": f"(SELECT content FROM {CACHE} c WHERE c.user_id = s.user_id AND c.content_type = %(kind)s AND c.cache_key = k.key AND expires_at > now())",
}
SERVED = "SELECT s.user_id::text, s.name, k.key, s.version, {} FROM source s, LATERAL (SELECT s.name || n AS key FROM generate_series(1, %(keys)s) n) k " \
         "WHERE s.user_id = %(user)s"


class Client(Actor):
    """Every other one is a tenant."""

    allowed = TOLD

    def __init__(self, database, number):
        super().__init__(database, f"client {number}", number)
        self.is_tenant = number % 2 == 1
        self.user = USERS[number // 2 % len(USERS)]

    def prepare(self, connection):
        if self.is_tenant:
            connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (self.user,))
            connection.execute(f"SET ROLE {TENANT}")

    def act(self):
        user = self.user if self.is_tenant else self.dice.choice(USERS)
        operation = self.dice.choices((self.check, self.check_in_a_transaction, self.check_fetched, self.generate, self.generate_in_a_transaction,
                                       self.edit, self.use_a_lease_that_was_rolled_back, self.edit_with_an_older_lease),
                                      (25, 5, 8, 40, 10, 6, 2, 2))[0]
        try:
            operation(user)
            self.done[operation.__name__.replace("_", " ")] += 1
        finally:
            while self.connection is not None and self.connection.info.transaction_status != TransactionStatus.IDLE:
                with contextlib.suppress(Failed):
                    self.execute("ROLLBACK")
        time.sleep(self.dice.random() * 0.01)

    def row(self, sql, parameters=None):
        return self.execute(sql, parameters).fetchone()

    def pause(self, longest=0.03):
        if self.dice.random() < 0.6:
            time.sleep(self.dice.random() * longest)

    # ── what is served ───────────────────────────────────────────────────────────────────────────

    def wrong(self, how, user, name, key, version, content):
        edits = self.execute("SELECT version, way FROM edited WHERE user_id = %s AND name = %s AND version > %s AND version <= %s ORDER BY version",
                             (user, name, content["version"], version)).fetchall()
        self.problems.append(f"{self.name}: {how} serves {content} under {key} of {user}, whose source {name} is {version}; edited by {edits}")

    def compare(self, how, rows):
        for user, name, key, version, content in rows:
            if content is not None:
                self.done["hits"] += 1
                if content["version"] != version:
                    self.wrong(how, user, name, key, version, content)

    def check(self, user):
        """Source and answer by the snapshot of one statement."""
        how = self.dice.choice(list(CHECKED))
        self.compare(how, self.execute(SERVED.format(CHECKED[how]), {"user": user, "kind": KIND, "keys": KEYS}).fetchall())

    def check_in_a_transaction(self, user):
        """Source and answers by the snapshot of a transaction, at any later moment."""
        self.execute(f"BEGIN ISOLATION LEVEL {self.dice.choice(('REPEATABLE READ', 'SERIALIZABLE'))} {self.dice.choice(('READ ONLY', ''))}")
        versions = dict(self.execute("SELECT name, version FROM source WHERE user_id = %s", (user,)).fetchall())
        self.pause()
        for name, version in versions.items():
            for number in range(1, KEYS + 1):
                content = self.row("SELECT cache_lookup(%s, %s, %s)", (user, KIND, f"{name}{number}"))[0]
                self.compare("a lookup in a transaction", [(user, name, f"{name}{number}", version, content)])
        self.execute("COMMIT")

    def check_fetched(self, user):
        """What cache_fetch() serves is at least as new as the snapshot of its statement, live or stale."""
        name, key = self.choose()
        found = self.row("SELECT s.version, f.state, f.content, f.lease FROM source s, LATERAL cache_fetch(s.user_id, %s, %s, foundation_dependency => %s) f "
                         "WHERE s.user_id = %s AND s.name = %s", (KIND, key, SOURCES[name], user, name))
        version, state, content, lease = found
        self.done[f"fetched {state}"] += 1
        if content is not None and content["version"] < version:
            self.wrong(f"cache_fetch() with {state}", user, name, key, version, content)
        if lease is not None:
            self.execute("SELECT cache_release(%s)", (lease,))

    # ── who generates ────────────────────────────────────────────────────────────────────────────

    def choose(self):
        name = self.dice.choice(list(SOURCES))
        return name, f"{name}{self.dice.randint(1, KEYS)}"

    def fetch(self, user, name, key):
        wait = self.dice.choice(("0", "0", "20 ms", "1 s"))
        state, content, lease = self.row("SELECT state, content, lease FROM cache_fetch(%s, %s, %s, wait => %s, foundation_dependency => %s)",
                                         (user, KIND, key, wait, SOURCES[name]))
        self.done[f"fetched {state}" + ("" if lease or state != "generate" else " without a lease")] += 1
        if (lease is not None) > (state in ("generate", "refresh")) or (content is not None) != (state in ("hit", "stale", "refresh")):
            self.problems.append(f"{self.name}: {state} with lease {lease} and content {content}")
        return lease

    def read(self, user, name):
        return self.row("SELECT version FROM source WHERE user_id = %s AND name = %s", (user, name))[0]

    def store(self, user, name, key, version, lease):
        """Whether the answer was stored; the commit may still refuse it."""
        entry = {"user_id": user, "content_type": KIND, "cache_key": key, "content": {"version": version, "by": self.name}, "metadata": {"source": name},
                 "foundation_dependency": SOURCES[name], "lease": str(lease), "ttl": self.dice.choice(("1 day", "1 day", "50 ms"))}
        if self.dice.random() < 0.3:
            ids = self.row("SELECT cache_upsert_many(%s::jsonb)", (json.dumps([entry]),))[0]
            stored = ids[0] is not None
        else:
            names = ", ".join(f"{field} => %({field})s" for field in entry)
            stored = self.row(f"SELECT cache_upsert({names})", {**entry, "content": json.dumps(entry["content"]), "metadata": json.dumps(entry["metadata"])}
                              )[0] is not None
        self.done["stored" if stored else "refused"] += 1
        return stored

    def generate(self, user):
        name, key = self.choose()
        lease = self.fetch(user, name, key)
        if lease is None:
            return
        chance = self.dice.random()
        if chance < 0.02:
            # It dies with the lease.
            self.connection.close()
            self.connection = self.pid = None
            return
        version = self.read(user, name)
        self.pause()
        if chance < 0.07:
            self.execute("SELECT cache_release(%s, failed => %s, retry_after => '20 ms')", (lease, self.dice.random() < 0.5))
            return
        if chance < 0.12:
            self.execute("SELECT cache_extend_lease(%s)", (lease,))
        if self.dice.random() < 0.5:
            self.store(user, name, key, version, lease)
        else:
            self.execute("BEGIN")
            if self.dice.random() < 0.3:
                self.execute("SAVEPOINT s")
                self.store(user, name, key, version, lease)
                self.execute("ROLLBACK TO s")
            self.store(user, name, key, version, lease)
            self.pause(0.05)
            self.execute(self.dice.choice(("COMMIT", "COMMIT", "COMMIT", "ROLLBACK")))

    def generate_in_a_transaction(self, user):
        """All of it in one, whose rollback ends the lease, too."""
        name, key = self.choose()
        self.execute("BEGIN")
        if lease := self.fetch(user, name, key):
            version = self.read(user, name)
            self.pause()
            self.store(user, name, key, version, lease)
        self.execute(self.dice.choice(("COMMIT", "COMMIT", "ROLLBACK")))

    def use_a_lease_that_was_rolled_back(self, user):
        name, key = self.choose()
        self.execute("BEGIN")
        whole = self.dice.random() < 0.5
        self.execute("SAVEPOINT s")
        lease = self.fetch(user, name, key)
        self.execute("ROLLBACK" if whole else "ROLLBACK TO s")
        if not whole:
            self.execute("COMMIT")
        if lease and self.store(user, name, key, self.read(user, name), lease):
            self.problems.append(f"{self.name}: stored with a lease whose grant was rolled back")

    def edit_with_an_older_lease(self, user):
        """Stores what it has read before its own edit."""
        name, key = self.choose()
        if lease := self.fetch(user, name, key):
            version = self.read(user, name)
            self.execute("BEGIN")
            self.edit_source(user, name)
            self.note(user, name, self.invalidate(user, name))
            if self.store(user, name, key, version, lease):
                self.problems.append(f"{self.name}: stored what it has outdated itself")
            self.execute("COMMIT")

    # ── who edits ────────────────────────────────────────────────────────────────────────────────

    def edit(self, user):
        isolation = self.dice.choice(("READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"))
        name = self.dice.choice(list(SOURCES))
        self.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        if self.dice.random() < 0.2:
            # Another edit, of which nothing stays, and of what was made from it.
            self.execute("SAVEPOINT s")
            self.change(user, name, isolation)
            self.execute("ROLLBACK TO s")
        self.change(user, name, isolation)
        time.sleep(self.dice.choice((0, 0, 0, 0.005, 0.05)) if self.dice.random() < 0.95 else 0.4)
        end = self.dice.choice(("COMMIT", "COMMIT", "COMMIT", "ROLLBACK"))
        self.execute(end)
        self.done["edits"] += end == "COMMIT"

    def change(self, user, name, isolation):
        """The edit and the invalidation, in any order; perhaps an own answer after both."""
        if self.dice.random() < 0.4:
            way = self.invalidate(user, name, isolation)
            self.pause()
            self.edit_source(user, name)
            self.note(user, name, way)
            return
        self.edit_source(user, name)
        self.note(user, name, self.invalidate(user, name, isolation))
        if isolation == "READ COMMITTED" and self.dice.random() < 0.3:
            key = f"{name}{self.dice.randint(1, KEYS)}"
            if lease := self.fetch(user, name, key):
                self.done["own answers"] += self.store(user, name, key, self.read(user, name), lease)

    def edit_source(self, user, name):
        self.execute("UPDATE source SET version = nextval('versions') WHERE user_id = %s AND name = %s", (user, name))

    def note(self, user, name, way):
        """How the edit was made known, for who finds that it was not."""
        self.execute("INSERT INTO edited SELECT user_id, name, version, %s FROM source WHERE user_id = %s AND name = %s", (way, user, name))

    def invalidate(self, user, name, isolation="READ COMMITTED"):
        ways = ["type", "metadata", "keys"] + ["dependents"] * 4 * (SOURCES[name] is not None)
        if isolation == "READ COMMITTED":
            # A DELETE with an older snapshot does not see what has been stored since.
            ways += ["end and delete"]
        if not self.is_tenant:
            ways += ["all users", "forget"]
        way = self.dice.choice(ways)
        if way == "dependents":
            self.execute("SELECT cache_invalidate_dependents(%s, %s)", (user, SOURCES[name]))
        elif way == "type":
            self.execute("SELECT cache_invalidate_content_type(%s, %s)", (user, KIND))
        elif way == "metadata":
            self.execute("SELECT cache_invalidate_where(%s, %s::jsonb)", (user, json.dumps({"source": name})))
        elif way == "keys":
            for number in range(1, KEYS + 1):
                self.execute("SELECT cache_invalidate(%s, %s, %s)", (user, KIND, f"{name}{number}"))
        elif way == "end and delete":
            self.execute("SELECT cache_end_leases(%s, %s)", (user, KIND))
            self.execute(f"DELETE FROM {CACHE} WHERE user_id = %s AND content_type = %s", (user, KIND))
        elif way == "all users":
            self.execute("SELECT cache_invalidate_content_type_for_all_users(%s)", (KIND,))
        else:
            self.execute("SELECT * FROM cache_forget_user(%s)", (user,))
        self.done[f"invalidated by {way}"] += 1
        return way


class Flooder(Actor):
    """A tenant that invalidates as much as it can, of its own and in the name of others."""

    allowed = TOLD

    def __init__(self, database):
        super().__init__(database, "flooder", 77)
        self.number = 0

    def prepare(self, connection):
        connection.execute("SELECT set_config('infinite_pages_cache.user_id', %s, false)", (USERS[0],))
        connection.execute(f"SET ROLE {TENANT}")

    def act(self):
        self.execute("BEGIN")
        for _ in range(self.dice.choice((1, 15, 17, 60))):
            self.number += 1
            user = self.dice.choice((USERS[0], QUIET))
            self.execute(*self.dice.choice((
                ("SELECT cache_invalidate(%s, %s, %s)", (user, OTHER_KIND, f"k{self.number}")),
                ("SELECT cache_invalidate_content_type(%s, %s)", (user, f"{OTHER_KIND} {self.number}")),
                ("SELECT cache_invalidate_dependents(%s, %s)", (user, f"f{self.number}")),
                ("SELECT cache_invalidate_where(%s, '{\"a\": 1}')", (user,)),
                ("SELECT cache_end_leases(%s, %s)", (user, OTHER_KIND)))))
            self.done["invalidations"] += 1
        time.sleep(self.dice.random() * 0.02)
        self.execute(self.dice.choice(("COMMIT", "ROLLBACK")))


class Quiet(Actor):
    """A user whose answers nothing of her own invalidates: each of her fetches gets a lease, and each of her fills is stored."""

    def __init__(self, database, crashes):
        super().__init__(database, "quiet", 99)
        # A crash takes its connection, and with it what it had begun.
        self.allowed = {"57P01"} if crashes else set()
        self.number = 0

    def act(self):
        self.number += 1
        key = f"k{self.number}"
        state, lease = self.execute("SELECT state, lease FROM cache_fetch(%s, %s, %s, foundation_dependency => 'f')", (QUIET, OTHER_KIND, key)).fetchone()
        time.sleep(self.dice.random() * 0.02)
        found = self.execute("SELECT cache_upsert(%s, %s, %s, '1', metadata => '{\"a\": 1}', foundation_dependency => 'f', lease => %s)",
                             (QUIET, OTHER_KIND, key, lease)).fetchone()[0]
        if state != "generate" or lease is None or found is None:
            self.problems.append(f"quiet: {state}, lease {lease}, stored as {found}, in spite of nobody's right to change that")
        self.done["stored"] += found is not None
        time.sleep(0.01)
