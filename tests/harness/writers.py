"""Clients that write the same keys across the edge of a month."""

import random
import threading
from datetime import timedelta

import psycopg

from harness.entries import ALICE, CACHE, upsert, upsert_many
from harness.waiting import together

CLIENTS = 16
KEYS = [f"k{number}" for number in range(2000)]


class Run:
    """Clients that write the same keys, each in its own order, until the clock is well past the edge."""

    def __init__(self, database, edge, isolation="read committed", direct=False, clients=CLIENTS):
        self.database, self.edge, self.isolation, self.direct, self.clients = database, edge, isolation, direct, clients
        self.refused, self.before, self.after = [], 0, 0
        self.start = threading.Barrier(clients)

    def client(self, number):
        dice = random.Random(number)
        with self.database.connect() as connection:
            connection.execute(f"SET default_transaction_isolation = '{self.isolation}'")
            keys = dice.sample(KEYS, len(KEYS))
            self.start.wait()
            mine_after = 0
            while True:
                [(now,)] = connection.execute("SELECT clock_timestamp()").fetchall()
                if now < self.edge:
                    self.before += 1
                elif now < self.edge + timedelta(seconds=1) or mine_after < 2:
                    mine_after += 1
                    self.after += 1
                else:
                    return
                size = dice.choice((1, 1, 1, 5, 40, 300))
                batch, keys = keys[:size], keys[size:] + keys[:size]
                try:
                    if self.direct and number % 4 == 0:
                        connection.execute(
                            f"INSERT INTO {CACHE} (user_id, content_type, cache_key, content) VALUES (%s, 'story_foundation', %s, '0')",
                            (ALICE, batch[0]))
                    elif size == 1:
                        upsert(connection, str(number), (ALICE, "story_foundation", batch[0]))
                    else:
                        upsert_many(connection, batch, number)
                except psycopg.Error as error:
                    self.refused.append((error.sqlstate, "INSERT" if self.direct and number % 4 == 0 else "upsert"))

    def across(self):
        """Set the clock to a second before the edge, and let all clients write across it."""
        self.database.cluster.set_clock(self.edge - timedelta(seconds=1))
        together(*[lambda number=number: self.client(number) for number in range(self.clients)])
        assert self.database.value("SELECT now()") > self.edge
        # All clients wrote on both sides of the edge.
        assert self.before > self.clients and self.after > self.clients
        return self
