"""Another protocol, which is not built: counters in hashed cells, and no place for leases.

A lease is the epoch at its grant, authenticated by a key. A cell holds the last epoch, and how many invalidations are pending and
how many fills are committing in it. Each load and each store is a step of its own. The tests show what kept it from being built.
"""

from typing import NamedTuple

from lease.fencing_model import COMMITTING, OPEN, OVER, Aborted, Waits, become_visible, delete, is_ending, put, undo


class Cell(NamedTuple):
    epoch: int = 0
    pending: int = 0
    committing: int = 0


class Array(NamedTuple):
    epoch: int = 0
    cells: tuple = ()


class Cells:
    """Each foundation has a cell, and a fill is subject to both. RULES can be left out."""

    RULES = (
        "pending before delete",
        "wait for committing",
        "check again before commit",
        "committing before check",
        "committing until visible",
        "epoch before pending is taken back",
        "own invalidation after grant",
        "epoch at abort of own grants",
    )

    def __init__(self, *without, cell_of=lambda user, foundation: foundation, cells=2):
        assert set(without) <= set(self.RULES), without
        self.without, self.cell_of, self.number = set(without), cell_of, cells

    def rule(self, name):
        return name not in self.without

    def start(self):
        return Array(0, (Cell(),) * self.number)

    def restarted(self, world):
        # The key that leases are authenticated by is another one.
        actors = tuple(actor._replace(lease=None) for actor in world.actors)
        return world._replace(shared=self.start(), actors=actors)

    def change(self, world, cell, **changes):
        cells = list(world.shared.cells)
        cells[cell] = cells[cell]._replace(**changes)
        return world._replace(shared=world.shared._replace(cells=tuple(cells)))

    def subject(self, world, number):
        return sorted({self.cell_of(world.actors[number].user, foundation) for foundation in (0, 1)})

    def own(self, world, number, cell):
        return [order for at, order in world.actors[number].pending if at == cell]

    def each(self, action):
        """A step for each cell that a fill is subject to."""
        return tuple(lambda world, number, nth=nth: self.nth(world, number, nth, action) for nth in (0, 1))

    def nth(self, world, number, nth, action):
        cells = self.subject(world, number)
        return action(world, number, cells[nth]) if nth < len(cells) else world

    # A grant.

    def take_epoch(self, world, number):
        actor = world.actors[number]
        granted = (*actor.granted, world.shared.epoch) if actor.phase == OPEN else ()
        return world.actor(number, lease=world.shared.epoch, granted=granted, refused=actor.refused)

    def look_for_pending(self, world, number, cell):
        if world.shared.cells[cell].pending > len(self.own(world, number, cell)):
            return world.actor(number, refused=True)
        return world

    @property
    def grants(self):
        return (self.take_epoch, *self.each(self.look_for_pending))

    # A fill.

    def may_fill(self, world, number, cell):
        found, own = world.shared.cells[cell], self.own(world, number, cell)
        lease = world.actors[number].lease
        if lease is None or found.pending > len(own) or found.epoch > lease:
            return False
        return not (self.rule("own invalidation after grant") and any(order > lease for order in own))

    def check(self, world, number, cell):
        return world if self.may_fill(world, number, cell) else world.actor(number, refused=True)

    def is_filling(self, world, number):
        return world if world.actors[number].refused else world.actor(number, fills=(True,))

    @property
    def fills(self):
        return (*self.each(self.check), self.is_filling, put)

    # An invalidation of a foundation: the one that was edited last.

    def announce(self, foundation):
        def up(world, number):
            cell, actor = self.cell_of(world.actors[number].user, foundation), world.actors[number]
            world = self.change(world, cell, pending=world.shared.cells[cell].pending + 1)
            return world.actor(number, pending=(*actor.pending, (cell, world.shared.epoch + 1)))

        def number_it(world, number):
            # The number that a later grant must have.
            actor, epoch = world.actors[number], world.shared.epoch + 1
            world = world._replace(shared=world.shared._replace(epoch=epoch))
            return world.actor(number, pending=(*actor.pending[:-1], (actor.pending[-1][0], epoch)))

        return (up, number_it)

    def wait(self, foundation):
        def wait(world, number):
            actor = world.actors[number]
            cell = self.cell_of(actor.user, foundation)
            if world.shared.cells[cell].committing > 0:
                raise Waits(next(other for other, their in enumerate(world.actors) if is_ending(their)), fence=True)
            return world

        return (wait,)

    def invalidates(self, foundation):
        up, wait = self.announce(foundation), self.wait(foundation)
        if not self.rule("pending before delete"):
            return (delete, *up, *wait)
        if not self.rule("wait for committing"):
            return (*up, delete)
        return (*up, *wait, delete)

    # The end of a transaction.

    def raise_committing(self, world, number, cell):
        actor = world.actors[number]
        if not actor.fills:
            return world
        return self.change(world, cell, committing=world.shared.cells[cell].committing + 1)

    def lower_committing(self, world, number, cell):
        actor = world.actors[number]
        if not actor.fills or cell not in actor.saved:
            return world
        world = self.change(world, cell, committing=world.shared.cells[cell].committing - 1)
        return world.actor(number, saved=tuple(at for at in actor.saved if at != cell))

    def up(self, world, number, cell):
        # `saved` remembers in which cells it has been raised: savepoints are over.
        raised = self.raise_committing(world, number, cell)
        if raised is world:
            return world
        return raised.actor(number, saved=(*raised.actors[number].saved, cell))

    def check_again(self, world, number, cell):
        actor = world.actors[number]
        if actor.fills and self.rule("check again before commit") and not self.may_fill(world, number, cell):
            raise Aborted
        return world

    def enter(self, world, number):
        return world.actor(number, phase=COMMITTING, saved=())

    def visible(self, world, number):
        saved = world.actors[number].saved
        return become_visible(world, number).actor(number, saved=saved)

    def raise_epoch(self, world, number):
        for cell, _ in world.actors[number].pending:
            epoch = world.shared.epoch + 1
            world = self.change(world._replace(shared=world.shared._replace(epoch=epoch)), cell, epoch=epoch)
        return world

    def lower_pending(self, world, number):
        for cell, _ in world.actors[number].pending:
            world = self.change(world, cell, pending=world.shared.cells[cell].pending - 1)
        return world

    def end(self, world, number):
        return world.actor(number, phase=OVER, pending=(), fills=(), granted=(), saved=())

    @property
    def commits(self):
        down = self.each(self.lower_committing)
        epoch = [self.raise_epoch, self.lower_pending]
        if not self.rule("epoch before pending is taken back"):
            epoch.reverse()
        steps = [self.enter, *self.each(self.up), *self.each(self.check_again)]
        if not self.rule("committing before check"):
            steps = [self.enter, *self.each(self.check_again), *self.each(self.up)]
        if not self.rule("committing until visible"):
            steps += down
        return (*steps, self.visible, *epoch, *down, self.end)

    def undo(self, world, number):
        saved = world.actors[number].saved if world.actors[number].phase == COMMITTING else ()
        return undo(world, number).actor(number, saved=saved)

    def raise_epoch_of_own(self, world, number):
        actor = world.actors[number]
        if self.rule("epoch at abort of own grants") and actor.granted:
            return self.raise_epoch(world, number)
        return world

    @property
    def aborts(self):
        return (
            self.undo,
            self.raise_epoch_of_own,
            self.lower_pending,
            *self.each(self.lower_committing),
            self.end,
        )

    def time_passes(self, _world):
        return ()

    def holders(self, _world):
        return ()

    def is_clean(self, world):
        return all(cell.pending == cell.committing == 0 for cell in world.shared.cells)
