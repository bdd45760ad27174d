import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from neuropatch.errors import ModelError, UsageError
from neuropatch.models.coordinates import ROLES, MatrixId
from neuropatch.models.definition import parse_definition
from neuropatch.models.layout import Layout, Signature
from neuropatch.models.modules import model_layout
from neuropatch.models.output_gates import output_gates
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.metadata import BaseModel, PatchMetadata
from neuropatch.patch.patch import NeuronPatch


@pytest.fixture
def tokens():
    return torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(1))


def random_masks(layout, roles=ROLES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {
        matrix: torch.rand(layout.shape(matrix)[0], generator=generator, dtype=dtype)
        for matrix in layout.matrices(roles)
    }


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_gates_of_one_change_nothing(make_model, tokens, dtype, atol):
    model = make_model("llama", dtype)
    layout = model_layout(model)
    masks = {matrix: torch.ones_like(mask) for matrix, mask in random_masks(layout).items()}
    with torch.no_grad():
        plain = model(tokens).logits
        with output_gates(model, layout, masks):
            gated = model(tokens).logits
        after = model(tokens).logits
    assert gated.dtype == plain.dtype
    torch.testing.assert_close(gated, plain, rtol=0, atol=atol)
    assert torch.equal(after, plain)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("role", ROLES)
def test_a_closed_gate_is_a_row_of_zeros(make_model, base_of, tokens, role):
    """In the second layer of a model whose key and value heads are fewer."""
    model = make_model("llama")
    layout, base = model_layout(model), base_of(model)
    matrix = MatrixId("decoder", 1, -1, role)
    out, into = layout.shape(matrix)
    closed = np.array([1, out - 1])
    mask = torch.ones(out)
    mask[closed] = 0
    rows, columns = np.repeat(closed, into), np.tile(np.arange(into), 2)
    edit = WeightEdit.build(matrix, "zero", rows, columns, base[matrix][rows, columns])
    patch = NeuronPatch(
        PatchMetadata(layout.signature, BaseModel("example/tiny", "0" * 40), {"name": "test"}),
        (edit,),
    )
    with torch.no_grad():
        plain = model(tokens).logits
        with output_gates(model, layout, {matrix: mask}):
            gated = model(tokens).logits
        with patch.applied(model):
            patched = model(tokens).logits
    torch.testing.assert_close(gated, patched, rtol=0, atol=1e-6)
    assert (gated - plain).abs().max() > 1e-5


def test_gradients_of_masks_are_those_of_scaled_rows(make_model, tokens):
    """A gate is a factor on a row of the weight: ``dL/dm_i = sum_j W_ij dL/dW_ij`` at gates of 1,
    in float64 and without a hook."""
    model = make_model("llama", "float64")
    layout = model_layout(model)

    def loss():
        logits = model(tokens).logits[:, :-1].flatten(0, 1)
        return functional.cross_entropy(logits, tokens[:, 1:].flatten())

    loss().backward()
    weights = dict(model.named_parameters())
    wanted = {}
    for matrix in layout.matrices():
        weight = weights[layout.memory(matrix).names[0]]
        wanted[matrix] = (weight.detach() * weight.grad).sum(dim=1)
    model.requires_grad_(False)
    masks = {matrix: torch.ones_like(value).requires_grad_() for matrix, value in wanted.items()}
    with output_gates(model, layout, masks):
        loss().backward()
    for matrix, mask in masks.items():
        torch.testing.assert_close(mask.grad, wanted[matrix])


class Fused(nn.Module):
    """A layer whose query, key and value are one linear module, group by group."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12, bias=False)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Fused()])

    def forward(self, x):
        return self.layers[0].qkv(x)


def fused_layout():
    def role(part):
        fused = {"parts": ["hidden"] * 3, "part": part, "groups": "heads"}
        return {"shape": ["hidden", "hidden"], "storage": {"path": "qkv.weight", "fused": fused}}

    roles = {name: role(part) for part, name in enumerate("qkv")}
    definition = parse_definition(
        {
            "name": "synthetic",
            "model_types": ["synthetic"],
            "dimensions": {"layers": ["n"], "hidden": ["h"], "heads": ["g"]},
            "stacks": [
                {
                    "name": "decoder",
                    "layers": "layers",
                    "prefixes": ["layers.{layer}"],
                    "roles": roles,
                }
            ],
        }
    )
    return Layout(definition, Signature("synthetic", {"layers": 1, "hidden": 4, "heads": 2}))


def test_fused_roles_share_a_module():
    """Two groups of two rows each of q, k, v: only the rows of q and v are gated."""
    model = Model()
    q, v = (MatrixId("decoder", 0, -1, role) for role in "qv")
    masks = {q: torch.tensor([2.0, 3, 4, 5]), v: torch.tensor([6.0, 7, 8, 9])}
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), output_gates(model, fused_layout(), masks):
        gated = model(x)
    factors = torch.tensor([2.0, 3, 1, 1, 6, 7, 4, 5, 1, 1, 8, 9])
    torch.testing.assert_close(gated, model(x) * factors)


def test_masks_can_be_replaced_within_the_block(make_model, tokens):
    model = make_model("llama")
    layout = model_layout(model)
    second = random_masks(layout, ("q",))
    first = {matrix: torch.ones_like(mask) for matrix, mask in second.items()}
    with torch.no_grad():
        with output_gates(model, layout, second):
            wanted = model(tokens).logits
        with output_gates(model, layout, first) as gates:
            assert not torch.equal(model(tokens).logits, wanted)
            gates.update(second)
            assert torch.equal(model(tokens).logits, wanted)
            with pytest.raises(UsageError, match=r"decoder\.0\.v has no gates"):
                gates.update(random_masks(layout, ("v",)))


@pytest.mark.parametrize(("model_type", "role"), [("gpt2", "q"), ("gpt2", "up"), ("qwen2", "k")])
def test_a_bias_is_refused(make_model, model_type, role):
    model = make_model(model_type)
    layout = model_layout(model)
    with (
        pytest.raises(ModelError, match=rf"decoder\.0\.{role} has a bias, which would stay"),
        output_gates(model, layout, random_masks(layout, (role,))),
    ):
        pass
    assert not any(module._forward_hooks for module in model.modules())
