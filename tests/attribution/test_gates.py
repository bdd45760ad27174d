"""Gate gradients against float64 autograd through gates that really are there."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from neuropatch.attribution.gates import REDUCTIONS, gate_gradients, sample_gate_gradients
from neuropatch.data.tokenize import Sample
from neuropatch.errors import ModelError, UsageError
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.modules import model_layout, resolve_parameters
from neuropatch.models.unit_gates import unit_gates

BLOCKS = (BlockId("decoder", 0), BlockId("decoder", 1))
UNITS = 20


def loss_of(model, sample):
    ids = torch.tensor([sample.ids])
    logits = model(input_ids=ids, use_cache=False).logits[0]
    return F.cross_entropy(logits[sample.label_start - 1 : -1], ids[0, sample.label_start :])


def reference(model, samples):
    """``dL_b/dm`` of every sample in float64: one sample at a time, a mask in front of ``down``."""
    model = model.double().requires_grad_(False)
    downs = [MatrixId(*block, "down") for block in BLOCKS]
    masks = {b: torch.ones(UNITS, dtype=torch.float64, requires_grad=True) for b in BLOCKS}
    for slot in resolve_parameters(model, model_layout(model), downs):
        module = model.get_submodule(slot.name.removesuffix(".weight"))
        mask = masks[slot.matrix.block]
        module.register_forward_pre_hook(lambda _, args, mask=mask: (args[0] * mask,))
    found = {block: [] for block in BLOCKS}
    for sample in samples:
        gradients = torch.autograd.grad(loss_of(model, sample), list(masks.values()))
        for block, gradient in zip(BLOCKS, gradients, strict=True):
            found[block].append(gradient)
    return {block: torch.stack(rows).numpy() for block, rows in found.items()}


@pytest.mark.parametrize("model_type", ["llama", "gemma", "gpt2", "qwen3"])
def test_every_sample_against_autograd(make_model, make_samples, model_type):
    samples = make_samples(7)
    wanted = reference(make_model(model_type), samples)
    # Float32 passes of two layers, against each block's largest gradient.
    for dtype, tolerance in (("float64", 1e-12), ("float32", 2e-5)):
        model = make_model(model_type, dtype)
        rows = {block: np.zeros((7, UNITS)) for block in BLOCKS}
        for part in sample_gate_gradients(model, model_layout(model), samples, batch_tokens=30):
            assert list(part.values) == list(BLOCKS)
            for block, values in part.values.items():
                assert values.dtype == torch.float64
                rows[block][list(part.places)] = values.numpy()
        for block in BLOCKS:
            scale = np.abs(wanted[block]).max()
            np.testing.assert_allclose(rows[block], wanted[block], rtol=0, atol=tolerance * scale)
        # Nothing of it stays behind: weights are as trainable as they were, and have no gradient.
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert not any(module._forward_pre_hooks for module in model.modules())


def test_reductions(make_model, make_samples):
    samples = make_samples(7)
    wanted = reference(make_model("llama"), samples)
    model = make_model("llama", "float64")
    of = {"mean": lambda g: g, "absolute": np.abs, "square": np.square}
    for reduce in REDUCTIONS:
        found = gate_gradients(model, model_layout(model), samples, reduce=reduce)
        assert list(found) == list(BLOCKS)
        for block in BLOCKS:
            exact = of[reduce](wanted[block]).mean(axis=0)
            np.testing.assert_allclose(found[block], exact, rtol=1e-9, atol=1e-14)
    with pytest.raises(UsageError, match="unknown reduction 'sum'"):
        gate_gradients(model, model_layout(model), samples, reduce="sum")


def test_the_odds_do_not_vanish_with_the_likelihood(make_model, make_samples):
    """``d log((1 - p) / p) = d(- log p) / (1 - p)``: the same direction, sample by sample."""
    (sample,) = make_samples(1)
    sample = Sample(0, sample.ids, len(sample.ids) - 1)
    model = make_model("llama", "float64")
    layout = model_layout(model)
    nll = gate_gradients(model, layout, [sample])
    odds = gate_gradients(model, layout, [sample], objective="odds")
    with torch.no_grad():
        p = torch.exp(-loss_of(model, sample)).item()
    for block in BLOCKS:
        np.testing.assert_allclose(odds[block], nll[block] / (1 - p), rtol=1e-4, atol=1e-9)


def test_batches_change_rounding_only(make_model, make_samples):
    model, samples = make_model("llama", "float64"), make_samples(9)
    layout = model_layout(model)
    whole = gate_gradients(model, layout, samples, reduce="absolute", batch_tokens=10_000)
    single = gate_gradients(model, layout, samples, reduce="absolute", batch_tokens=1)
    again = gate_gradients(model, layout, samples, reduce="absolute", batch_tokens=1)
    for block in BLOCKS:
        # Norms and rotary embeddings are computed in float32 by transformers, in any model.
        np.testing.assert_allclose(whole[block], single[block], rtol=1e-5, atol=1e-9)
        np.testing.assert_array_equal(single[block], again[block])


def test_behind_other_gates_it_is_the_gradient_of_a_factor(make_model, make_samples):
    """Inside ``unit_gates``: ``m * dL/dm``, and nothing for a unit that is switched off."""
    model, samples = make_model("llama", "float64"), make_samples(5)
    model.requires_grad_(False)
    layout = model_layout(model)
    masks = {block: torch.full((UNITS,), 0.5, dtype=torch.float64) for block in BLOCKS}
    masks[BLOCKS[0]][3] = 0.0
    with unit_gates(model, layout, masks):
        found = gate_gradients(model, layout, samples)
    learnable = {block: mask.clone().requires_grad_() for block, mask in masks.items()}
    with unit_gates(model, layout, learnable):
        torch.stack([loss_of(model, sample) for sample in samples]).mean().backward()
    for block, mask in learnable.items():
        wanted = (mask.detach() * mask.grad).numpy()
        np.testing.assert_allclose(found[block], wanted, rtol=1e-5, atol=1e-9)
    assert found[BLOCKS[0]][3] == 0
    assert np.abs(found[BLOCKS[1]]).max() > 1e-5


def test_a_broken_model_is_refused(make_model, make_samples):
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight[5] = float("inf")
    with pytest.raises(ModelError, match="is not finite"):
        gate_gradients(model, model_layout(model), make_samples(3))
