"""The declared state machines: complete, reachable, and drawn in the docs as they are."""

import pytest

from local import states as drawing
from monetize.domain.errors import IllegalMove
from monetize.domain.states import MACHINES, SUBSCRIPTION, Machine

EVERY = pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.entity)


def test_the_docs_show_the_states_that_the_code_has() -> None:
    assert drawing.PAGE.read_text() == drawing.page()


@EVERY
def test_every_move_leads_to_a_declared_state_and_every_state_can_be_reached(machine: Machine) -> None:
    targets = {target for moves in machine.moves.values() for target in moves.values()}
    assert targets <= set(machine.moves)
    reached, ahead = {machine.initial}, [machine.initial]
    if machine is SUBSCRIPTION:
        reached.add("pending_approval")  # where it begins when the publisher looks first
        ahead.append("pending_approval")
    while ahead:
        for target in machine.moves[ahead.pop()].values():
            if target not in reached:
                reached.add(target)
                ahead.append(target)
    assert reached == set(machine.moves)


@EVERY
def test_a_move_that_is_not_declared_is_refused_by_name(machine: Machine) -> None:
    for state, moves in machine.moves.items():
        assert not machine.can(state, "fly")
        for move, target in moves.items():
            assert machine.move(state, move) == target
        with pytest.raises(IllegalMove) as refused:
            machine.move(state, "fly")
        assert refused.value.code == "illegal_move"


def test_what_has_ended_stays_ended() -> None:
    assert SUBSCRIPTION.moves["ended"] == {}
