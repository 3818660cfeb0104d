"""A small world in which every order of the steps of leases and fencing is tried.

The world holds two foundations, one entry made from both, and actors, each with a program of steps. A step is what happens at
once: a statement's effect, or one visit to shared memory. `explore` runs every interleaving, and at each point also lets a
transaction abort, the server crash, and time pass, each as often as a scenario allows. It checks after every step

- that a committed entry was made from the foundations as they are committed (so whatever snapshot a lookup has, it never
  returns an answer that is older than the last edit that its snapshot shows),
- that at most one actor holds the lease of the key, and that nobody's rights depend on another tenant,
- that whoever the fence keeps waiting waits for a transaction that is committing, never for an open one, and

at each end that nothing is left behind in shared memory. Row locks are PostgreSQL's own and are modelled as such.

`Leases` is the protocol, as the head of src/lease/fence.rs states it. It takes names of rules to leave out: for each there must
be a counterexample. What an invalidation concerns is compared exactly; here each concerns all entries of its user.
"""

from typing import NamedTuple

OPEN, COMMITTING, VISIBLE, OVER = "open", "committing", "visible", "over"


class Aborted(Exception):
    """The step raises, and its transaction aborts."""


class Waits(Exception):
    """The step cannot be taken now; `fence`: because of the fence, not of a row's lock."""

    def __init__(self, by, fence=False):
        self.by, self.fence = by, fence


class Violation(AssertionError):
    pass


class Actor(NamedTuple):
    """A client with its session."""

    program: tuple = ()
    step: int = 0
    ending: tuple = ()  # steps of an abort, before the client goes on
    user: str = "alice"
    phase: str = OVER  # of its transaction
    repeatable: bool = False
    snapshot: object = None
    edits: tuple = ()  # (foundation, version), not yet committed
    entry: object = None  # what it has done to the entry: ("put", made from) or ("gone",)
    saved: tuple = ()  # at each savepoint: edits, entry, number of pending, of fills, of grants
    lease: object = None
    answer: object = None  # the foundations that it has read
    pending: tuple = ()  # its invalidations
    fills: tuple = ()  # leases that its transaction fills
    granted: tuple = ()  # leases that its transaction was granted, each with the number of its savepoints
    refused: bool = False
    stored: bool = False
    comes_back: bool = False  # after the abort that it is in
    gone: bool = False  # the client does not come back


class World(NamedTuple):
    foundations: tuple
    entry: object
    shared: object
    actors: tuple
    aborts: int = 0
    crashes: int = 0
    times: int = 0

    def actor(self, number, **changes):
        actors = list(self.actors)
        actors[number] = actors[number]._replace(**changes)
        return self._replace(actors=tuple(actors))


def sees(world, number):
    """The foundations as a statement of an actor sees them."""
    actor = world.actors[number]
    seen = list(actor.snapshot[0] if actor.repeatable and actor.phase == OPEN else world.foundations)
    for foundation, version in actor.edits:
        seen[foundation] = version
    return tuple(seen)


def writer_of_entry(world, number):
    """Another actor whose transaction has written or deleted the entry, and is not over."""
    for other, actor in enumerate(world.actors):
        if other != number and actor.entry is not None and actor.phase in (OPEN, COMMITTING):
            return other
    return None


# == steps that every protocol has in common ==


def begin(world, number):
    return world.actor(number, phase=OPEN, snapshot=(world.foundations, world.entry))


def begin_repeatable(world, number):
    return begin(world.actor(number, repeatable=True), number)


def edit(foundation):
    def edit(world, number):
        actor = world.actors[number]
        for other, their in enumerate(world.actors):
            if other != number and their.phase in (OPEN, COMMITTING) and foundation in dict(their.edits):
                raise Waits(other)
        if actor.repeatable and actor.snapshot[0][foundation] != world.foundations[foundation]:
            raise Aborted
        version = (number, world.foundations[foundation], len(actor.edits))
        return world.actor(number, edits=(*actor.edits, (foundation, version)))

    edit.name = f"edit {foundation}"
    return edit


