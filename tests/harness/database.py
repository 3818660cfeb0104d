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
        """One that the test has not made by this class."""
        database = cls.__new__(cls)
        database.cluster, database.name = cluster, name
        return database

    def connect(self, user="postgres", **options):
        return (self.cluster.bouncer or self.cluster).connect(self.name, user, **options)

    def execute(self, sql, parameters=None):
        """Runs statements on a connection of their own; returns the rows of the last one, if it has any."""
        with self.connect() as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else None

    def value(self, sql, parameters=None):
        return self.execute(sql, parameters)[0][0]

    def contents(self):
        """Every row of every table of the extension's schema, digested: equal when nothing has changed."""
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
