"""Unknown architectures: what is inferred, on models that are known and on one that is made up."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.unknown import infer_checkpoint, keep_inferred
from neuropatch.errors import ArchitectureError, UsageError
from neuropatch.models.definition import definitions, parse_definition
from neuropatch.models.introspect import infer
from neuropatch.models.layout import Layout, bind
from neuropatch.models.modules import model_layout, resolve_parameters

HIDDEN, WIDTH, KEYS, TOKENS = 8, 12, 4, 30


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Definitions are kept for the length of a test."""
    folder = tmp_path / "architectures"
    monkeypatch.setenv("NEUROPATCH_ARCHITECTURES", str(folder))
    definitions.cache_clear()
    yield folder
    monkeypatch.undo()
    definitions.cache_clear()


class Invented(nn.Module):
    """A model that no library has: three layers called cells, and a gated MLP."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(to_dict=lambda: dict(CONFIG))
        self.lookup = nn.Embedding(TOKENS, HIDDEN)
        self.trunk = nn.Module()
        self.trunk.cells = nn.ModuleList(Cell(number) for number in range(3))
        self.out = nn.Linear(HIDDEN, TOKENS, bias=False)


class Cell(nn.Module):
    """Attention, an MLP, and two things that have no role."""

    def __init__(self, number):
        super().__init__()
        self.attention = nn.ModuleDict(
            {
                "wq": nn.Linear(HIDDEN, HIDDEN),
                "wk": nn.Linear(HIDDEN, KEYS),
                "wv": nn.Linear(HIDDEN, KEYS),
                "wo": nn.Linear(HIDDEN, HIDDEN),
            }
        )
        self.ffn = nn.ModuleDict(
            {
                "gate": nn.Linear(HIDDEN, WIDTH, bias=False),
                "expand": nn.Linear(HIDDEN, WIDTH, bias=False),
                "contract": nn.Linear(WIDTH, HIDDEN, bias=False),
            }
        )
        self.mixer = nn.Conv1d(HIDDEN, HIDDEN, 3)
        self.norm = nn.LayerNorm(HIDDEN)
        if number == 1:
            self.probe = nn.Linear(HIDDEN, 2)


CONFIG = {"model_type": "invented9", "d_model": HIDDEN, "depth": 3, "ffn": WIDTH, "vocab": TOKENS}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Invented()


@pytest.fixture
def folder(model, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_invented_architecture_is_read_as_it_is_built(folder):
    inferred = infer_checkpoint(folder)
    assert {(role, path, shape) for _, role, path, shape in inferred.roles} == {
        ("gate", "trunk.cells.{layer}.ffn.gate.weight", (WIDTH, HIDDEN)),
        ("up", "trunk.cells.{layer}.ffn.expand.weight", (WIDTH, HIDDEN)),
        ("down", "trunk.cells.{layer}.ffn.contract.weight", (HIDDEN, WIDTH)),
        ("q", "trunk.cells.{layer}.attention.wq.weight", (HIDDEN, HIDDEN)),
        ("k", "trunk.cells.{layer}.attention.wk.weight", (KEYS, HIDDEN)),
        ("v", "trunk.cells.{layer}.attention.wv.weight", (KEYS, HIDDEN)),
        ("o", "trunk.cells.{layer}.attention.wo.weight", (HIDDEN, HIDDEN)),
    }
    assert dict(inferred.left_alone) == {
        "trunk.cells.{layer}.mixer.weight": "3 dimensions",
        "trunk.cells.{layer}.probe.weight": "not the same in every layer",
    }
    # What the config says is taken from there, so that other sizes work too.
    dimensions = inferred.document["dimensions"]
    assert (dimensions["layers"], dimensions["intermediate"]) == (["depth"], ["ffn"])
    assert (dimensions["kv_width"], dimensions["vocabulary"]) == ([str(KEYS)], ["vocab"])


def test_what_is_inferred_counts_once_it_is_accepted(folder, own_folder):
    with pytest.raises(ArchitectureError, match="'invented9' is not known") as caught:
        Checkpoint.open(folder)
    assert "neuropatch layout MODEL" in caught.value.hint
    inferred = infer_checkpoint(folder)
    assert not own_folder.exists()
    assert keep_inferred(inferred) == own_folder / "invented9.json"
    assert len(Checkpoint.open(folder).layout.matrices()) == 3 * 7
    with pytest.raises(UsageError, match="'invented9' is known"):
        infer_checkpoint(folder)


def test_a_patch_of_an_inferred_architecture(model, folder, make_patch, base_of, tmp_path):
    keep_inferred(infer_checkpoint(folder))
    layout = model_layout(model)
    patch = make_patch(layout, base=base_of(model))
    apply_patches(folder, [patch], tmp_path / "patched")
    patched = Invented()
    with patch.applied(model):
        wanted = {name: values.clone() for name, values in model.state_dict().items()}
    from safetensors.torch import load_file

    patched.load_state_dict(load_file(tmp_path / "patched" / "model.safetensors"))
    assert all(torch.equal(values, wanted[name]) for name, values in patched.state_dict().items())
    changed = resolve_parameters(patched, layout, layout.matrices())
    before = base_of(model)
    assert all(not np.array_equal(s.weight().numpy(), before[s.matrix]) for s in changed)
    revert_patches(tmp_path / "patched", [patch], tmp_path / "again")
    names = ("patched", "again")
    data = [(tmp_path / name / "model.safetensors").read_bytes() for name in names]
    assert data[1] == (folder / "model.safetensors").read_bytes() != data[0]


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "bert"])
def test_known_models_are_read_as_their_definitions_say(model_type, make_model):
    model = make_model(model_type)
    known = model_layout(model)
    config = model.config.to_dict()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    definition = parse_definition(infer(config, shapes).document)
    layout = Layout(definition, bind(definition, model_type, config))
    assert layout.matrices() == known.matrices()
    mine = resolve_parameters(model, layout, layout.matrices())
    theirs = resolve_parameters(model, known, known.matrices())
    assert [slot.name for slot in mine] == [slot.name for slot in theirs]


def test_what_may_be_mixed_or_transposed_is_left_alone(make_model):
    model = make_model("gpt2")
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    with pytest.raises(ArchitectureError, match=r"MLP of 'transformer\.h' cannot be told"):
        infer({"model_type": "other"}, shapes)


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        ({"a.weight": (4, 4)}, "no repeated block"),
        ({f"h.{i}.fc1.weight": (8, 4) for i in (0, 2)}, "no repeated block"),
        ({f"h.{i}.mlp.experts.0.fc1.weight": (8, 4) for i in (0, 1)}, "has experts"),
        ({f"h.{i}.mlp.fc1.weight": (8, 4) for i in (0, 1)}, "the MLP of 'h' cannot be told"),
        ({f"h.{i}.mlp.fc1.weight": (8 + i, 4) for i in (0, 1)}, "the blocks of 'h' share no"),
    ],
)
def test_what_cannot_be_told_is_refused(shapes, named):
    with pytest.raises(ArchitectureError, match=named) as caught:
        infer({"model_type": "other"}, shapes)
    assert "docs/architectures.md" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "is not readable JSON"),
        ("[]", "is no definition"),
        ('{"name": "x", "model_types": ["x"]}', "is no definition"),
        ('{"name": "x", "model_types": ["t5"], "dimensions": {}, "stacks": []}', "defines t5"),
    ],
)
def test_an_own_definition_that_is_none_is_named(text, named, own_folder):
    own_folder.mkdir()
    (own_folder / "x.json").write_text(text)
    with pytest.raises(ArchitectureError, match=named) as caught:
        definitions()
    assert "x.json" in caught.value.message


def test_a_name_that_leaves_the_folder_is_refused(folder, own_folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "../../escape"}))
    with pytest.raises(ArchitectureError, match="no name of an architecture"):
        keep_inferred(infer_checkpoint(folder))
    assert not own_folder.exists()