def read(world, number):
    return world.actor(number, answer=sees(world, number))


def savepoint(world, number):
    actor = world.actors[number]
    saved = (actor.edits, actor.entry, len(actor.pending), len(actor.fills))
    return world.actor(number, saved=(*actor.saved, saved))


def delete(world, number):
    """What an invalidation deletes, by a snapshot of now, or the transaction's."""
    actor = world.actors[number]
    if actor.repeatable and actor.entry is None and world.entry != actor.snapshot[1]:
        raise Aborted  # 40001: a row that is hidden from it, or that has changed
    other = writer_of_entry(world, number)
    if other is not None and world.entry is not None:
        raise Waits(other)  # a row's lock; one that is inserted and not committed is not seen
    if world.entry is None and actor.entry is None:
        return world
    return world.actor(number, entry=("gone",))


def delete_what_is_seen(world, number):
    actor = world.actors[number]
    if actor.repeatable and actor.entry is None and actor.snapshot[1] is None:
        return world
    return delete(world, number)


def put(world, number):
    actor = world.actors[number]
    if actor.refused:
        return world
    other = writer_of_entry(world, number)
    if other is not None:
        raise Waits(other)
    if actor.repeatable and actor.entry is None and world.entry != actor.snapshot[1]:
        raise Aborted
    return world.actor(number, entry=("put", actor.answer), stored=True)


def become_visible(world, number):
    actor = world.actors[number]
    foundations = list(world.foundations)
    for foundation, version in actor.edits:
        foundations[foundation] = version
    entry = world.entry
    if actor.entry is not None:
        entry = actor.entry[1] if actor.entry[0] == "put" else None
    world = world._replace(foundations=tuple(foundations), entry=entry)
    return world.actor(number, phase=VISIBLE, edits=(), entry=None, snapshot=None, repeatable=False, saved=())


def undo(world, number):
    """The end of a transaction that aborts, as others see it."""
    return world.actor(
        number, phase=OVER, edits=(), entry=None, snapshot=None, repeatable=False, saved=(), stored=False
    )


def over(world, number):
    return world.actor(number, phase=OVER)


def rollback(protocol):
    """The client rolls back, and goes on with what it holds."""

    def rollback(world, number):
        return world.actor(number, ending=tuple(protocol.aborts), comes_back=True)

    return rollback


# == the protocol that is built ==


class Lease(NamedTuple):
    user: str
    order: int
    granter: int
    filler: object = None
    committing: bool = False
    outdated: bool = False
    exclusive: bool = True
    was_exclusive: bool = False  # when its fill began


class Table(NamedTuple):
    """Shared memory, each visit to which is one step: there is one lock."""

    order: int = 0
    leases: tuple = ()  # (id, Lease)


