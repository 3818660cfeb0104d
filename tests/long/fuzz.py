#!/usr/bin/env python
"""Generated statements: sqlsmith asks a database with the extension whatever its catalog allows, as a tenant, as a service and as
superuser in turn. Prints how many statements ran and their errors by SQLSTATE, and fails on a crash, on anything in the server's log
that tells of a defect, on an internal error that is not one of PostgreSQL's own, and when the cache does not work afterwards.

    python tests/long/fuzz.py                     an hour
    FUZZ_SECONDS=60 python tests/long/fuzz.py     a short one
    FUZZ_SEED=7 python tests/long/fuzz.py         other statements
"""

import collections
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).parent.parent))
from harness.cluster import Cluster
from harness.database import Database
from harness.entries import ALICE, BOB, CACHE
from harness.server_log import defects
from harness.worker import wait_until

SECONDS = float(os.environ.get("FUZZ_SECONDS", "3600"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
# Each turn has a database of its own, so that what a superuser's statements have broken stays there.
TURN = 120

TENANT, SERVICE, SUPERUSER = "fuzz_tenant", "fuzz_service", "postgres"
ROLES = [TENANT, SERVICE, SUPERUSER]

SETTINGS = {
    "infinite_pages_cache.naptime": "1s", "log_line_prefix": "%m [%p] ", "log_error_verbosity": "verbose", "log_min_error_statement": "error",
    "track_functions": "all", "autovacuum_naptime": "10s", "restart_after_crash": "on", "max_prepared_transactions": "5",
}

# Internal errors that PostgreSQL's own functions and planner raise when they are called with what no client passes.
POSTGRESQL = re.compile("|".join([
    "^cache lookup failed for ", "^could not find conversion function ", "^failed to find conversion function ", "^unrecognized ",
    "^invalid INTERVAL typmod", "^invalid (attribute|role|language|object class|subscript|non-zero objectSubId) ", "^unsupported (object|class|lock|relation) ",
    "^could not determine ", "^variable not found in subplan target list", "^plan should not reference ", "^unexpected end of ", "^bogus ",
    "^expected 2-element int8 array",
]))

ENTRY = re.compile(r"^\S+ \S+ \S+ \[(\d+)\] (?:(ERROR|FATAL|PANIC):  (\w{5}): (.*)|(LOCATION|STATEMENT|CONTEXT|DETAIL|HINT|QUERY):  (.*)|.*)$")


# sqlsmith calls what it finds in pg_proc, once it finds it, and nothing that returns rows. So that the extension's functions are no needle in a
# haystack, it finds them, and of PostgreSQL's a twentieth; what returns rows or nothing has a function around it. Of types that stand for any
# range or enum it makes values, which is an error: it finds one of them under the name of the other. To give back an advisory lock that it does
# not hold is a warning, which in the log would tell of a defect.
VISIBLE = """
    DO $$
    DECLARE f record;
    BEGIN
        FOR f IN SELECT p.oid, p.proname, p.prorettype = 'void'::regtype AS is_void,
                        (SELECT string_agg(format_type(t, NULL), ', ' ORDER BY n) FROM unnest(p.proargtypes) WITH ORDINALITY a (t, n)) AS types,
                        (SELECT string_agg('$' || n, ', ' ORDER BY n) FROM generate_series(1, p.pronargs) n) AS arguments
                 FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
                 JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'infinite_pages_cache'
                 WHERE p.proretset OR p.prorettype = 'void'::regtype
        LOOP
            EXECUTE format('CREATE FUNCTION rows_of_%s(%s) RETURNS jsonb LANGUAGE sql AS $f$ SELECT jsonb_agg(to_jsonb(r)) FROM %s(%s) %s $f$',
                           f.proname, f.types, f.proname, f.arguments, CASE WHEN f.is_void THEN 'AS r (nothing)' ELSE 'AS r' END);
        END LOOP;
    END $$;
    CREATE SCHEMA fuzz;
    CREATE VIEW fuzz.pg_proc AS
        SELECT p.oid, p.proname, p.pronamespace, p.prorettype, p.proargtypes, p.proretset, p.prokind FROM pg_catalog.pg_proc p
        WHERE provariadic = 0 AND proname NOT LIKE 'pg\\_advisory\\_unlock%%' AND (proname LIKE 'rows\\_of\\_%%' OR (p.oid::bigint + {seed}) %% 20 = 0
           OR EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'infinite_pages_cache'
                      WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'));
    CREATE TYPE public.mood AS ENUM ('noir', 'western');
    CREATE VIEW fuzz.pg_type AS
        SELECT t.oid, coalesce(a.typname, t.typname) AS typname, coalesce(a.typnamespace, t.typnamespace) AS typnamespace, t.typdelim, t.typrelid, t.typelem,
               t.typarray, CASE WHEN a.oid IS NULL THEN t.typtype ELSE 'b' END AS typtype
        FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type a ON t.typnamespace = 'pg_catalog'::regnamespace
            AND (t.typname, a.typname) IN (('anyrange', 'int4range'), ('anymultirange', 'int4multirange'), ('anyenum', 'mood'),
                                           ('anycompatiblerange', 'int4range'), ('anycompatiblemultirange', 'int4multirange'));
    GRANT SELECT ON fuzz.pg_type TO PUBLIC;
    GRANT USAGE ON SCHEMA fuzz TO PUBLIC; GRANT SELECT ON fuzz.pg_proc TO PUBLIC""".replace("%%", "%")


class Error:
    """An error in the log, with all that is said of it."""

    def __init__(self, sqlstate, message):
        self.sqlstate, self.message, self.fields = sqlstate, message, {}

    def is_internal(self):
        return self.sqlstate.startswith("XX")

    def is_of_the_extension(self):
        """Raised by its code, or by a statement that it runs."""
        return ".rs:" in self.fields.get("LOCATION", "") or "infinite_pages_cache" in self.fields.get("CONTEXT", "")

    def is_known(self):
        return not self.is_of_the_extension() and POSTGRESQL.match(self.message)


def errors_of(log):
    """The errors in a log. Lines of several processes stand between one another's; a line's continuation begins with a tab."""
    errors, latest, field = [], {}, None
    for line in log.splitlines():
        if line.startswith("\t"):
            if field:
                error, name = field
                error.fields[name] = error.fields.get(name, "") + line
            continue
        field = None
        if not (match := ENTRY.match(line)):
            continue
        pid, level, sqlstate, message, name, value = match.groups()
        if level:
            latest[pid] = Error(sqlstate, message)
            errors.append(latest[pid])
        elif name and pid in latest and name not in latest[pid].fields:
            latest[pid].fields[name] = value
            field = latest[pid], name
    return errors


def set_up(database, seed):
    """Some of everything, so that what is generated finds values of each type."""
    with database.connect() as connection:
        connection.execute("SELECT cache_grant_tenant(%s), cache_grant_service(%s)", (TENANT, SERVICE))
        for user in (ALICE, BOB):
            for number in range(60):
                connection.execute(
                    """SELECT cache_upsert(%s, %s, %s, %s::text::jsonb, ttl => %s::cache_ttl, metadata => '{"genre": "noir"}', token_cost => %s::numeric, story_id => %s,
                                           foundation_dependency => 'foundation', prompt_variables => '{"a": [1, 2]}')""",
                    (user, ("tone", "themes", "chapter_content")[number % 3], f"k{number}", f'{{"text": "{"x" * number * 50}", "n": {number}}}',
                     "infinity" if number % 4 else "2 seconds", number, BOB))
                connection.execute("SELECT cache_lookup(%s, 'tone', %s)", (user, f"k{number // 2}"))
        for months in (-3, -2):
            connection.execute("SELECT create_monthly_cache_partition((now() AT TIME ZONE 'UTC') + %s * interval '1 month')", (months,))
        connection.execute(f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content, created_at, expires_at) "
                           "SELECT %s, 'tone', 'old' || n, '1', now() - interval '2 months', 'infinity' FROM generate_series(1, 20) n", (ALICE,))
        connection.execute("SELECT * FROM cache_run_maintenance()")
        # Values of the extension's own type are in no other table.
        connection.execute("CREATE TABLE values_of_types AS SELECT %s::uuid AS a_user, '1 day'::cache_ttl AS ttl, '1 day'::interval AS a_while, "
                           "'k1'::text AS a_key, 'tone'::text AS a_type, jsonb_build_array(jsonb_build_object('user_id', %s::text, 'content_type', 'tone', "
                           "'cache_key', 'k', 'content', 1)) AS a_batch, ARRAY['k1', 'k2'] AS keys", (ALICE, ALICE))
        connection.execute(VISIBLE.replace("{seed}", str(seed)))
        connection.execute(f"GRANT SELECT ON values_of_types TO {TENANT}, {SERVICE}")


def smith(database, role, seed, seconds):
    """Lets sqlsmith work for a while."""
    target = (f"host={database.cluster.directory} dbname={database.name} user={role} "
              f"options='-c infinite_pages_cache.user_id={ALICE} -c lock_timeout=500ms -c search_path=fuzz,pg_catalog,public'")
    command = ["sqlsmith", f"--target={target}", f"--seed={seed}", "--exclude-catalog"]
    with open(database.cluster.directory / "sqlsmith", "w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd="/")
        try:
            ended = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return None
        output.seek(0)
        return f"sqlsmith ended by itself, with {ended}: {output.read()[-1000:]}"


class Tally:
    """What has been done and found."""

    def __init__(self):
        self.statements, self.sqlstates, self.internal = collections.Counter(), collections.Counter(), collections.Counter()
        self.calls, self.problems = collections.Counter(), []

    def take_log(self, cluster, role):
        log = cluster.log()
        os.truncate(cluster.directory / "log", 0)
        self.problems += [f"{role}: {line}" for line in defects(log)]
        for error in errors_of(log):
            self.sqlstates[error.sqlstate] += 1
            if error.is_internal():
                self.internal[error.sqlstate, re.sub(r"\d+", "N", error.message)] += 1
                if not error.is_known():
                    self.problems.append(f"{role}: {error.sqlstate}: {error.message}\n    " + "\n    ".join(
                        f"{name}: {value[:6000]}" for name, value in error.fields.items()))

    def take_counts(self, database, role, before):
        def counted():
            [row] = database.execute("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")
            return row[0]
        # A session reports what it has done when it ends.
        wait_until(lambda: database.cluster.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name = 'sqlsmith'", (database.name,)) == [(0,)])
        self.statements[role] += counted() - before
        for name, calls in database.execute(
                "SELECT f.funcname, sum(f.calls)::bigint FROM pg_stat_user_functions f JOIN pg_depend d ON d.objid = f.funcid AND d.classid = 'pg_proc'::regclass "
                "JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'infinite_pages_cache' AND d.deptype = 'e' GROUP BY 1"):
            self.calls[name] += calls

    def report(self):
        print(f"statements: {sum(self.statements.values())} ({', '.join(f'{role} {number}' for role, number in self.statements.items())})")
        print(f"errors: {sum(self.sqlstates.values())}; " + ", ".join(f"{sqlstate} {number}" for sqlstate, number in self.sqlstates.most_common()))
        for (sqlstate, message), number in self.internal.most_common():
            print(f"internal: {number} of {sqlstate}: {message}")
        print("calls: " + ", ".join(f"{name} {number}" for name, number in self.calls.most_common()))


def works(database):
    """The cache serves as before, and PostgreSQL finds its indexes in order."""
    with database.connect() as connection:
        key = (ALICE, "after", "fuzz")
        connection.execute("SELECT cache_upsert(%s, %s, %s, '\"after\"', ttl => 'infinity')", key)
        return connection.execute("SELECT cache_lookup(%s, %s, %s)", key).fetchone() == ("after",)


def turn(cluster, tally, role, seed, seconds):
    database = Database(cluster)
    set_up(database, seed)
    before = database.value("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")
    tally.take_log(cluster, "set up")
    if ended := smith(database, role, seed, seconds):
        tally.problems.append(f"{role}, seed {seed}: {ended}")
    cluster.wait_until_up()
    tally.take_counts(database, role, before)
    tally.take_log(cluster, f"{role}, seed {seed}")
    try:
        if not works(database):
            tally.problems.append(f"{role}, seed {seed}: what was stored is not found")
    except psycopg.Error as error:
        # A superuser may have changed the tables; that is an error, and no internal one.
        if role != SUPERUSER or (error.sqlstate or "XX").startswith("XX"):
            tally.problems.append(f"{role}, seed {seed}: afterwards {error.sqlstate}: {error}")
    database.drop()
    tally.take_log(cluster, f"after {role}, seed {seed}")


def main():
    cluster, tally = Cluster(SETTINGS), Tally()
    try:
        cluster.execute(f"CREATE ROLE {TENANT} LOGIN; CREATE ROLE {SERVICE} LOGIN")
        started, number, printed = time.monotonic(), 0, 0
        while (left := SECONDS - (time.monotonic() - started)) > 1:
            turn(cluster, tally, ROLES[number % len(ROLES)], SEED * 100_000 + number, min(TURN, left, SECONDS / len(ROLES)))
            number += 1
            for problem in tally.problems[printed:]:
                print(problem)
            printed = len(tally.problems)
            print(f"{time.monotonic() - started:6.0f} s: {sum(tally.statements.values())} statements, {sum(tally.sqlstates.values())} errors, "
                  f"{len(tally.problems)} problems", flush=True)
    finally:
        tally.report()
        cluster.remove()
    if len(tally.statements) < len(ROLES) or sum(tally.statements.values()) < 10 * SECONDS or sum(tally.calls.values()) < SECONDS:
        tally.problems.append("hardly a statement ran, or hardly one called the extension")
    print(*tally.problems[printed:], f"problems: {len(tally.problems)}", sep="\n")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
