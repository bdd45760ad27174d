"""Moments of inputs against the inputs themselves, one sample at a time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from neuropatch.attribution.activations import check_unit_modules, input_moments, unit_modules
from neuropatch.errors import ModelError
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.modules import model_layout

BLOCKS = (BlockId("decoder", 0), BlockId("decoder", 1))


def seen(model, modules, samples, positions):
    """All rows that the modules are given, ``[tokens, in]``."""
    rows = {key: [] for key in modules}
    for sample in samples:
        keep = slice(sample.label_start - 1, None) if positions == "predicting" else slice(None)
        handles = [
            module.register_forward_pre_hook(
                lambda _, args, key=key, keep=keep: rows[key].append(args[0][0, keep])
            )
            for key, module in modules.items()
        ]
        with torch.no_grad():
            model(input_ids=torch.tensor([sample.ids[:-1]]))
        for handle in handles:
            handle.remove()
    return {key: torch.cat(parts).double().numpy() for key, parts in rows.items()}


@pytest.mark.parametrize("positions", ["all", "predicting"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_moments(make_model, make_samples, model_type, positions):
    model, samples = make_model(model_type), make_samples(6)
    modules = unit_modules(model, model_layout(model))
    assert list(modules) == list(BLOCKS)
    wanted = seen(model, modules, samples, positions)
    found = input_moments(model, modules, samples, positions=positions, batch_tokens=25)
    for block, rows in wanted.items():
        # Float32 passes in batches against passes of single samples.
        moments, close = found[block], {"rtol": 1e-4, "atol": 1e-8}
        assert moments.count == len(rows)
        np.testing.assert_allclose(moments.mean.numpy(), rows.mean(axis=0), **close)
        np.testing.assert_allclose(moments.std.numpy(), rows.std(axis=0), **close)
        norms = np.linalg.norm(rows, axis=0)
        np.testing.assert_allclose(moments.norm.numpy(), norms, **close)


def test_blocks_can_be_chosen(make_model):
    model = make_model("llama")
    assert list(unit_modules(model, model_layout(model), [BLOCKS[1]])) == [BLOCKS[1]]


def test_infinite_activations_are_refused(make_model, make_samples):
    model = make_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3] = float("inf")
    modules = unit_modules(model, model_layout(model))
    with pytest.raises(ModelError, match=r"activations of decoder.1 are not finite"):
        input_moments(model, modules, make_samples(2))


def test_experts_in_one_tensor_are_refused(make_layout):
    check_unit_modules(make_layout("llama"))
    stacked = SimpleNamespace(
        matrices=lambda roles: [MatrixId("decoder", 0, 1, "down")],
        memory=lambda matrix: SimpleNamespace(expert=matrix.expert),
    )
    with pytest.raises(ModelError, match=r"decoder.0.expert1: units of experts"):
        check_unit_modules(stacked)