class Leases:
    """Each lease has a place; invalidations that are pending stand in a list of each session.

    RULES can be left out, each by itself.
    """

    RULES = (
        "pending before delete",
        "wait for committing",
        "snapshot after wait",
        "check at fill and commit",
        "check again before commit",
        "committing with the check",
        "committing until visible",
        "pending until visible",
        "outdate before pending is taken back",
        "own invalidation after grant",
        "void with its transaction",
        "no end by time while filling",
        "hidden rows are refused",
    )

    def __init__(self, *without):
        assert set(without) <= set(self.RULES), without
        self.without = set(without)

    def start(self):
        return Table()

    def restarted(self, world):
        return world._replace(shared=Table(order=1000))  # no identity comes again

    def rule(self, name):
        return name not in self.without

    # What others have pending is read from their sessions: in the extension it is the list of each backend, under the lock.

    def others_pending(self, world, number, user):
        return any(
            their.pending and their.user == user for other, their in enumerate(world.actors) if other != number
        )

    def grant(self, world, number):
        table, actor = world.shared, world.actors[number]
        assert not actor.repeatable
        if any(lease.user == actor.user and lease.exclusive and not lease.outdated for _, lease in table.leases):
            return world.actor(number, lease=None, refused=True)
        if self.others_pending(world, number, actor.user):
            return world.actor(number, lease=None, refused=True)
        order = table.order + 1
        leases = (*table.leases, (order, Lease(actor.user, order, number)))
        granted = (*actor.granted, (order, len(actor.saved))) if actor.phase == OPEN else ()
        world = world._replace(shared=Table(order, leases))
        return world.actor(number, lease=order, granted=granted)

    def find(self, world, identity):
        return dict(world.shared.leases).get(identity)

    def change(self, world, identity, **changes):
        leases = tuple((i, lease._replace(**changes) if i == identity else lease) for i, lease in world.shared.leases)
        return world._replace(shared=world.shared._replace(leases=leases))

    def end(self, world, identity):
        leases = tuple((i, lease) for i, lease in world.shared.leases if i != identity)
        return world._replace(shared=world.shared._replace(leases=leases))

    def may_commit(self, world, number, identity):
        lease, actor = self.find(world, identity), world.actors[number]
        if lease is None or lease.user != actor.user or lease.outdated:
            return False
        return not self.others_pending(world, number, actor.user)

    def may_fill(self, world, number, identity):
        if not self.may_commit(world, number, identity):
            return False
        lease, actor = self.find(world, identity), world.actors[number]
        own = [order for order in actor.pending if order > lease.order or lease.granter != number]
        return not (self.rule("own invalidation after grant") and own)

    def fill(self, world, number):
        actor = world.actors[number]
        lease = self.find(world, actor.lease)
        if actor.lease is None or lease is None or lease.filler not in (None, number):
            return world.actor(number, refused=True)
        if self.rule("check at fill and commit") and not self.may_fill(world, number, actor.lease):
            return world.actor(number, refused=True)
        world = self.change(world, actor.lease, filler=number, was_exclusive=lease.exclusive)
        return world.actor(number, fills=(*actor.fills, actor.lease), refused=False)

    def announce(self, world, number):
        actor, order = world.actors[number], world.shared.order + 1
        world = world._replace(shared=world.shared._replace(order=order))
        return world.actor(number, pending=(*actor.pending, order))

    def wait(self, world, number):
        user = world.actors[number].user
        for _, lease in world.shared.leases:
            if lease.committing and lease.user == user and lease.filler != number:
                raise Waits(lease.filler, fence=True)
        return world

    def before_commit(self, world, number):
        actor = world.actors[number]
        again = self.rule("check again before commit") and self.rule("check at fill and commit")
        if again and not all(self.may_commit(world, number, fill) for fill in set(actor.fills)):
            raise Aborted  # 40001
        if self.rule("committing with the check"):
            world = self.raise_committing(world, number)
        return world.actor(number, phase=COMMITTING)

    def raise_committing(self, world, number):
        for fill in world.actors[number].fills:
            world = self.change(world, fill, committing=True)
        return world

    def end_fills(self, world, number):
        for fill in world.actors[number].fills:
            world = self.end(world, fill)
        return world.actor(number, fills=())

    def outdate(self, world, number):
        actor = world.actors[number]
        own = {identity for identity, _ in actor.granted}
        for order in actor.pending:
            for identity, lease in world.shared.leases:
                if lease.user == actor.user and not (identity in own and lease.order > order):
                    if not (lease.filler == number and lease.committing):
                        world = self.change(world, identity, outdated=True)
        return world

    def take_back(self, world, number):
        return world.actor(number, pending=())

    def committed(self, world, number):
        world = self.take_back(self.outdate(world, number), number)
        return over(self.end_fills(world, number).actor(number, granted=()), number)

    def give_back(self, world, number, fills):
        for fill in fills:
            if self.find(world, fill) is not None:
                world = self.change(world, fill, filler=None, committing=False, was_exclusive=False)
        return world

    def void(self, world, number, saved):
        actor = world.actors[number]
        for identity, savepoints in actor.granted:
            if self.rule("void with its transaction") and savepoints >= saved:
                world = self.end(world, identity)
        kept = tuple(grant for grant in actor.granted if grant[1] < saved)
        return world.actor(number, granted=kept)

    def aborted(self, world, number):
        world = self.give_back(undo(world, number), number, world.actors[number].fills)
        return self.void(world, number, 0).actor(number, pending=(), fills=())

    def rollback_to(self, world, number):
        actor = world.actors[number]
        edits, entry, pending, fills = actor.saved[-1]
        left = actor.fills[:fills]
        world = self.give_back(world, number, set(actor.fills) - set(left))
        world = self.void(world, number, len(actor.saved))
        return world.actor(
            number, edits=edits, entry=entry, pending=actor.pending[:pending], fills=left, stored=False
        )

    def time_passes(self, world):
        """A lease that nobody fills is over, and then makes room for another."""
        for identity, lease in world.shared.leases:
            if lease.filler is None or not self.rule("no end by time while filling"):
                if lease.exclusive:
                    yield f"lease {identity} is over", self.change(world, identity, exclusive=False)
                yield f"lease {identity} is forgotten", self.end(world, identity)

    def holders(self, world):
        leases = [lease for _, lease in world.shared.leases if not lease.outdated]
        return [lease.user for lease in leases if lease.exclusive or lease.was_exclusive]

    def is_clean(self, world):
        return not any(lease.filler is not None or lease.committing for _, lease in world.shared.leases)

    # The steps of each call.

    @property
    def grants(self):
        return (self.grant,)

    @property
    def fills(self):
        return (self.fill, put)

    def invalidates(self, _foundation):
        remove = delete if self.rule("hidden rows are refused") else delete_what_is_seen
        steps = [self.announce, self.wait, remove]
        if not self.rule("pending before delete"):
            steps = [remove, self.announce, self.wait]
        elif not self.rule("wait for committing"):
            steps = [self.announce, remove]
        elif not self.rule("snapshot after wait"):
            steps = [self.announce, remove, self.wait]
        return tuple(steps)

    @property
    def commits(self):
        steps = [self.before_commit, become_visible, self.committed]
        if not self.rule("committing with the check"):
            steps = [self.before_commit, self.raise_committing, become_visible, self.committed]
        if not self.rule("committing until visible"):
            steps = [self.before_commit, self.end_fills, become_visible, self.committed]
        if not self.rule("pending until visible"):
            steps = [self.before_commit, self.outdate, self.take_back, become_visible, self.committed]
        if not self.rule("outdate before pending is taken back"):
            keep = {}

            def take_back_early(world, number):
                keep[(number, world.shared.order)] = world.actors[number].pending
                return self.take_back(world, number)

            def outdate_late(world, number):
                for (of, _), pending in sorted(keep.items()):
                    if of == number:
                        world = world.actor(number, pending=pending)
                return self.committed(world, number)

            steps = [self.before_commit, become_visible, take_back_early, outdate_late]
        return tuple(steps)

    @property
    def aborts(self):
        return (self.aborted,)


