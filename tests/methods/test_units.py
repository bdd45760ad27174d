"""Budget and selection of units, and the patch of what was selected."""

import numpy as np
import pytest

from neuropatch.errors import SelectionError, UsageError
from neuropatch.methods._units import UnitConfig, check_units, select_units, unit_blocks
from neuropatch.models.coordinates import BlockId

A, B = BlockId("decoder", 0), BlockId("decoder", 1)
SCORES = {A: np.array([0.5, -1.0, 2.0, 0.0]), B: np.array([2.0, 1.0, 0.5, 0.25])}


def chosen(config, scores=SCORES):
    return {block: units.tolist() for block, units in select_units(scores, config).items()}


def test_the_highest_scores_are_selected_and_ties_go_to_the_lower_coordinate():
    assert chosen(UnitConfig(max_neurons=1)) == {A: [2]}
    assert chosen(UnitConfig(max_neurons=2)) == {A: [2], B: [0]}
    assert chosen(UnitConfig(max_neurons=4)) == {A: [0, 2], B: [0, 1]}
    assert chosen(UnitConfig(budget=0.25)) == chosen(UnitConfig(max_neurons=2))


def test_amounts_are_counted_in_each_layer():
    assert chosen(UnitConfig(max_neurons=1, scope="layer")) == {A: [2], B: [0]}
    assert chosen(UnitConfig(budget=0.5, scope="layer")) == {A: [0, 2], B: [0, 1]}


def test_a_score_of_nothing_is_never_selected():
    assert chosen(UnitConfig(max_neurons=8)) == {A: [0, 2], B: [0, 1, 2, 3]}
    with pytest.raises(SelectionError, match="every score is 0 or less"):
        select_units({A: np.array([0.0, -1.0])}, UnitConfig(max_neurons=1))
    with pytest.raises(SelectionError, match="not a number"):
        select_units({A: np.array([np.nan, 1.0])}, UnitConfig(max_neurons=1))


def test_a_budget_of_less_than_a_unit_is_refused(make_layout):
    layout = make_layout("llama")
    assert sum(unit_blocks(layout).values()) == 40
    check_units(layout, UnitConfig(budget=0.025))
    with pytest.raises(SelectionError, match=r"--budget 0.0005 of 40 units is less than one"):
        check_units(layout, UnitConfig())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_neurons": 3, "budget": 0.1}, "say the same thing twice"),
        ({"max_neurons": 0}, "--max-neurons is 0"),
        ({"budget": 1.0}, "--budget is 1"),
        ({"scope": "matrix"}, "unknown scope 'matrix'"),
        ({"edit": "delete"}, "unknown edit 'delete'"),
        ({"edit": "zero", "strength": 0.5}, "do not go together"),
    ],
)
def test_parameters_out_of_range_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        UnitConfig(**wrong)
