"""The protocol of leases and fencing keeps its promise in every order of its steps, and each of its rules is needed."""

import pytest

from lease.fencing_model import (
    Actor,
    Leases,
    Violation,
    begin,
    begin_repeatable,
    edit,
    explore,
    read,
    rollback,
    savepoint,
)


def generator(protocol, begin=begin):
    """Has a lease, reads, generates, and stores, each in a transaction of its own."""
    return (*protocol.grants, read, begin, *protocol.fills, *protocol.commits)


def generator_at_repeatable_read(protocol):
    return generator(protocol, begin_repeatable)


def editor(protocol, begin=begin, foundation=0):
    """Edits, invalidates and commits."""
    return (begin, edit(foundation), *protocol.invalidates(foundation), *protocol.commits)


def editor_at_repeatable_read(protocol):
    return editor(protocol, begin_repeatable)


def editor_of_another_foundation(protocol):
    return editor(protocol, foundation=1)


def editor_that_invalidates_first(protocol):
    return (begin, *protocol.invalidates(0), edit(0), *protocol.commits)


def editor_that_generates(protocol):
    """Stores in the transaction that has edited and invalidated."""
    own = (*protocol.grants, read, *protocol.fills)
    return (begin, edit(0), *protocol.invalidates(0), *own, *protocol.commits)


def editor_with_an_older_lease(protocol):
    """Stores what it has generated before it edits and invalidates."""
    later = (begin, edit(0), *protocol.invalidates(0), *protocol.fills, *protocol.commits)
    return (*protocol.grants, read, *later)


def editor_that_fills_first(protocol):
    """The same, in the other order."""
    later = (begin, *protocol.fills, edit(0), *protocol.invalidates(0), *protocol.commits)
    return (*protocol.grants, read, *later)


def editor_that_is_granted(protocol):
    """Has a lease in the transaction that edits and invalidates, and generates after it."""
    granted = (begin, edit(0), *protocol.invalidates(0), *protocol.grants, *protocol.commits)
    return (*granted, read, begin, *protocol.fills, *protocol.commits)


def editor_that_rolls_back(protocol):
    """Generates from what is never committed."""
    granted = (begin, edit(0), *protocol.invalidates(0), *protocol.grants, read, rollback(protocol))
    return (*granted, begin, *protocol.fills, *protocol.commits)


def editor_with_savepoint(protocol):
    """The same, with a savepoint."""
    undone = (savepoint, edit(0), *protocol.invalidates(0), protocol.grant, read, protocol.rollback_to)
    return (begin, *undone, *protocol.fills, *protocol.commits)


def generator_with_savepoint(protocol):
    """Its fill is rolled back to a savepoint, and done again."""
    fill = protocol.fills
    return (protocol.grant, read, begin, savepoint, *fill, protocol.rollback_to, *fill, *protocol.commits)


GENERATORS = [generator, generator_at_repeatable_read, generator_with_savepoint]
EDITORS = [
    editor,
    editor_at_repeatable_read,
    editor_of_another_foundation,
    editor_that_invalidates_first,
    editor_that_generates,
    editor_with_an_older_lease,
    editor_that_fills_first,
    editor_that_is_granted,
    editor_that_rolls_back,
    editor_with_savepoint,
]
ACTORS = GENERATORS + EDITORS
PAIRS = [(one, two) for number, one in enumerate(ACTORS) for two in ACTORS[number:]]


def name(actors):
    return ", ".join(actor.__name__ for actor in actors)


def holds(protocol, actors, **budget):
    """Tries everything; returns, for each way in which it can end, which of the actors have stored an answer."""
    return explore([actor(protocol) for actor in actors], protocol, **budget).ends


def fails(protocol, actors, **budget):
    with pytest.raises(Violation) as violation:
        holds(protocol, actors, **budget)
    return str(violation.value).splitlines()


@pytest.mark.parametrize("actors", PAIRS, ids=name)
def test_whatever_two_do_no_answer_is_outdated(actors):
    """With a transaction that is cancelled anywhere, and leases that are over or forgotten anywhere."""
    holds(Leases(), actors, aborts=1, times=1)


@pytest.mark.parametrize("actor", EDITORS, ids=lambda actor: actor.__name__)
def test_a_crash_leaves_nothing_outdated(actor):
    holds(Leases(), [generator, actor], crashes=1)


def test_whatever_three_do_no_answer_is_outdated():
    holds(Leases(), [generator, editor, editor_of_another_foundation])
    holds(Leases(), [generator, generator, editor])


@pytest.mark.parametrize(
    "actor",
    [generator, generator_at_repeatable_read, generator_with_savepoint, editor_that_generates, editor_that_is_granted],
    ids=lambda actor: actor.__name__,
)
def test_an_answer_made_from_what_is_committed_with_it_is_stored(actor):
    """A protocol that refuses everything would keep the promise, too."""
    assert holds(Leases(), [actor]) == {(True,)}


@pytest.mark.parametrize(
    "actor",
    [editor_with_an_older_lease, editor_that_rolls_back, editor_with_savepoint],
    ids=lambda actor: actor.__name__,
)
def test_an_answer_made_from_something_else_never_is(actor):
    assert holds(Leases(), [actor]) == {(False,)}


def invalidates_for_nothing(protocol, user):
    """Invalidates without an end in sight: it may stay idle in its transaction as long as others take steps."""
    return Actor((begin, *protocol.invalidates(0)[:-1], *protocol.commits), user=user)


def test_what_one_tenant_does_changes_nothing_for_another():
    protocol = Leases()
    actors = [generator(protocol), invalidates_for_nothing(protocol, "bob")]
    assert explore(actors, protocol).ends == {(True, False)}


def test_one_that_stays_idle_in_transaction_refuses_its_own_user_only():
    protocol = Leases()
    actors = [generator(protocol), invalidates_for_nothing(protocol, "alice")]
    assert explore(actors, protocol).ends == {(True, False), (False, False)}


#: For each rule of the protocol, who breaks the promise without it, and what must happen for that.
NEEDED = {
    "pending before delete": ([generator, editor], {}),
    "wait for committing": ([generator, editor], {}),
    "snapshot after wait": ([generator, editor], {}),
    "check at fill and commit": ([generator, editor], {}),
    "check again before commit": ([generator, editor], {}),
    "committing with the check": ([generator, editor], {}),
    "committing until visible": ([generator, editor], {}),
    "pending until visible": ([generator, editor], {}),
    "outdate before pending is taken back": ([generator, editor], {}),
    "own invalidation after grant": ([editor_with_an_older_lease], {}),
    "void with its transaction": ([editor_that_rolls_back], {}),
    "no end by time while filling": ([generator, generator], {"times": 1}),
    "hidden rows are refused": ([generator, editor_at_repeatable_read], {}),
}


@pytest.mark.parametrize("rule", Leases.RULES)
def test_each_rule_is_needed(rule):
    actors, budget = NEEDED[rule]
    fails(Leases(rule), actors, **budget)


def test_an_invalidation_before_the_edit_does_not_cover_its_own_lease():
    """What users are told: a transaction that generates itself must edit first, and then invalidate."""

    def careless(protocol):
        own = (*protocol.grants, read)
        return (begin, *protocol.invalidates(0), *own, edit(0), *protocol.fills, *protocol.commits)

    fails(Leases(), [careless])
