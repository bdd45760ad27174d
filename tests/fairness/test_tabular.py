"""The tabular model as a checkpoint like any other: written, read, refused, patched."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.checkpoint.diff import diff_checkpoints
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.errors import CheckpointError, ModelError, NeuropatchError
from neuropatch.fairness.loading import load_classifier, load_recipe
from neuropatch.fairness.tabular import MODEL_TYPE, TabularRecipe
from neuropatch.fairness.training import TabularTrainer, new_tabular
from neuropatch.models.modules import model_layout, resolve_layer, resolve_parameters

RECIPE = TabularRecipe(hidden_size=6, intermediate_size=10, epochs=2)


@pytest.fixture
def classifier(make_examples):
    return new_tabular(make_examples(60), RECIPE, seed=1)


@pytest.fixture
def folder(classifier, tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    classifier.save(path)
    return path


def test_saving_and_loading_is_the_identity(classifier, folder, make_examples):
    fresh = make_examples(30, seed=7)
    loaded = load_classifier(folder, device="cpu")
    assert (loaded.probabilities(fresh) == classifier.probabilities(fresh)).all()
    assert loaded.model.config == classifier.model.config
    again = folder.parent / "again"
    again.mkdir()
    loaded.save(again)
    for name in ("config.json", "model.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_the_module_computes_what_its_docstring_says(classifier, make_examples):
    examples = make_examples(5)
    weights = {
        name: value.double().numpy() for name, value in classifier.model.state_dict().items()
    }

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = linear("embed", classifier.encode(examples).double().numpy())
    for block in (0, 1):
        hidden = np.maximum(linear(f"blocks.{block}.up", x), 0)
        x = x + linear(f"blocks.{block}.down", hidden)
    odds = linear("head", x)[:, 0]
    # float32 sums of at most 10 terms against float64.
    np.testing.assert_allclose(
        classifier.probabilities(examples), 1 / (1 + np.exp(-odds)), atol=1e-6
    )


def test_coordinates_resolve_in_memory_and_on_disk(classifier, folder):
    layout = model_layout(classifier.model)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.layout == layout
    assert layout.signature.dimensions == {
        "layers": 2, "hidden": 6, "intermediate": 10, "vocabulary": 3,
    }  # fmt: skip
    matrices = layout.matrices()
    assert [str(matrix) for matrix in matrices[:2]] == ["encoder.0.up", "encoder.0.down"]
    stored = load_file(folder / "model.safetensors")
    for slot in resolve_parameters(classifier.model, layout, matrices):
        name = checkpoint.locate(slot.matrix).info.name
        assert name == slot.name
        assert (stored[name] == slot.weight().numpy()).all()
    block = next(iter(layout.blocks()))
    assert set(dict(resolve_layer(classifier.model, layout, block).named_modules())) == {
        "", "up", "down",
    }  # fmt: skip


def test_a_patch_on_files_and_in_memory_gives_the_same_model(
    classifier, folder, make_patch, base_of, make_examples, tmp_path
):
    layout = model_layout(classifier.model)
    patch = make_patch(layout, base=base_of(classifier.model), units=("scale",))
    fresh = make_examples(30, seed=7)
    before = classifier.probabilities(fresh)
    apply_patches(folder, [patch], tmp_path / "patched")
    with patch.applied(classifier.model):
        inside = classifier.probabilities(fresh)
    assert (
        load_classifier(tmp_path / "patched", device="cpu").probabilities(fresh) == inside
    ).all()
    assert (inside != before).any()
    assert (classifier.probabilities(fresh) == before).all()
    assert len(diff_checkpoints(folder, tmp_path / "patched").patch) > 0
    revert_patches(tmp_path / "patched", [patch], tmp_path / "back")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes()


def _edit(folder, **changes):
    path = folder / "config.json"
    document = json.loads(path.read_text())
    for name, value in changes.items():
        if value is None:
            del document[name]
        else:
            document[name] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"features": "age"}, "not a list"),
        ({"input_size": 4}, "input_size is not the 3"),
        ({"group_names": [1]}, "group_names"),
        ({"label": 3}, "label is not a text"),
        ({"training": None}, "training is not a map"),
        ({"training": {"epochs": 1}}, "training has not the fields"),
        ({"hidden_size": 1 << 20}, "hidden_size is 1048576, not a size"),
        ({"intermediate_size": 11}, r"'blocks.0.down.bias|'blocks.0.down.weight' is \[6, 10\]"),
        ({"num_hidden_layers": 3}, r"'blocks.2.down.bias' is not there"),
        ({"num_hidden_layers": 1}, r"'blocks.1.down.bias' is .* should not be there"),
        ({"hidden_size": -6}, "which is not a size"),
    ],
)
def test_a_damaged_config_is_refused(folder, changes, problem):
    _edit(folder, **changes)
    with pytest.raises(NeuropatchError, match=problem):
        load_classifier(folder, device="cpu")


def test_a_damaged_recipe_is_refused(folder):
    training = json.loads((folder / "config.json").read_text())["training"]
    for value in ("2", True, -1, 1.5):
        _edit(folder, training={**training, "epochs": value})
        with pytest.raises(ModelError, match="epochs is"):
            load_classifier(folder, device="cpu")


def test_other_number_formats_and_missing_weights_are_refused(folder):
    stored = load_file(folder / "model.safetensors")
    save_file({**stored, "head.bias": np.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"'head.bias' is F64"):
        load_classifier(folder, device="cpu")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has neither"):
        load_classifier(folder, device="cpu")


def test_training_is_deterministic_and_does_not_touch_the_global_generator(make_examples):
    examples = make_examples(200)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    trainer = TabularTrainer(RECIPE)
    first, again, other = trainer(examples, 3), trainer(examples, 3), trainer(examples, 4)
    assert (torch.get_rng_state() == state).all()
    assert (first.probabilities(examples) == again.probabilities(examples)).all()
    assert (first.probabilities(examples) != other.probabilities(examples)).any()


def test_training_learns_and_the_recipe_is_in_the_folder(make_examples, tmp_path):
    examples = make_examples(1000, shift=0.0)
    recipe = TabularRecipe(hidden_size=8, intermediate_size=16, epochs=12, batch_size=64)
    trained = TabularTrainer(recipe)(examples, 0)
    right = (trained.probabilities(examples) >= 0.5) == examples.labels
    assert right.mean() > 0.95
    trained.save(tmp_path)
    assert load_recipe(tmp_path, device="cpu").recipe == recipe
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == MODEL_TYPE
