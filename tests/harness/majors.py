"""Servers of several major versions."""

import os
import subprocess

from harness.cluster import ROOT, bindir_of

MAJORS = [int(major) for major in os.environ.get("MAJORS", "14 15 16 17 18").split()]


def bindir(major):
    return bindir_of(subprocess.check_output([ROOT / "tests/tools/postgresql.sh", str(major)], text=True).strip())


def of_both_versions(found, old, new):
    """A state without what PostgreSQL 17 added: the privilege MAINTAIN, identity columns in partitions, and the row types of views among an
    extension's members."""
    if not old < 17 <= new:
        return found
    return {**found, "columns": [(*row[:4], *row[5:]) for row in found["columns"]],
            "members": [row for row in found["members"] if not row[0].startswith("type ")],
            "table grants": [row for row in found["table grants"] if row[2] != "MAINTAIN"]}
