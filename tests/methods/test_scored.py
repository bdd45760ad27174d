"""Methods that score units or weights, each against its formula in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from neuropatch.attribution.gates import gate_gradients, sample_gate_gradients
from neuropatch.attribution.reference import snip_scores
from neuropatch.data.tokenize import Sample
from neuropatch.errors import SelectionError, UsageError
from neuropatch.methods._base import Given, find_method
from neuropatch.methods._samples import behaviour_samples
from neuropatch.models.coordinates import BlockId, MatrixId

BLOCKS = (BlockId("decoder", 0), BlockId("decoder", 1))
NAMES = ("grad-act", "magnitude", "random", "snip", "wanda")


def run(name, inputs, **config):
    method = find_method(name)
    return method.run(inputs, method.config(**config))


def units_of(found):
    return {(edit.block, int(k)) for edit in found.patch.units for k in edit.units}


def weights_of(found):
    return {
        (edit.matrix, int(row), int(column))
        for edit in found.patch.weights
        for row, column in zip(edit.rows, edit.columns, strict=True)
    }


def top_units(scores, count, without=frozenset()):
    entries = [(-s, b, k) for b in BLOCKS for k, s in enumerate(scores[b]) if (b, k) not in without]
    return {(block, unit) for _, block, unit in sorted(entries)[:count]}


def top_weights(scores, count):
    entries = [
        (-float(value), matrix.sort_key, index)
        for matrix, values in scores.items()
        for index, value in np.ndenumerate(np.asarray(values))
    ]
    order = {matrix.sort_key: matrix for matrix in scores}
    return {(order[key], *index) for _, key, index in sorted(entries)[:count]}


def norms(inputs, samples, predicting=False):
    """``||x_j||_2`` of every linear layer's input, one sample at a time."""
    layers = inputs.model.model.layers
    modules = {
        MatrixId(*block, role): getattr(layers[block.layer].mlp, f"{role}_proj")
        for block in BLOCKS
        for role in ("gate", "up", "down")
    }
    squares = dict.fromkeys(modules, 0.0)

    def hook(matrix, keep):
        def add(_, args):
            squares[matrix] += args[0][0][keep].double().square().sum(dim=0).numpy()

        return add

    for sample in samples:
        targets = np.array(sample.targets(-100)) != -100
        keep = torch.from_numpy(targets if predicting else np.ones_like(targets))
        handles = [m.register_forward_pre_hook(hook(name, keep)) for name, m in modules.items()]
        with torch.no_grad():
            inputs.model(input_ids=torch.tensor([sample.ids[:-1]]))
        for handle in handles:
            handle.remove()
    return {matrix: np.sqrt(values) for matrix, values in squares.items()}


def definition(name, inputs, samples, **config):
    """The scores of units, from the formula."""
    model, layout = inputs.model, inputs.layout
    if name == "grad-act":
        found = gate_gradients(model, layout, samples)
        return {b: np.abs(v) if config.get("absolute") else -v for b, v in found.items()}
    if name == "snip":
        rows = {block: [] for block in BLOCKS}
        for part in sample_gate_gradients(model, layout, samples, batch_tokens=1):
            for block, values in part.values.items():
                rows[block].append(values.abs().numpy())
        return {block: np.concatenate(values).mean(axis=0) for block, values in rows.items()}
    size = norms(inputs, samples, config.get("positions") == "predicting")
    downs = {block: model.model.layers[block.layer].mlp.down_proj.weight for block in BLOCKS}
    return {
        block: down.detach().double().abs().sum(dim=0).numpy() * size[MatrixId(*block, "down")]
        for block, down in downs.items()
    }


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("grad-act", {}),
        ("grad-act", {"absolute": True}),
        ("snip", {}),
        ("wanda", {}),
        ("wanda", {"positions": "predicting"}),
    ],
)
def test_units_by_their_formula(make_inputs, name, config):
    inputs = make_inputs(dtype="float64", general=False)
    scores = definition(name, inputs, behaviour_samples(inputs.pii), **config)
    found = run(name, inputs, max_neurons=6, **config)
    assert units_of(found) == top_units(scores, 6)
    assert found.statistics == {"edited": 6, "blocks": len(found.patch.units)}
    assert all(edit.value.tolist() == [0] * len(edit) for edit in found.patch.units)


