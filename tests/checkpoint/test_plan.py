from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.plan import make_plan
from neuropatch.errors import (
    CheckpointError,
    PatchConflictError,
    PatchMismatchError,
    UsageError,
)
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.definition import definitions, parse_definition
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.patch import NeuronPatch

DOWN = MatrixId("decoder", 0, -1, "down")
UP = MatrixId("decoder", 0, -1, "up")


def refused(folder, *patches, error=CheckpointError, revert=False):
    with pytest.raises(error) as caught:
        make_plan(Checkpoint.open(folder), patches, revert=revert)
    return caught.value.message


def with_edits(patch, *edits):
    return NeuronPatch(patch.metadata, edits)


def test_counts(lab, model):
    patch = lab.patch(model, kinds=("zero", "set"), count=2)
    plan = make_plan(Checkpoint.open(model), [patch])
    assert (plan.weights, plan.tensors, plan.bytes) == (2 * 2 * 14, 14, 2 * 2 * 14 * 4)
    assert plan.changed == plan.weights
    assert plan.drift.weights == plan.weights
    assert not plan.drift.unequal


def test_no_patches(model):
    refused(model, error=UsageError)


def test_another_architecture(lab, model, tmp_path):
    config = lab.configs["llama"] | {"num_hidden_layers": 1}
    other = lab.write(tmp_path / "other", config, lab.tensors(config))
    message = refused(other, lab.patch(model), error=PatchMismatchError)
    assert "layers 2 against 1" in message


def test_conflicting_patches(lab, model):
    first = with_edits(lab.patch(model), lab.edit(model, DOWN, "zero", [1, 2]))
    second = with_edits(first, lab.edit(model, DOWN, "set", [2, 3], 1.0))
    assert "decoder.0.down[0, 2]" in refused(model, first, second, error=PatchConflictError)


def test_steering_needs_run_time(lab, model):
    edit = UnitEdit(BlockId("decoder", 1), "steer", np.array([2]), np.ones(1, np.float32))
    patch = replace(lab.patch(model), units=(edit,))
    message = refused(model, patch, error=PatchMismatchError)
    assert "decoder.1" in message
    assert "nothing was written" in message


@pytest.mark.parametrize("kind", ["scale", "add", "set"])
@pytest.mark.parametrize("dtype", ["F16", "F8_E4M3", "F8_E5M2"])
def test_overflow_names_the_matrix(lab, model, tmp_path, dtype, kind):
    narrow = lab.checkpoint(tmp_path / "narrow", dtype=dtype)
    patch = with_edits(lab.patch(model), lab.edit(model, DOWN, kind, [4], 1e30))
    message = refused(narrow, patch, error=PatchMismatchError)
    assert f"{kind} edit of decoder.0.down" in message


def test_a_damaged_model(lab, tmp_path):
    tensors = lab.tensors(lab.configs["llama"])
    good = lab.write(tmp_path / "good", lab.configs["llama"], tensors)
    patch = with_edits(lab.patch(good), lab.edit(good, DOWN, "zero", [0, 5]))
    tensors["model.layers.0.mlp.down_proj.weight"].reshape(-1)[5] = np.nan
    bad = lab.write(tmp_path / "bad", lab.configs["llama"], tensors)
    assert "decoder.0.down holds NaN" in refused(bad, patch)


class TestDefinitions:
    """Layouts that no bundled architecture has."""

    def define(self, monkeypatch, roles, **stack):
        document = {
            "name": "invented",
            "model_types": ["invented"],
            "dimensions": {
                "layers": ["num_hidden_layers"],
                "hidden": ["hidden_size"],
                "intermediate": ["intermediate_size"],
                "experts": ["num_experts"],
            },
            "stacks": [
                {"name": "decoder", "layers": "layers", "prefixes": ["l.{layer}"], "roles": roles}
                | stack
            ],
        }
        monkeypatch.setitem(definitions(), "invented", parse_definition(document))

    CONFIG: ClassVar = {
        "model_type": "invented",
        "num_hidden_layers": 2,
        "hidden_size": 4,
        "intermediate_size": 6,
        "num_experts": 3,
    }

    def test_stacked_experts_with_interleaved_rows(self, lab, tmp_path, monkeypatch):
        fused = {"parts": ["intermediate", "intermediate"], "groups": "intermediate"}
        storage = {"path": "experts.gate_up", "stacked": True, "transposed": True}
        roles = {
            role: {
                "shape": ["intermediate", "hidden"],
                "storage": storage | {"fused": fused | {"part": part}},
            }
            for part, role in enumerate(("gate", "up"))
        }
        down = {"path": "experts.{expert}.down"}
        roles["down"] = {"shape": ["hidden", "intermediate"], "storage": down}
        self.define(monkeypatch, roles, experts="experts")
        folder = lab.write(tmp_path / "m", self.CONFIG, lab.tensors(self.CONFIG))
        matrix = MatrixId("decoder", 1, 2, "up")
        stored = lab.tensors(self.CONFIG)["l.1.experts.gate_up"]
        assert np.array_equal(lab.values(folder, matrix), stored[2][:, 1::2].T)
        patch = lab.patch(folder)
        plan = make_plan(Checkpoint.open(folder), [patch])
        assert plan.weights == len(patch) == 12 * 2 * 3 * 3
        assert not plan.drift.unequal
        for write in plan.writes:
            _, rows, columns = write.location.slot.find(write.offsets)
            order = np.lexsort((columns, rows))
            assert np.array_equal(rows[order], write.change.edit.rows)
            assert np.array_equal(columns[order], write.change.edit.columns)

    def test_layers_that_share_a_tensor_are_refused(self, lab, tmp_path, monkeypatch):
        storage = {"path": "up"}
        roles = {"up": {"shape": ["intermediate", "hidden"], "storage": storage}}
        self.define(monkeypatch, roles, prefixes=["shared"])
        folder = lab.write(tmp_path / "m", self.CONFIG, lab.tensors(self.CONFIG))
        assert "decoder.0.up and decoder.1.up share one tensor" in refused(
            folder, lab.patch(folder, kinds=("zero",))
        )


def test_undo_patch_holds_the_models_own_values(lab, model, tmp_path):
    tuned = lab.checkpoint(tmp_path / "tuned", dtype="BF16", seed=7)
    plan = make_plan(Checkpoint.open(tuned), [lab.patch(model)])
    undo = plan.undo_patch()
    assert undo.metadata.base_model.name == "tuned"
    assert {edit.kind for edit in undo.weights} == {"zero", "set"}
    for edit in undo.weights:
        assert isinstance(edit, WeightEdit)
        values = lab.values(tuned, edit.matrix)[edit.rows, edit.columns]
        assert edit.before.tobytes() == values.tobytes()
    assert plan.drift.unequal
