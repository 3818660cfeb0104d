"""Reports, with their rows as dictionaries."""

from harness.roles import temporary_roles


def columns_of(connection, query, parameters=None):
    cursor = connection.execute(query, parameters)
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row)) for row in cursor]


def report(database, name):
    with database.connect() as connection:
        return columns_of(connection, f"SELECT * FROM {name}")


def rows_for_each_role(database):
    """The alerts and checks as three roles see them, two of which may not see all settings of the server."""
    found = {}
    with temporary_roles(database.cluster, "watcher", "backend"), database.connect() as connection:
        connection.execute("GRANT pg_read_all_data TO watcher")
        connection.execute("SELECT cache_grant_service('backend')")
        for role in ("postgres", "watcher", "backend"):
            connection.execute(f"SET ROLE {role}")
            found[role] = [[(row["rule"], row["what_to_do"]) for row in columns_of(connection, "SELECT * FROM cache_alerts")],
                           [(row["name"], row["ok"], row["hint"]) for row in columns_of(connection, "SELECT * FROM verify_production_cache()")]]
            connection.execute("RESET ROLE")
    return found


def failed_checks(database, report="verify_production_cache"):
    """The names of the checks that fail."""
    return [row[0] for row in database.execute(f"SELECT * FROM {report}() WHERE NOT ok")]


def checks(database, schema="public"):
    """The hint of each check that fails, by its name."""
    return {name: hint for name, hint in database.execute(f"SELECT name, hint FROM {schema}.verify_production_cache() WHERE NOT ok")}
