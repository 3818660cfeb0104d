"""Entries with random numbers, and the arithmetic of reports in Python."""

import random
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from harness.entries import ALICE, BOB, CACHE
from harness.months import add_month, month


def rounded(number, digits=2):
    exact = Decimal(number.numerator) / Decimal(number.denominator)
    return exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)


def mean(values):
    return rounded(Fraction(sum(Fraction(str(value)) for value in values)) / len(values))


def grouped(entries, name):
    groups = defaultdict(list)
    for entry in entries:
        groups[entry[name]].append(entry)
    return groups


def of(group, name):
    return [entry[name] for entry in group]


def fill(database):
    """Add entries of three users in three months. Returns the same entries in Python, and the time of their making."""
    dice = random.Random(20261123)
    now = datetime.now(timezone.utc)
    for offset in (-2, -1):
        add_month(database, offset)
    entries = []
    for number in range(200):
        offset = dice.choice((-2, -1, 0))
        entries.append({
            "user_id": dice.choice((ALICE, BOB, "c0c00000-0000-4000-8000-000000000003")),
            "content_type": dice.choice(("tone", "setting", "themes", "Unfug")), "cache_key": f"k{number}",
            "created_at": month(offset) + timedelta(seconds=number),
            "expires_at": now + timedelta(days=dice.randint(1, 30)) * dice.choice((1, 1, 1, -1)),
            "hit_count": dice.randint(0, 1000), "token_cost_saved": dice.randint(0, 10**10),
            "reuse_score": Decimal(dice.randint(0, 100)) / 10, "priority_tier": dice.randint(1, 3),
            "token_cost": Decimal(dice.randint(0, 999)) / 100,
            "last_accessed": dice.choice((None, now - timedelta(minutes=dice.randint(1, 10**5)))),
        })
    with database.connect() as connection:
        connection.cursor().executemany(
            f"INSERT INTO {CACHE} ({', '.join(entries[0])}, content) VALUES ({', '.join(f'%({name})s' for name in entries[0])}, '1')", entries)
    return entries, now
