"""NeuronPatch and its metadata: canonical order, validation, provenance."""

import math
from dataclasses import replace

import numpy as np
import pytest

from neuropatch.errors import (
    ArchitectureError,
    OutputError,
    PatchFormatError,
    PatchMismatchError,
)
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.layout import Signature
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.format import read_patch
from neuropatch.patch.metadata import BaseModel, PatchMetadata
from neuropatch.patch.patch import PATCH_FILE, NeuronPatch, roles_of

DOWN = MatrixId("decoder", 0, -1, "down")


@pytest.fixture
def metadata(make_layout):
    return PatchMetadata(make_layout("llama").signature)


def _weights(matrix, *places, kind="zero"):
    rows, columns = np.array(places, dtype=np.int64).T
    value = None if kind == "zero" else np.ones(len(places), dtype=np.float32)
    return WeightEdit.build(
        matrix, kind, rows, columns, np.ones(len(places), dtype=np.float32), value
    )


def _units(*units, kind="scale", width=12):
    before = np.ones((len(units), width), dtype=np.float32) if kind == "scale" else None
    value = np.ones(len(units), dtype=np.float32)
    return UnitEdit(BlockId("decoder", 0), kind, np.array(units), value, before)


def test_edits_are_held_in_canonical_order(make_patch, make_layout):
    patch = make_patch(make_layout("llama"), units=("scale", "steer"))
    shuffled = replace(
        patch, weights=tuple(reversed(patch.weights)), units=tuple(reversed(patch.units))
    )
    assert shuffled == patch
    keys = [edit.matrix.sort_key for edit in patch.weights]
    assert keys == sorted(keys)
    changes = [change.edit.matrix.sort_key for change in replace(patch, units=()).changes()]
    assert changes == keys


def test_length_and_roles(metadata):
    patch = NeuronPatch(
        metadata,
        (_weights(DOWN._replace(role="q"), (0, 0), (1, 1)),),
        (_units(4, 5), _units(4, kind="steer")),
    )
    assert len(patch) == 5
    assert roles_of(patch) == ("down", "q")
    assert roles_of(NeuronPatch(metadata)) == ()


@pytest.mark.parametrize(
    ("weights", "units", "why"),
    [
        ([_weights(DOWN, (0, 0)), _weights(DOWN, (0, 0), kind="set")], [], "edited twice"),
        ([_weights(DOWN, (3, 4))], [_units(4)], "edited twice"),
        ([_weights(DOWN, (0, 0)), _weights(DOWN, (0, 1))], [], "two edits of one kind"),
        ([], [_units(1), _units(2)], "two edits of one kind"),
        ([_weights(DOWN, (12, 0))], [], "outside 12 x 20"),
        ([_weights(DOWN, (0, 20))], [], "outside 12 x 20"),
        ([_weights(DOWN._replace(layer=2), (0, 0))], [], r"no matrix decoder\.2\.down"),
        ([_weights(DOWN._replace(expert=0), (0, 0))], [], "no matrix"),
        ([_weights(DOWN._replace(stack="encoder"), (0, 0))], [], "no encoder stack"),
        ([], [_units(20)], "a unit lies outside 20"),
        ([], [_units(1, width=11)], "not 12 long"),
    ],
)
def test_edits_that_do_not_go_together_are_refused(weights, units, why, metadata):
    with pytest.raises(PatchFormatError, match=why):
        NeuronPatch(metadata, tuple(weights), tuple(units))


def test_edits_may_touch_without_meeting(metadata):
    patch = NeuronPatch(
        metadata,
        (_weights(DOWN, (0, 0)), _weights(DOWN, (0, 1), kind="set")),
        (_units(4), _units(4, kind="steer")),
    )
    assert len(patch) == 4


def test_an_architecture_from_the_future_is_checked_for_overlap_only():
    metadata = PatchMetadata(Signature("llama9", {"layers": 1}))
    far = _weights(DOWN._replace(layer=99, expert=7), (9999, 0))
    assert len(NeuronPatch(metadata, (far,))) == 1
    with pytest.raises(PatchFormatError, match="edited twice"):
        NeuronPatch(metadata, (_weights(DOWN, (3, 4)),), (_units(4),))


def test_an_incomplete_signature_is_refused():
    with pytest.raises(ArchitectureError, match="signature lacks"):
        NeuronPatch(PatchMetadata(Signature("llama", {"layers": 2})))


def test_another_architecture_is_refused_by_name(make_patch, make_layout):
    patch = make_patch(make_layout("llama"))
    patch.check_fits(make_layout("llama", vocab_size=60).signature, what="the checkpoint")
    with pytest.raises(PatchMismatchError, match=r"than the checkpoint: model type llama against"):
        patch.check_fits(make_layout("gpt2").signature, what="the checkpoint")
    with pytest.raises(PatchMismatchError, match="layers 2 against 3"):
        patch.check_fits(make_layout("llama", num_hidden_layers=3).signature, what="x")


def test_compiled_keeps_steering(make_patch, make_layout):
    patch = make_patch(make_layout("llama"), units=("scale", "steer"))
    compiled = patch.compiled()
    assert [edit.kind for edit in compiled.units] == ["steer", "steer"]
    assert len(compiled) == len(patch) - 4 + 4 * 12
    with pytest.raises(PatchFormatError, match="apply the patch to a model in memory"):
        compiled.changes()


def test_saving(tmp_path, make_patch, make_layout):
    patch = make_patch(make_layout("llama"))
    path = patch.save(tmp_path / "a" / "b.safetensors")
    assert read_patch(path) == patch
    assert patch.save_pretrained(tmp_path / "folder") == tmp_path / "folder" / PATCH_FILE
    assert (tmp_path / "folder" / PATCH_FILE).read_bytes() == path.read_bytes()
    with pytest.raises(OutputError, match=r"named \*\.safetensors") as caught:
        patch.save(tmp_path / "patch.bin")
    assert "patch.bin.safetensors" in caught.value.hint


# Metadata ------------------------------------------------------------------------------------


def test_metadata_survives_json(make_layout):
    metadata = PatchMetadata(
        make_layout("llama").signature,
        BaseModel("org/model", "abc"),
        {"name": "spin", "parameters": {"p": 5e-7, "roles": ("gate", "up"), "seed": 0}},
        ({"name": "privacy", "rows": 3},),
        {"torch": "2.13"},
        {"snip": "avx2"},
        "apache-2.0",
        {"perplexity": {"base": 12.5}},
    )
    assert PatchMetadata.from_json(metadata.to_json()) == metadata
    assert metadata.method["parameters"]["roles"] == ["gate", "up"]


def test_with_method_keeps_the_rest(make_layout):
    metadata = PatchMetadata(make_layout("llama").signature, license="mit")
    other = metadata.with_method("scale", factor=2)
    assert other.method == {"name": "scale", "parameters": {"factor": 2}}
    assert other.license == "mit"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", {"seed": np.int64(3)}),
        ("method", {"p": math.nan}),
        ("evaluation", {"perplexity": math.inf}),
        ("datasets", ({"rows": object()},)),
        ("versions", {"torch": "\ud800"}),
        ("base_model", BaseModel("folder\udcff")),
    ],
)
def test_what_a_file_cannot_hold_is_refused_at_once(field, value, make_layout):
    with pytest.raises(PatchFormatError, match=f"'{field}' cannot be written as JSON"):
        PatchMetadata(make_layout("llama").signature, **{field: value})
