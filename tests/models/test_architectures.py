"""The architecture matrix: every bundled definition against the real transformers model."""

import re

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from neuropatch.fairness.tabular import MODEL_TYPE
from neuropatch.models.definition import definitions
from neuropatch.models.modules import model_layout, resolve_layer, resolve_parameters
from neuropatch.storage.safetensors_file import read_header

# The toolkit's own tabular model is none of transformers; tests/fairness/test_tabular.py tests it.
MODEL_TYPES = sorted(set(definitions()) - {MODEL_TYPE})


def test_every_architecture_has_a_tiny_model(tiny_configs):
    assert set(tiny_configs) == set(MODEL_TYPES)


@pytest.fixture(params=MODEL_TYPES)
def model(request, make_model):
    return make_model(request.param)


def test_the_config_gives_the_same_layout_with_and_without_transformers(model, make_layout):
    assert model_layout(model) == make_layout(model.config.model_type)


def test_every_matrix_resolves_in_memory(model):
    layout = model_layout(model)
    slots = resolve_parameters(model, layout, layout.matrices())
    for slot in slots:
        assert tuple(slot.weight().shape) == layout.shape(slot.matrix) == slot.slot.shape
    # Together the roles are all of the blocks' matrices: nothing is left out or counted twice.
    blocks = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and re.search(r"\.(layers|layer|h)\.\d+\.", name)
    }
    claimed = dict.fromkeys(blocks, 0)
    for slot in slots:
        claimed[slot.name] += slot.weight().numel()
    assert claimed == blocks


def test_the_bare_model_resolves_too(model):
    layout = model_layout(model)
    bare = AutoModel.from_config(model.config)
    slots = resolve_parameters(bare, layout, layout.matrices())
    assert len(slots) == len(layout.matrices())


def test_a_layer_resolves_to_its_module(model):
    layout = model_layout(model)
    for block in layout.blocks():
        inside = dict(resolve_layer(model, layout, block).named_modules())
        assert {"mlp", "intermediate"} & set(inside)


def test_files_and_memory_name_the_same_weights(model, tmp_path):
    """A value written at a matrix's offset in the file is read at its coordinate in memory."""
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    header = read_header(file)
    layout = model_layout(model)
    rng = np.random.default_rng(0)
    markers = {}
    with file.open("r+b") as stream:
        for number, matrix in enumerate(layout.matrices()):
            slot = layout.disk(matrix)
            name = next(name for name in slot.names if name in header.tensors)
            assert header.tensors[name].shape == slot.stored_shape
            out, into = slot.shape
            for k, (row, column) in enumerate([(0, 0), (out - 1, into - 1), (out - 1, 0)]):
                markers[matrix, row, column] = 1000.0 + 10 * number + k
            row, column = int(rng.integers(out)), int(rng.integers(into))
            markers[matrix, row, column] = 1000.0 + 10 * number + 9
        for (matrix, row, column), value in markers.items():
            slot = layout.disk(matrix)
            info = header.tensors[next(name for name in slot.names if name in header.tensors)]
            offset = int(slot.offsets(np.array([row]), np.array([column]))[0])
            stream.seek(info.start + 4 * offset)
            stream.write(np.float32(value).tobytes())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    slots = {s.matrix: s for s in resolve_parameters(loaded, layout, layout.matrices())}
    for (matrix, row, column), value in markers.items():
        weight = slots[matrix].weight()
        assert weight[row, column].item() == value, (matrix, row, column)
        # The same offset serves the parameter in memory.
        slot = slots[matrix]
        offset = int(slot.slot.offsets(np.array([row]), np.array([column]))[0])
        assert slot.parameter.detach().reshape(-1)[offset].item() == value
    held = sum(int((slot.weight() >= 1000).sum()) for slot in slots.values())
    assert held == len(markers)


def test_tied_tensors_are_one_tensor_and_the_alias_is_not_in_the_file(model, tmp_path):
    model.save_pretrained(tmp_path)
    stored = read_header(tmp_path / "model.safetensors").tensors
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for tied in model_layout(model).definition.tied:
        alias, *others = tied.tensors
        same = all(parameters[alias] is parameters[other] for other in others)
        assert same == getattr(model.config, tied.when)
        assert (alias in stored) != same
        assert all(other in stored for other in others)
