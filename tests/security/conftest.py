"""Databases and roles of attackers."""

import pytest

from harness.entries import BOB
from harness.roles import default_privileges, temporary_roles


@pytest.fixture
def supabase(roles, empty_database):
    """A database like Supabase's, with the extension and an entry of Bob's."""
    empty_database.execute(default_privileges("IN SCHEMA public"))
    empty_database.execute("CREATE EXTENSION infinite_pages_cache")
    empty_database.execute("SELECT cache_upsert(%s, 't', 'k', '\"the words of bob\"')", (BOB,))
    return empty_database


@pytest.fixture
def mallory(cluster):
    """A role that can log in and has no rights."""
    with temporary_roles(cluster, "mallory"), cluster.connect() as connection:
        connection.execute("ALTER ROLE mallory LOGIN")
        yield "mallory"