@pytest.mark.parametrize("name", ["grad-act", "snip", "wanda"])
def test_the_general_set_protects_its_own_top_units(make_inputs, name):
    inputs = make_inputs(dtype="float64")
    mine = definition(name, inputs, behaviour_samples(inputs.pii))
    general = definition(name, inputs, inputs.general.samples)
    for p, count in ((None, 5), (9.0, 9), (0.25, 10)):
        protected = top_units(general, count)
        assert protected & top_units(mine, 5)
        found = run(name, inputs, max_neurons=5, p=p)
        assert units_of(found) == top_units(mine, 5, without=protected)


def test_magnitude_of_units_and_weights(make_inputs):
    inputs = make_inputs(dtype="float64")
    layers = [inputs.model.model.layers[block.layer].mlp for block in BLOCKS]
    with torch.no_grad():
        scores = {
            block: (
                mlp.gate_proj.weight.square().sum(dim=1)
                + mlp.up_proj.weight.square().sum(dim=1)
                + mlp.down_proj.weight.square().sum(dim=0)
            ).numpy()
            for block, mlp in zip(BLOCKS, layers, strict=True)
        }
        weights = {
            MatrixId(*block, role): getattr(mlp, f"{role}_proj").weight.abs().numpy()
            for block, mlp in zip(BLOCKS, layers, strict=True)
            for role in ("up", "down")
        }
    assert units_of(run("magnitude", inputs, max_neurons=7)) == top_units(scores, 7)
    found = run("magnitude", inputs, granularity="weights", q=11, target="up,down")
    assert weights_of(found) == top_weights(weights, 11)


def test_snip_of_weights_is_spin_with_one_data_set(make_inputs):
    inputs = make_inputs()
    matrices = inputs.layout.matrices(("up", "down"))
    mine = snip_scores(inputs.model, _plain(inputs.pii), matrices)
    general = snip_scores(inputs.model, inputs.general.samples, matrices)
    found = run("snip", inputs, granularity="weights", q=40, p=60, target="up,down")
    assert weights_of(found) == top_weights(mine, 40) - top_weights(general, 60)
    assert 0 < found.statistics["edited"] < 40
    free = run("snip", replace(inputs, general=None), granularity="weights", q=40, target="up,down")
    assert weights_of(free) == top_weights(mine, 40)


def _plain(corpus):
    """The records as plain samples: their personal data stands at the end."""
    secret = [sample.secret() for sample in corpus.samples]
    starts = [sample.counted.index(True) for sample in secret]
    assert all(all(one.counted[start:]) for one, start in zip(secret, starts, strict=True))
    return [Sample(s.row, s.ids, start) for s, start in zip(secret, starts, strict=True)]


@pytest.mark.parametrize("scope", ["matrix", "layer", "model"])
def test_wanda_of_weights(make_inputs, scope):
    inputs = make_inputs(dtype="float64", general=False)
    size = norms(inputs, behaviour_samples(inputs.pii))
    weights = {
        matrix: getattr(inputs.model.model.layers[matrix.layer].mlp, f"{matrix.role}_proj")
        .weight.detach()
        .abs()
        .numpy()
        * values
        for matrix, values in size.items()
    }
    found = run("wanda", inputs, granularity="weights", q=9, scope=scope)
    groups = {"matrix": lambda m: m, "layer": lambda m: m.layer, "model": lambda m: 0}[scope]
    wanted = set()
    for group in {groups(matrix) for matrix in weights}:
        wanted |= top_weights({m: w for m, w in weights.items() if groups(m) == group}, 9)
    assert weights_of(found) == wanted


