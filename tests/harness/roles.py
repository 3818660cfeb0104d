"""Roles that last as long as a test, and sessions that act as roles and users."""

import json
from contextlib import contextmanager

import psycopg


@contextmanager
def temporary_roles(cluster, *names):
    """Create roles, and drop them at the end with all that they own and may do in any database."""
    with cluster.connect() as connection:
        for name in names:
            connection.execute(f"CREATE ROLE {name} NOLOGIN")
    try:
        yield list(names)
    finally:
        with cluster.connect() as connection:
            databases = connection.execute("SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0'").fetchall()
            for (name,) in databases:
                with cluster.connect(name) as other:
                    for role in names:
                        other.execute(f"DROP OWNED BY {role}")
            for name in names:
                connection.execute(f"DROP ROLE {name}")


@contextmanager
def acting(connection, user, role="authenticated", claims=None, headers=None, keep=True):
    """A transaction as PostgREST makes one: a role, the claims of a user, and the headers of a request."""
    with connection.transaction(force_rollback=not keep):
        claims = json.dumps({"role": role, "sub": user}) if claims is None else claims
        connection.execute("SELECT pg_catalog.set_config('request.jwt.claims', %s, true)", (claims,))
        if headers is not None:
            connection.execute("SELECT pg_catalog.set_config('request.headers', %s, true)", (headers,))
        connection.execute(f"SET LOCAL ROLE {role}")
        yield connection


def outcome(connection, statement, user, role="authenticated", keep=False):
    """What a statement tells a user: its rows, the number of rows that it changed, or the fields of its error."""
    try:
        with acting(connection, user, role, keep=keep):
            if statement.startswith("COPY"):
                with connection.cursor().copy(statement) as copy:
                    return [] if "FROM STDIN" in statement else list(copy)
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else cursor.rowcount
    except psycopg.Error as error:
        diag = error.diag
        return (diag.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint)


def sqlstates(connection, statements, user, role="authenticated"):
    """The SQLSTATE of each statement that fails, the outcome of each other one."""
    outcomes = {statement: outcome(connection, statement, user, role) for statement in statements}
    return {statement: found[0] if isinstance(found, tuple) else found for statement, found in outcomes.items()}


def default_privileges(where=""):
    """The default privileges of Supabase, by which all that is created is open to everybody."""
    return "; ".join(f"ALTER DEFAULT PRIVILEGES {where} GRANT ALL ON {kind} TO anon, authenticated, service_role"
                     for kind in ("TABLES", "FUNCTIONS", "SEQUENCES"))


# Statements by which a malicious owner's trigger would get more than the owner's rights. Each must fail.
ESCAPES = [
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "RESET ROLE",
    "RESET SESSION AUTHORIZATION",
    "SELECT set_config('role', 'postgres', false)",
    "ALTER ROLE cache_owner SUPERUSER",
    "CREATE ROLE made_by_a_trigger SUPERUSER",
    "SET LOCAL session_replication_role = replica",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_read_file('PG_VERSION')",
    "UPDATE pg_authid SET rolsuper = true WHERE rolname = 'cache_owner'",
    "SELECT count(*) FROM pg_authid",
]
