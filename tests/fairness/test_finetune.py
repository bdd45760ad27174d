"""FFt on rows with a known bias: what it reaches, what it leaves alone, and its exact patch."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.errors import DataError, ModelError, SelectionError, UsageError
from neuropatch.fairness.baselines import ABLATIONS, run_baselines, train_private
from neuropatch.fairness.distributions import pure_groups
from neuropatch.fairness.finetune import FineTuneConfig, Watch, fair_finetune, objective_of
from neuropatch.fairness.finetune_patch import changed_units, delta_patch
from neuropatch.fairness.finetune_run import divide
from neuropatch.fairness.finetune_units import attribute_units, choose_units
from neuropatch.fairness.loading import load_classifier
from neuropatch.fairness.tabular import TabularRecipe
from neuropatch.fairness.training import TabularTrainer
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.progress import Silent

RECIPE = TabularRecipe(hidden_size=8, intermediate_size=16, epochs=10, batch_size=64)
CONFIG = FineTuneConfig(epochs=2, batch_size=64, max_cost=0.1)


@pytest.fixture(scope="session")
def parts(make_examples):
    return divide(pure_groups(make_examples(2000, shift=0.8)), seed=0)


@pytest.fixture(scope="session")
def base(parts):
    return TabularTrainer(RECIPE)(parts.training.g0, 0)


@pytest.fixture(scope="session")
def tuned(base, parts):
    return fair_finetune(base, parts.training, parts.validation, CONFIG)


@pytest.fixture(scope="session")
def files(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    base.save(folder)
    return folder


def _weights(classifier):
    return {name: value.numpy() for name, value in classifier.model.state_dict().items()}


def test_the_gap_falls_on_rows_that_nothing_was_fitted_to(base, tuned, parts):
    before, after = Watch(parts.test, base)(0), Watch(parts.test, tuned.classifier)(0)
    # The base knows one group's cut: it is wrong on a third of the other group's rows.
    assert before.gap > 0.2
    assert after.gap < before.gap / 2
    assert after.delta_eo < before.delta_eo
    assert after.mean > before.mean - 0.1


def test_only_mlp_weights_learn_and_the_base_stays_as_it_was(base, tuned, parts):
    before = _weights(base)
    again = _weights(TabularTrainer(RECIPE)(parts.training.g0, 0))
    for name, values in _weights(tuned.classifier).items():
        assert (before[name] == again[name]).all()
        learns = name.startswith("blocks.") and name.endswith(".weight")
        assert (values != before[name]).any() == learns, name


def test_equal_seeds_give_equal_weights(base, tuned, parts):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    again = fair_finetune(base, parts.training, parts.validation, CONFIG)
    assert (torch.get_rng_state() == state).all()
    assert again.history == tuned.history
    for name, values in _weights(again.classifier).items():
        assert (values == _weights(tuned.classifier)[name]).all()
    other = fair_finetune(base, parts.training, parts.validation, replace(CONFIG, seed=1))
    assert other.history != tuned.history


def test_early_stopping_keeps_the_best_state_that_is_not_too_dear(base, tuned, parts):
    first = tuned.history[0]
    assert (first.step, first.gap) == (0, Watch(parts.validation, base)(0).gap)
    affordable = [one for one in tuned.history if first.mean - one.mean <= CONFIG.max_cost]
    best = min(one.rank(CONFIG) for one in affordable)
    assert tuned.chosen.rank(CONFIG) == best
    # The weights are those of that state.
    kept = Watch(parts.validation, tuned.classifier)(tuned.chosen.step)
    assert kept == tuned.chosen


def test_nothing_affordable_keeps_the_base(base, parts):
    wrong = replace(CONFIG, learning_rate=10.0, max_cost=0.0, epochs=1)
    kept = fair_finetune(base, parts.training, parts.validation, wrong)
    assert kept.chosen.step == 0
    for name, values in _weights(kept.classifier).items():
        assert (values == _weights(base)[name]).all()


def test_an_attribution_is_the_sum_of_gradient_times_activation(base, parts):
    rows = parts.validation
    objective = objective_of(rows, CONFIG)
    found = attribute_units(base, rows, objective, seed=0)
    # Slow reference: the hidden activations by hand, one factor a row and unit.
    model = copy.deepcopy(base.model).double()
    x = torch.cat([base.encode(side) for side in rows.sides]).double()
    x = model.embed(x)
    factors = []
    for block in model.blocks:
        h = torch.relu(block.up(x))
        factor = torch.ones_like(h, requires_grad=True)
        factors.append(factor)
        x = x + block.down(h * factor)
    labels, groups = (
        torch.from_numpy(np.concatenate([getattr(side, name) for side in rows.sides]))
        for name in ("labels", "groups")
    )
    sides = torch.from_numpy(np.repeat([0, 1], [len(rows.g0), len(rows.g1)]))
    gradients = torch.autograd.grad(objective(model.head(x)[:, 0], labels, groups, sides), factors)
    for scores, gradient in zip(found.values(), gradients, strict=True):
        # d/df P(f h) at f = 1 is h dP/dh. float32 against float64.
        np.testing.assert_allclose(scores, gradient.abs().sum(0).numpy(), rtol=1e-3, atol=1e-7)


def test_max_neurons_changes_the_most_attributed_units_and_no_other(base, parts, files):
    config = replace(CONFIG, max_neurons=3)
    tuned = fair_finetune(base, parts.training, parts.validation, config)
    scores = attribute_units(
        base, parts.validation, objective_of(parts.validation, config), config.seed
    )
    joined = np.concatenate(list(scores.values()))
    chosen = np.concatenate(
        [16 * block.layer + units for block, units in tuned.units.units.items()]
    )
    assert len(tuned.units) == 3
    assert tuned.units.total == 32
    assert set(chosen) == set(np.argsort(-joined)[:3])
    before, after = _weights(base), _weights(tuned.classifier)
    changed = set()
    for layer in (0, 1):
        for role, axis in (("up", 1), ("down", 0)):
            name = f"blocks.{layer}.{role}.weight"
            different = (before[name] != after[name]).any(axis=axis)
            changed |= {16 * layer + unit for unit in np.flatnonzero(different)}
    assert changed == set(chosen)
    patch = _patch(base, tuned, files)
    assert changed_units(patch) == 3
    assert len(patch) <= 3 * 2 * 8


@pytest.mark.parametrize(("amount", "count"), [(0.1, 3), (0.99, 31), (1, 1), (32, 32)])
def test_an_amount_of_units_is_a_share_or_a_number(base, parts, amount, count):
    config = replace(CONFIG, max_neurons=amount)
    objective = objective_of(parts.validation, config)
    assert len(choose_units(base, parts.validation, objective, config)) == count


@pytest.mark.parametrize("amount", [0.01, 33])
def test_an_amount_that_there_is_not_is_refused(base, parts, amount):
    config = replace(CONFIG, max_neurons=amount)
    with pytest.raises(UsageError, match="of the model's 32 units"):
        fair_finetune(base, parts.training, parts.validation, config)


def _patch(base, tuned, files, **more):
    checkpoint = Checkpoint.open(files)
    metadata = PatchMetadata(checkpoint.layout.signature, **more)
    return delta_patch(checkpoint, base, tuned.classifier, metadata)


def test_base_and_patch_are_the_fine_tuned_model_and_back_byte_for_byte(
    base, tuned, files, parts, tmp_path
):
    patch = _patch(base, tuned, files)
    assert {edit.kind for edit in patch.weights} == {"add"}
    apply_patches(files, [patch], tmp_path / "fair")
    fair = load_classifier(tmp_path / "fair", device="cpu")
    memory = copy.deepcopy(base)
    patch.apply(memory.model)
    for name, values in _weights(fair).items():
        assert (values == _weights(memory)[name]).all()
        # A delta is rounded once: one unit in the last place of the weight or of the delta.
        np.testing.assert_allclose(values, _weights(tuned.classifier)[name], rtol=2e-7, atol=2e-7)
    assert Watch(parts.test, fair)(0) == Watch(parts.test, tuned.classifier)(0)
    revert_patches(tmp_path / "fair", [patch], tmp_path / "back")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (files / name).read_bytes()


def test_a_model_that_did_not_change_has_no_patch(base, tuned, files):
    with pytest.raises(SelectionError, match="no weights that do better"):
        _patch(base, replace(tuned, classifier=base), files)


def test_files_of_another_model_have_no_patch(base, tuned, parts, tmp_path):
    TabularTrainer(RECIPE)(parts.training.g0, 1).save(tmp_path)
    with pytest.raises(ModelError, match="others than were loaded"):
        _patch(base, tuned, tmp_path)


def test_rehearsal_is_a_share_of_each_batch(base, parts):
    for rehearsal, steps in ((0.0, 50), (1.0, 50)):
        # One side only: the penalty has nothing to compare, and training still goes on.
        config = replace(CONFIG, rehearsal=rehearsal, epochs=1)
        found = fair_finetune(base, parts.training, parts.validation, config)
        assert found.history[-1].step == steps
    with pytest.raises(UsageError, match=r"--rehearsal is 1\.5"):
        FineTuneConfig(rehearsal=1.5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"penalty_weight": -1.0}, "--penalty-weight is -1"),
        ({"gap_weight": float("nan")}, "--gap-weight is nan"),
        ({"max_cost": -0.1}, "--max-cost"),
        ({"max_neurons": 0.0}, "--max-neurons"),
        ({"epochs": 0}, "--epochs"),
        ({"temperature": 0.0}, "--temperature"),
    ],
)
def test_settings_out_of_range_are_refused(changes, named):
    with pytest.raises(UsageError, match=named):
        FineTuneConfig(**changes)


def test_a_division_has_every_row_once_and_both_labels_everywhere(make_examples):
    rows = pure_groups(make_examples(300))
    parts = divide(rows, seed=1)
    for side in (0, 1):
        pieces = [part.sides[side] for part in (parts.training, parts.validation, parts.test)]
        together = np.sort(np.concatenate([piece.columns["x"] for piece in pieces]))
        assert (together == np.sort(rows.sides[side].columns["x"])).all()
        shares = [piece.labels.mean() for piece in pieces]
        assert max(shares) - min(shares) < 0.05
    with pytest.raises(DataError, match="are left for"):
        divide(pure_groups(make_examples(8)), seed=0)


def test_baselines_are_all_that_the_issue_names(base, parts):
    found = run_baselines(
        base, parts.training, parts.validation, replace(CONFIG, epochs=1, max_neurons=0.1), Silent()
    )
    assert set(found) == {"DP-SGD", *ABLATIONS}
    for classifier in found.values():
        assert np.isfinite(classifier.probabilities(parts.test.g0)).all()


def test_dp_sgd_is_deterministic_and_noisy(parts):
    rows = parts.training.g0.select(np.arange(200))
    first, again = (train_private(rows, RECIPE, 0) for _ in range(2))
    other = train_private(rows, RECIPE, 0, epsilon=1.0)
    for name, values in _weights(first).items():
        assert (values == _weights(again)[name]).all()
        assert (values != _weights(other)[name]).any()