# == the explorer ==


def check(world, protocol):
    if world.entry is not None and world.entry != world.foundations:
        raise Violation(f"the entry was made from {world.entry}, the foundations are {world.foundations}")
    holders = list(protocol.holders(world))
    if len(holders) != len(set(holders)):
        raise Violation("two hold the lease of one key")


def abort(world, number, protocol):
    return world.actor(number, ending=tuple(protocol.aborts))


def crash(world, protocol):
    """All of shared memory is gone, and with it every transaction; clients come back with what they hold."""
    actors = []
    for actor in world.actors:
        if actor.phase in (VISIBLE, OVER):
            actor = actor._replace(phase=OVER)
        was_open = actor.phase != OVER or actor.ending or actor.gone
        clean = Actor(actor.program, actor.step, user=actor.user, lease=actor.lease, answer=actor.answer)
        # Whoever was in a transaction gives up; who holds a lease tries to fill with it.
        actors.append(clean._replace(gone=bool(was_open), refused=False))
    return protocol.restarted(world._replace(actors=tuple(actors), crashes=world.crashes - 1))


def is_done(actor):
    return not actor.ending and (actor.gone or actor.step >= len(actor.program))


def is_ending(actor):
    """Whether its transaction is past the last statement of its client."""
    return actor.phase in (COMMITTING, VISIBLE) or bool(actor.ending)


