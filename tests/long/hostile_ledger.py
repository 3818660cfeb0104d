"""What a lookup may answer: the writes of each key, when they were sent and acknowledged, and how they ended. Each
content carries its user, type and key, and the number of the write that brought it.

Of two writes one is older only if it had ended before the other was sent: whichever of two that overlap came first
in the server is right. So nothing that is told as an error here could have been right."""

import bisect
import itertools
import threading
import time

# What is done with keys of a type, besides lookups and upserts.
PERMANENT, INVALIDATED, EXPIRING, TOUCHED, MONTHS = TYPES = ("permanent", "invalidated", "expiring", "touched", "months")
NEVER_MISSED = (PERMANENT, INVALIDATED)

PENDING, COMMITTED, ABORTED, UNKNOWN = "pending", "committed", "aborted", "unknown"
AGES_AGO = -1.0


class Write:
    """An upsert, or an invalidation, which writes nothing."""

    __slots__ = ("number", "key", "is_nothing", "sent", "ended", "outcome", "expires", "seen")

    def __init__(self, number, key, is_nothing, sent):
        self.number, self.key, self.is_nothing, self.sent = number, key, is_nothing, sent
        self.ended, self.outcome, self.expires, self.seen = None, PENDING, None, False


class Key:
    """What has been acknowledged of a key, and when: of the writes that a lookup must know, the last time one was sent."""

    def __init__(self):
        self.acknowledged, self.newest_sent = [], []
        self.nothing_pending, self.nothing_ended = 0, AGES_AGO

    def acknowledge(self, write):
        self.acknowledged.append(write.ended)
        self.newest_sent.append(max([write.sent, *self.newest_sent[-1:]]))

    def bound(self, moment):
        """What had ended before this has been replaced for whoever began to look at that moment; None: there was nothing."""
        index = bisect.bisect_left(self.acknowledged, moment)
        return self.newest_sent[index - 1] if index else None


class Ledger:
    def __init__(self):
        self.lock, self.numbers = threading.Lock(), itertools.count(1)
        self.keys, self.writes, self.problems, self.checked, self.hits = {}, {}, [], 0, 0

    def begin(self, key, is_nothing=False, sent=None):
        """A write that is about to be sent."""
        with self.lock:
            write = Write(next(self.numbers), key, is_nothing, sent or time.monotonic())
            self.writes[write.number] = write
            self.keys.setdefault(key, Key()).nothing_pending += is_nothing
            return write

    def old(self, key):
        """A write to an old month, which whatever is upserted replaces."""
        write = self.begin(key)
        write.outcome, write.ended = COMMITTED, AGES_AGO
        return write

    def finish(self, write, outcome):
        with self.lock:
            key = self.keys[write.key]
            write.outcome = outcome
            if write.is_nothing:
                key.nothing_pending -= outcome != UNKNOWN
            if outcome == COMMITTED:
                write.ended = time.monotonic()
                if write.is_nothing:
                    key.nothing_ended = write.ended
                key.acknowledge(write)
            elif outcome == ABORTED and write.seen:
                self.problems.append(f"what was rolled back was seen: write {write.number} of {write.key}")

    def settle(self):
        """Nobody writes: an invalidation of which nobody knows the end has happened by now, or never will."""
        with self.lock:
            for write in self.writes.values():
                if write.is_nothing and write.outcome == UNKNOWN:
                    write.outcome = ABORTED
                    self.keys[write.key].nothing_pending -= 1
                    self.keys[write.key].nothing_ended = time.monotonic()

    def check(self, key, content, began, began_clock, own=None):
        """Checks the answer to a lookup that began, or saw a snapshot that was taken, no earlier than a moment."""
        with self.lock:
            self.checked += 1
            self.hits += content is not None
            problem = self.problem_of(key, content, began, began_clock, own)
            if problem:
                self.problems.append(f"lookup of {key}: {problem}; answer {str(content)[:200]}")

    def problem_of(self, key, content, began, began_clock, own):
        known = self.keys.setdefault(key, Key())
        if content is None:
            if own is not None:
                return None if own.is_nothing or key[1] in (EXPIRING, TOUCHED) else f"its own write {own.number} is not there"
            bound = known.bound(began)
            if key[1] not in NEVER_MISSED or bound is None or known.nothing_pending or known.nothing_ended >= bound:
                return None
            return f"a miss, though there was an entry sent {began - bound:.3f} s before"
        if (content["user"], content["type"], content["key"]) != key:
            return "another key's content"
        write = self.writes.get(content["number"])
        if write is None or write.key != key:
            return "a content that nobody wrote"
        if write.expires is not None and began_clock > write.expires:
            return f"expired {began_clock - write.expires:.3f} s before"
        if write is own:
            return None
        if own is not None and not own.is_nothing:
            return f"its own write {own.number} is newer"
        if write.outcome == ABORTED:
            return "what was rolled back"
        write.seen = True
        bound = known.bound(began)
        if own is not None:
            # What has removed all entries of a type holds up nobody who brings another.
            bound = max(own.sent, bound or own.sent)
        if write.ended is not None and bound is not None and write.ended < bound:
            return f"too old: it ended {bound - write.ended:.3f} s before the newest was sent, and that was {began - bound:.3f} s before"
        return None
