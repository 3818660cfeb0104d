"""A database of a cluster, with the extension or without."""

import itertools

_numbers = itertools.count()


class Database:
    """A database with the extension."""

    def __init__(self, cluster, extension=True):
        self.cluster = cluster
        self.name = f"test_{next(_numbers)}"
        with cluster.connect() as connection:
            connection.execute(f"CREATE DATABASE {self.name}")
        if extension:
            self.execute("CREATE EXTENSION infinite_pages_cache")

    @classmethod
    def existing(cls, cluster, name):
        """A database that something else has created."""
        database = cls.__new__(cls)
        database.cluster, database.name = cluster, name
        return database

    def connect(self, user="postgres", **options):
        return (self.cluster.bouncer or self.cluster).connect(self.name, user, **options)

    def execute(self, sql, parameters=None):
        """Run statements on a new connection. Returns the rows of the last statement, if it returns any."""
        with self.connect() as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else None

    def value(self, sql, parameters=None):
        """The first column of the first row."""
        return self.execute(sql, parameters)[0][0]

    def contents(self):
        """A digest of each table of the extension's schema, to compare with a later one."""
        with self.connect() as connection:
            tables = connection.execute(
                "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_extension e ON e.extnamespace = c.relnamespace "
                "WHERE e.extname = 'infinite_pages_cache' AND c.relkind = 'r' ORDER BY 1").fetchall()
            return {table: connection.execute(
                f"SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {table} t").fetchone()
                for (table,) in tables}

    def drop(self):
        with self.cluster.connect() as connection:
            connection.execute(f"DROP DATABASE {self.name} WITH (FORCE)")