def name_of(step):
    return getattr(step, "name", None) or getattr(step, "__name__", "step")


def take(world, number, protocol):
    """Takes an actor's next step; returns its name and the world after it."""
    actor = world.actors[number]
    if actor.ending:
        step = actor.ending[0]
        world = step(world, number).actor(number, ending=actor.ending[1:])
        if len(actor.ending) == 1:
            world = world.actor(number, gone=not actor.comes_back, comes_back=False)
        return f"{number}: abort, {name_of(step)}", world
    step = actor.program[actor.step]
    try:
        return f"{number}: {name_of(step)}", step(world, number).actor(number, step=actor.step + 1)
    except Aborted:
        return f"{number}: {name_of(step)} raises", abort(world, number, protocol)


def successors(world, protocol):
    waits, is_stuck = [], True
    for number, actor in enumerate(world.actors):
        if is_done(actor):
            continue
        try:
            yield take(world, number, protocol)
            is_stuck = False
        except Waits as wait:
            waits.append((number, wait))
        if world.aborts and not actor.ending and actor.phase in (OPEN, COMMITTING):
            yield f"{number}: is cancelled", abort(world._replace(aborts=world.aborts - 1), number, protocol)
    for number, wait in waits:
        if wait.fence:
            their = world.actors[wait.by]
            if not is_ending(their):
                raise Violation(f"{number} waits for the open transaction of {wait.by}")
        elif is_stuck:
            # PostgreSQL finds the deadlock of row locks, which clients have that lock rows in different orders.
            yield f"{number}: deadlock", abort(world, number, protocol)
    if world.crashes:
        yield "the server crashes", crash(world, protocol)
    if world.times:
        for name, after in protocol.time_passes(world):
            yield name, after._replace(times=world.times - 1)


class Result(NamedTuple):
    worlds: int
    ends: frozenset  # for each end: what each actor has stored


def explore(programs, protocol, aborts=0, crashes=0, times=0, limit=3_000_000):
    """Tries every interleaving; raises the first Violation with the steps that led to it."""
    actors = tuple(program if isinstance(program, Actor) else Actor(tuple(program)) for program in programs)
    first = World((0, 0), None, protocol.start(), actors, aborts, crashes, times)
    came_from = {first: None}
    stack, ends = [first], set()
    while stack:
        world = stack.pop()
        try:
            check(world, protocol)
            after = list(successors(world, protocol))
        except Violation as violation:
            raise Violation(f"{violation}:\n" + "\n".join(trace(world, came_from))) from None
        if all(is_done(actor) for actor in world.actors):
            if not protocol.is_clean(world):
                raise Violation("something is left behind:\n" + "\n".join(trace(world, came_from)))
            ends.add(tuple(actor.stored and not actor.gone for actor in world.actors))
        elif not any(name[0].isdigit() and not name.endswith("is cancelled") for name, _ in after):
            raise Violation("all wait for each other:\n" + "\n".join(trace(world, came_from)))
        for name, next_world in after:
            if next_world not in came_from:
                came_from[next_world] = (world, name)
                stack.append(next_world)
        if len(came_from) > limit:
            raise RuntimeError(f"more than {limit} worlds")
    return Result(len(came_from), frozenset(ends))


def trace(world, came_from):
    steps = []
    while came_from[world] is not None:
        world, name = came_from[world]
        steps.append(name)
    return reversed(steps)
