"""The contrast against its formula in float64, and on a model in which the units are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from neuropatch.attribution.gates import gate_gradients
from neuropatch.data.batching import packed_batches
from neuropatch.errors import SelectionError, UsageError
from neuropatch.methods._base import Given, find_method
from neuropatch.methods._samples import behaviour_samples
from neuropatch.methods.contrast import (
    Contrast,
    ContrastConfig,
    Kept,
    contrast_scores,
    find_units,
    localize,
)
from neuropatch.models.coordinates import BlockId
from neuropatch.models.likelihood import packed_losses
from neuropatch.models.unit_gates import unit_gates
from neuropatch.patch.format import encode

A, B = BlockId("decoder", 0), BlockId("decoder", 1)


def chosen(found):
    return {edit.block: edit.units.tolist() for edit in found.patch.units}


def losses(model, samples):
    with torch.no_grad():
        (batch,) = packed_batches(samples, batch_tokens=10_000)
        return packed_losses(model, batch)


def test_the_formula():
    forget = {A: np.array([-3.0, 1.0]), B: np.array([-2.0, -1.0])}
    kept = {A: np.array([1.0, 0.0]), B: np.array([0.5, 0.25])}
    scores = contrast_scores(forget, [(2.0, kept), (1.0, kept)])
    assert scores[A].tolist() == [0.0, -1.0]
    assert scores[B].tolist() == [0.5, 0.25]


def test_what_is_kept_tells_the_private_unit_from_the_shared_one(planted):
    inputs, both = planted.inputs, sorted([planted.private, planted.shared])
    free = localize(inputs, ContrastConfig(max_neurons=2, lambda_retain=0))
    assert chosen(free) == {planted.block: both}
    found = localize(inputs, ContrastConfig(max_neurons=1))
    assert chosen(found) == {planted.block: [planted.private]}
    # Not even a larger budget takes the unit that the retained records need.
    more = localize(inputs, ContrastConfig(max_neurons=8))
    assert planted.shared not in chosen(more)[planted.block]
    forget, retain = (behaviour_samples(c) for c in (inputs.pii, inputs.retain["kept"]))
    before = [losses(inputs.model, samples).mean() for samples in (forget, retain)]
    with found.patch.applied(inputs.model):
        after = [losses(inputs.model, samples).mean() for samples in (forget, retain)]
    assert after[0] - before[0] > 10 * abs(after[1] - before[1])


def test_iterations_take_as_many_units_and_the_best_one_first(planted):
    config = ContrastConfig(max_neurons=6, iterations=3, lambda_retain=0.5)
    contrast = Contrast(
        planted.inputs.model,
        planted.inputs.layout,
        behaviour_samples(planted.inputs.pii),
        [Kept("kept", behaviour_samples(planted.inputs.retain["kept"]), 0.5)],
    )
    units, scores = find_units(contrast, config)
    assert sum(map(len, units.values())) == 6
    assert planted.private in units[planted.block]
    # By hand: two units, then two more behind the gates of the first, then two more.
    gates = {block: np.ones(20) for block in (A, B)}
    taken: set[tuple[BlockId, int]] = set()
    for _ in range(3):
        now = contrast.scores(gates)
        ranked = sorted((-now[b][k], b, k) for b in now for k in range(20) if (b, k) not in taken)
        for _, block, unit in ranked[:2]:
            taken.add((block, unit))
            gates[block][unit] = 0.0
    assert {(block, int(k)) for block, ks in units.items() for k in ks} == taken
    assert all(np.isfinite(scores[block][ks]).all() for block, ks in units.items())


def test_scores_behind_gates_are_those_of_the_gated_model(planted):
    inputs = planted.inputs
    contrast = Contrast(inputs.model, inputs.layout, behaviour_samples(inputs.pii))
    gates = {block: np.full(20, 0.5) for block in (A, B)}
    masks = {block: torch.from_numpy(values) for block, values in gates.items()}
    with unit_gates(inputs.model, inputs.layout, masks):
        wanted = gate_gradients(inputs.model, inputs.layout, contrast.forget)
    found = contrast.scores(gates)
    for block in (A, B):
        np.testing.assert_allclose(found[block], -wanted[block], rtol=1e-9)


def test_the_path_adds_up_to_what_removing_the_candidates_does(planted):
    """Completeness: the sum over candidates of the integrated score is the change of the loss."""
    inputs = planted.inputs
    forget = behaviour_samples(inputs.pii)
    contrast = Contrast(inputs.model, inputs.layout, forget)
    candidates = {A: np.array([1, 7]), planted.block: np.array([planted.private, planted.shared])}
    gates = {block: np.ones(20) for block in (A, B)}
    closed = {block: torch.ones(20, dtype=torch.float64) for block in (A, B)}
    for block, units in candidates.items():
        closed[block][units] = 0.0
    before = losses(inputs.model, forget).mean().item()
    with unit_gates(inputs.model, inputs.layout, closed):
        change = losses(inputs.model, forget).mean().item() - before
    errors = []
    for steps in (2, 4, 8):
        scores = contrast.path_scores(candidates, gates, steps)
        total = sum(scores[block][units].sum() for block, units in candidates.items())
        errors.append(abs(total - change))
        rest = [k for k in range(20) if k not in candidates[A]]
        assert (scores[A][rest] == -np.inf).all()
    # The midpoint rule: half the step, a quarter of the error.
    assert errors[2] < errors[1] / 3 < errors[0] / 9
    assert errors[2] < 0.01 * abs(change)


def test_integration_selects_among_the_most_promising(planted):
    config = ContrastConfig(max_neurons=1, integration_steps=4)
    assert chosen(localize(planted.inputs, config)) == {planted.block: [planted.private]}


@pytest.mark.parametrize("reduce", ["absolute", "square", "mean"])
def test_reductions_of_what_is_kept(make_inputs, reduce):
    inputs = make_inputs(dtype="float64")
    forget, general = behaviour_samples(inputs.pii), inputs.general.samples
    contrast = Contrast(
        inputs.model, inputs.layout, forget, [Kept("general", general, 2.0)], reduce
    )
    found = contrast.scores()
    plain = gate_gradients(inputs.model, inputs.layout, forget)
    rows = gate_gradients(inputs.model, inputs.layout, general, reduce=reduce)
    magnitude = {"absolute": np.abs, "square": np.sqrt, "mean": np.abs}[reduce]
    for block in (A, B):
        np.testing.assert_allclose(found[block], -plain[block] - 2 * magnitude(rows[block]))


def test_equal_runs_give_equal_bytes_whatever_the_batches(make_inputs):
    config = ContrastConfig(max_neurons=5, lambda_general=0.1, iterations=2)
    first, second = (encode(localize(make_inputs(), config).patch) for _ in range(2))
    assert first == second


def test_a_small_yield_is_told(planted):
    found = localize(planted.inputs, ContrastConfig(max_neurons=39, lambda_retain=1))
    assert found.statistics["edited"] < 39
    assert found.notes == (f"only {found.statistics['edited']} of 39 units have a score above 0",)
    # What is to be forgotten and kept at once leaves nothing.
    same = replace(planted.inputs, retain={"kept": planted.inputs.pii})
    with pytest.raises(SelectionError, match="every score is 0 or less"):
        localize(same, ContrastConfig(max_neurons=1, lambda_retain=1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lambda_retain": -1.0}, "lambda_retain is -1"),
        ({"lambda_general": float("inf")}, "lambda_general is inf"),
        ({"reduce": "sum"}, "reduce is 'sum'"),
        ({"objective": "margin"}, "objective is 'margin'"),
        ({"iterations": 0}, "iterations is 0"),
        ({"integration_steps": 0}, "integration_steps is 0"),
        ({"candidates": 0.5}, "candidates is 0.5"),
        ({"max_neurons": 3, "budget": 0.1}, "say the same thing twice"),
    ],
)
def test_parameters_out_of_range_are_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        ContrastConfig(**wrong)


def test_what_it_needs_and_takes(make_layout):
    method = find_method("contrast")
    method.check_given(Given(pii=True, general=True, retain=("kept",)))
    with pytest.raises(UsageError, match="contrast needs --pii"):
        method.check_given(Given(general=True))
    method.check(make_layout("llama"), Given(pii=True), ContrastConfig(max_neurons=1))
