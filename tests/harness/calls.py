"""The texts of valid calls; a test replaces some of their arguments."""

import json

from harness.entries import ALICE


def upsert(**arguments):
    arguments = {"user_id": f"'{ALICE}'", "content_type": "'t'", "cache_key": "'k'", "content": "'2'", **arguments}
    return f"SELECT cache_upsert({', '.join(f'{name} => {value}' for name, value in arguments.items())})"


def entry(**fields):
    return {"user_id": ALICE, "content_type": "t", "cache_key": "new", "content": 2, **fields}


def upsert_many(*entries):
    return "SELECT cache_upsert_many('{}')".format(json.dumps(entries).replace("'", "''"))