def test_random_units_and_weights_are_drawn_evenly(make_inputs):
    inputs = make_inputs()
    drawn = [units_of(run("random", replace(inputs, seed=s), max_neurons=8)) for s in range(30)]
    assert all(len(one) == 8 for one in drawn)
    counts = [sum((block, k) in one for one in drawn) for block in BLOCKS for k in range(20)]
    # 30 draws of a fifth: 6 are expected, with a standard deviation of 2.2.
    assert min(counts) >= 1
    assert max(counts) <= 15
    assert units_of(run("random", inputs, max_neurons=8)) == drawn[0]
    seen = set()
    for seed in range(20):
        found = weights_of(
            run("random", replace(inputs, seed=seed), granularity="weights", q=0.05, scope="matrix")
        )
        assert len(found) == 6 * 12
        seen |= found
    # 20 draws of a twentieth miss a weight with probability 0.36.
    assert 0.58 < len(seen) / (6 * 240) < 0.7


@pytest.mark.parametrize("name", NAMES)
def test_edits_other_than_zero(make_inputs, name):
    inputs = make_inputs(general=False)
    for edit, kind in (("scale", "scale"), ("steer", "steer"), ("noise", "steer")):
        found = run(name, inputs, max_neurons=3, edit=edit)
        assert {one.kind for one in found.patch.units} == {kind}
        parameters = found.patch.metadata.method["parameters"]
        assert (parameters["edit"], parameters["max_neurons"]) == (edit, 3)


@pytest.mark.parametrize("name", ["magnitude", "random", "snip", "wanda"])
def test_parameters_of_the_other_granularity_are_refused(name):
    config = find_method(name).config
    for wrong, message in (
        ({"q": 3.0}, "q has no meaning for units"),
        ({"target": "attn"}, "target has no meaning for units"),
        ({"granularity": "weights", "max_neurons": 3}, "max_neurons has no meaning for weights"),
        ({"granularity": "weights", "budget": 0.1}, "budget has no meaning for weights"),
        ({"granularity": "heads"}, "unknown granularity 'heads'"),
        ({"granularity": "weights", "scope": "head"}, "unknown scope 'head'"),
        ({"granularity": "weights", "edit": "steer"}, "steer moves activations"),
        ({"scope": "matrix"}, "unknown scope 'matrix'"),
    ):
        with pytest.raises(UsageError, match=message):
            config(**wrong)


def test_what_cannot_work_is_refused_before_anything_is_loaded(make_layout):
    layout = make_layout("llama")

    def check(name, given, **config):
        method = find_method(name)
        method.check_given(given)
        method.check(layout, given, method.config(**config))

    for name in ("grad-act", "snip", "wanda"):
        check(name, Given(pii=True), max_neurons=1)
        check(name, Given(pii=True, general=True), max_neurons=1, p=3)
        with pytest.raises(UsageError, match="--p is what the general set protects"):
            check(name, Given(pii=True), max_neurons=1, p=3)
        with pytest.raises(SelectionError, match="less than one"):
            check(name, Given(pii=True))
    for name in ("magnitude", "random"):
        check(name, Given(), max_neurons=1)
        check(name, Given(kind="masked"), granularity="weights", q=5)
        check(name, Given(pii=True), max_neurons=1, edit="steer")
        with pytest.raises(UsageError, match="--pii has no effect here"):
            check(name, Given(pii=True), max_neurons=1)
        with pytest.raises(UsageError, match="--edit steer is made from activations"):
            check(name, Given(), max_neurons=1, edit="steer")
        with pytest.raises(SelectionError, match="selects no weight in any model"):
            check(name, Given(), granularity="weights", q=1e-6)


def test_a_protection_that_leaves_no_weight_is_told(make_inputs):
    with pytest.raises(SelectionError, match="no weight is left"):
        run("magnitude", _zeroed(make_inputs()), granularity="weights", q=5)
    inputs = make_inputs()
    with pytest.raises(SelectionError, match="no weight is left"):
        run("snip", inputs, granularity="weights", q=1, p=1400)


def _zeroed(inputs):
    with torch.no_grad():
        for parameter in inputs.model.parameters():
            parameter.zero_()
    return inputs
