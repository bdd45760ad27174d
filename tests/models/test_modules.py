"""Resolving matrices in module trees that are not what their config says."""

import pytest
import torch
from torch import nn

from neuropatch.errors import ModelError
from neuropatch.models.coordinates import BlockId
from neuropatch.models.modules import model_layout, resolve_layer, resolve_parameters


def _resolve(model):
    layout = model_layout(model)
    return resolve_parameters(model, layout, layout.matrices())


def test_a_module_without_a_config_is_no_model():
    with pytest.raises(ModelError, match="Linear has no transformers config"):
        model_layout(nn.Linear(2, 2))


def test_a_missing_parameter_is_named(make_model):
    model = make_model("llama")
    model.model.layers[1].mlp.up_proj = nn.Identity()
    with pytest.raises(ModelError, match=r"no parameter 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        _resolve(model)


def test_a_misshapen_parameter_is_named(make_model):
    model = make_model("llama")
    model.model.layers[1].mlp.up_proj = nn.Linear(12, 21, bias=False)
    with pytest.raises(ModelError, match=r"has shape \(21, 12\), its config says \(20, 12\)"):
        _resolve(model)


def test_a_parameter_that_is_not_loaded_is_named(make_model):
    model = make_model("llama")
    model.model.layers[0].mlp.to("meta")
    with pytest.raises(ModelError, match="is not in memory"):
        _resolve(model)


def test_a_parameter_of_tensor_parallelism_is_refused(make_model, down):
    model = make_model("llama")
    model.model.layers[0].mlp.down_proj.weight.placements = ()
    with pytest.raises(ModelError, match=r"down_proj.weight' is split among processes"):
        resolve_parameters(model, model_layout(model), [down(0)])


def test_a_missing_layer_is_named(make_model):
    model = make_model("llama")
    layout = model_layout(model)
    with pytest.raises(ModelError, match="for layer 9"):
        resolve_layer(model, layout, BlockId("decoder", 9))


def test_a_weight_is_a_view_of_its_parameter(make_model):
    for model_type, role in (("llama", "q"), ("gpt2", "up")):
        model = make_model(model_type)
        slot = next(slot for slot in _resolve(model) if slot.matrix.role == role)
        slot.weight()[0, 1] = 5.0
        assert torch.count_nonzero(slot.parameter == 5.0) == 1
