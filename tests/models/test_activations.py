import pytest
import torch
from transformers.activations import ACT2FN

from neuropatch.errors import ArchitectureError
from neuropatch.kernels import masked_units
from neuropatch.models.activations import ACTIVATION_NAMES, mlp_activation


@pytest.mark.parametrize("name", ACTIVATION_NAMES)
def test_each_name_is_the_function_that_transformers_calls_so(name):
    z = torch.linspace(-6, 6, 200)[None]
    ours = masked_units(z, None, torch.ones(200), ACTIVATION_NAMES[name])
    # gelu_fast and its like spell the constant sqrt(2 / pi) with ten digits.
    torch.testing.assert_close(ours, ACT2FN[name](z), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma"])
def test_configs_name_it_under_several_keys(make_model, model_type):
    config = make_model(model_type).config.to_dict()
    wanted = {"llama": "silu", "gpt2": "gelu_tanh", "gemma": "gelu_tanh"}[model_type]
    assert mlp_activation(config) == wanted


def test_a_later_key_counts_where_the_first_is_null():
    assert mlp_activation({"hidden_activation": None, "hidden_act": "relu"}) == "relu"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_act": "quick_gelu"}, "'quick_gelu' is not supported"),
        ({"hidden_act": ["silu"]}, "is not supported"),
        ({}, "does not say its activation"),
    ],
)
def test_unknown_ones_are_refused(config, message):
    with pytest.raises(ArchitectureError, match=message):
        mlp_activation(config)
