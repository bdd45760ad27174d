import pytest
import torch
from torch import nn
from torch.nn import functional

from neuropatch.errors import ArchitectureError, ModelError, UsageError
from neuropatch.models.binding import bind_dimensions
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.definition import parse_definition
from neuropatch.models.layout import Layout, Signature
from neuropatch.models.modules import model_layout
from neuropatch.models.unit_gates import unit_gates
from neuropatch.patch.edits import UnitEdit
from neuropatch.patch.metadata import BaseModel, PatchMetadata
from neuropatch.patch.patch import NeuronPatch

UNITS = 20
MODEL_TYPES = ["llama", "gemma", "gpt2"]

# Float32 models of two layers with logits below 1; half-precision ones round every activation.
ATOL = {"float32": 1e-6, "float64": 1e-12, "bfloat16": 2e-2, "float16": 2e-3}


def layers(model):
    return list(model_layout(model).blocks())


def ones(model, dtype=torch.float32):
    return {block: torch.ones(UNITS, dtype=dtype) for block in layers(model)}


def random_masks(model, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        block: torch.rand(UNITS, generator=generator, dtype=dtype).requires_grad_()
        for block in layers(model)
    }


@pytest.fixture
def tokens():
    return torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", ATOL)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_gates_of_one_change_nothing(make_model, tokens, model_type, dtype):
    model = make_model(model_type, dtype)
    masks = ones(model, torch.float64 if dtype == "float64" else torch.float32)
    with torch.no_grad():
        plain = model(tokens).logits
        with unit_gates(model, model_layout(model), masks):
            gated = model(tokens).logits
        after = model(tokens).logits
    torch.testing.assert_close(gated, plain, rtol=0, atol=ATOL[dtype])
    assert torch.equal(after, plain)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_closed_gate_is_a_unit_scaled_by_zero(make_model, base_of, tokens, model_type):
    model = make_model(model_type)
    layout, base = model_layout(model), base_of(model)
    closed = {BlockId("decoder", 0): [2, 19], BlockId("decoder", 1): [0]}
    masks, edits = ones(model), []
    for block, units in closed.items():
        masks[block][units] = 0
        units = torch.tensor(units).numpy()
        before = base[MatrixId(*block, "down")][:, units].T.copy()
        edits.append(UnitEdit(block, "scale", units, torch.zeros(len(units)).numpy(), before))
    patch = NeuronPatch(
        PatchMetadata(layout.signature, BaseModel("example/tiny", "0" * 40), {"name": "test"}),
        units=tuple(edits),
    )
    with torch.no_grad():
        plain = model(tokens).logits
        with unit_gates(model, layout, masks):
            gated = model(tokens).logits
        with patch.applied(model):
            patched = model(tokens).logits
    torch.testing.assert_close(gated, patched, rtol=0, atol=1e-6)
    assert (gated - plain).abs().max() > 1e-4


def stock_loss(model, tokens, masks):
    """The loss with masks, by hooks before the down projections: stock autograd."""
    handles = []
    for block, mask in masks.items():
        layer = model.get_submodule(
            next(
                n
                for n in model_layout(model).layer_names(block)
                if n in dict(model.named_modules())
            )
        )
        down = layer.mlp.c_proj if hasattr(layer.mlp, "c_proj") else layer.mlp.down_proj
        handles.append(down.register_forward_pre_hook(lambda m, a, mask=mask: (a[0] * mask,)))
    logits = model(tokens).logits
    for handle in handles:
        handle.remove()
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_gradients_of_masks_against_float64_autograd(make_model, tokens, model_type):
    exact_model = make_model(model_type, "float64").requires_grad_(False)
    masks = random_masks(exact_model, torch.float64)
    loss = stock_loss(exact_model, tokens, masks)
    wanted = torch.autograd.grad(loss, list(masks.values()))
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        model = make_model(model_type, str(dtype).removeprefix("torch.")).requires_grad_(False)
        mine = {b: m.detach().to(dtype).requires_grad_() for b, m in masks.items()}
        with unit_gates(model, model_layout(model), mine):
            logits = model(tokens).logits
            flat = logits[:, :-1].flatten(0, 1)
            loss = functional.cross_entropy(flat, tokens[:, 1:].flatten())
            # The backward pass may run after the block, too.
        actual = torch.autograd.grad(loss, list(mine.values()))
        for a, w in zip(actual, wanted, strict=True):
            # Errors of a sum over tokens and logits, against its largest element.
            torch.testing.assert_close(a.double(), w, rtol=0, atol=tolerance * w.abs().max().item())


def test_masks_can_be_replaced_within_the_block(make_model, tokens):
    model = make_model("llama")
    layout = model_layout(model)
    first, second = random_masks(model, seed=1), random_masks(model, seed=2)
    with torch.no_grad():
        with unit_gates(model, layout, second):
            wanted = model(tokens).logits
        with unit_gates(model, layout, first) as gates:
            assert not torch.allclose(model(tokens).logits, wanted)
            gates.update(second)
            assert torch.equal(model(tokens).logits, wanted)
            with pytest.raises(UsageError, match=r"decoder\.7 has no gates"):
                gates.update({BlockId("decoder", 7): torch.ones(UNITS)})


def test_only_the_named_blocks_change(make_model, tokens):
    model = make_model("gpt2")
    block = BlockId("decoder", 1)
    with torch.no_grad(), unit_gates(model, model_layout(model), {block: torch.zeros(UNITS)}):
        assert "forward" in model.transformer.h[1].mlp.__dict__
        assert "forward" not in model.transformer.h[0].mlp.__dict__
        hidden = model.transformer.h[1].mlp(torch.randn(1, 3, 12))
    # A GPT-2 MLP without units returns the bias of its down projection.
    torch.testing.assert_close(hidden[0, 1], model.transformer.h[1].mlp.c_proj.bias)


def test_everything_is_restored_after_an_error(make_model, tokens):
    model = make_model("llama")
    mlps = [layer.mlp for layer in model.model.layers]
    replaced = mlps[1].forward

    def custom(x):
        return replaced(x)

    mlps[1].forward = custom
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        unit_gates(model, model_layout(model), ones(model)),
    ):
        raise RuntimeError("in the middle")
    assert "forward" not in mlps[0].__dict__
    assert mlps[1].forward is custom


def test_dropout_and_mode_are_kept(make_model, tokens):
    """GPT-2 drops out after its MLP; the comparison at the start must not change the mode."""
    model = make_model("gpt2", resid_pdrop=0.5).train()
    with torch.no_grad(), unit_gates(model, model_layout(model), ones(model)):
        assert model.transformer.h[0].mlp.training
        assert model.transformer.h[0].mlp.dropout.training
        x = torch.randn(1, 50, 12)
        dropped = (model.transformer.h[0].mlp(x) == 0).float().mean()
    assert 0.3 < dropped < 0.7


def test_hooks_of_projections_see_what_they_saw(make_model, tokens):
    """And what they keep is not written over by the backward pass."""
    model = make_model("llama").requires_grad_(False)
    kept = []
    handle = model.model.layers[1].mlp.up_proj.register_forward_hook(
        lambda module, args, output: kept.append((output, output.clone()))
    )
    with unit_gates(model, model_layout(model), random_masks(model)):
        model(tokens).logits.sum().backward()
    handle.remove()
    # Once in the comparison for each way, once in the model.
    assert len(kept) == 3
    assert all(torch.equal(output, copy) for output, copy in kept)


def test_only_two_products_a_block_are_saved(make_model, tokens):
    model = make_model("llama").requires_grad_(False)
    masks = random_masks(model)
    mlp = model.model.layers[0].mlp
    kept = []
    x = torch.randn(1, 9, 12, requires_grad=True)
    weights = {p.data_ptr() for p in model.parameters()}
    weights |= {m.data_ptr() for m in masks.values()}
    with (
        unit_gates(model, model_layout(model), masks),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        output = mlp(x)
    own = [t for t in kept if t.data_ptr() not in weights]
    assert [tuple(t.shape) for t in own] == [(9, UNITS)] * 2
    output.sum().backward()
    assert x.grad is not None


def test_weights_that_learn_are_refused(make_model):
    model = make_model("llama")
    with (
        pytest.raises(UsageError, match=r"decoder\.0: weights of the MLP require gradients"),
        unit_gates(model, model_layout(model), random_masks(model)),
    ):
        pass


def test_a_wrong_mask_is_refused(make_model, tokens):
    model = make_model("llama")
    masks = {BlockId("decoder", 0): torch.ones(UNITS - 1)}
    with (
        torch.no_grad(),
        unit_gates(model, model_layout(model), masks),
        pytest.raises(UsageError, match=r"mask has shape \(19,\), not \(20,\)"),
    ):
        model(tokens)


def test_an_unsupported_activation_is_refused(make_model):
    model = make_model("llama", hidden_act="mish")
    with (
        pytest.raises(ArchitectureError, match="'mish' is not supported"),
        unit_gates(model, model_layout(model), ones(model)),
    ):
        pass


class ScaledMlp(nn.Module):
    """An MLP that does more than its projections say."""

    def __init__(self, mlp, factor, norm=False):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.factor = factor
        if norm:
            self.norm = nn.LayerNorm(12)

    def forward(self, x):
        hidden = functional.silu(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(hidden * self.factor)


@pytest.mark.parametrize(("factor", "norm"), [(1.01, False), (1.0, True)])
def test_an_mlp_that_does_more_is_refused(make_model, factor, norm):
    model = make_model("llama")
    model.model.layers[1].mlp = ScaledMlp(model.model.layers[1].mlp, factor, norm)
    with (
        pytest.raises(ModelError, match=r"decoder\.1: ScaledMlp is not made of its projections"),
        unit_gates(model, model_layout(model), ones(model)),
    ):
        pass
    assert "forward" not in model.model.layers[0].mlp.__dict__


def test_an_unknown_block_is_refused(make_model):
    model = make_model("llama")
    masks = {BlockId("encoder", 0): torch.ones(UNITS)}
    with (
        pytest.raises(UsageError, match=r"encoder\.0 has no MLP"),
        unit_gates(model, model_layout(model), masks),
    ):
        pass


def _fused_definition(groups):
    """Phi-3's MLP: gate then up in one tensor; or, with a group a row, row by row in turn."""
    roles = {
        role: {
            "shape": ["intermediate", "hidden"],
            "storage": {
                "path": "mlp.gate_up_proj.weight",
                "fused": {"parts": ["intermediate"] * 2, "part": part, "groups": groups},
            },
        }
        for part, role in enumerate(("gate", "up"))
    }
    roles["down"] = {
        "shape": ["hidden", "intermediate"],
        "storage": {"path": "mlp.down_proj.weight"},
    }
    return parse_definition(
        {
            "name": "synthetic",
            "model_types": ["synthetic"],
            "dimensions": {
                "layers": ["num_hidden_layers"],
                "hidden": ["hidden_size"],
                "intermediate": ["intermediate_size"],
            },
            "stacks": [
                {
                    "name": "decoder",
                    "layers": "layers",
                    "prefixes": ["model.layers.{layer}"],
                    "roles": roles,
                }
            ],
        }
    )


class Alternating(nn.Module):
    """An MLP whose fused tensor alternates rows of gate and up."""

    def __init__(self, mlp):
        super().__init__()
        self.gate_up_proj, self.down_proj = mlp.gate_up_proj, mlp.down_proj

    def forward(self, x):
        both = self.gate_up_proj(x)
        return self.down_proj(functional.silu(both[..., ::2]) * both[..., 1::2])


@pytest.mark.parametrize("groups", ["1", "intermediate"])
def test_fused_gate_and_up(tokens, groups):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "phi3", vocab_size=50, num_hidden_layers=2, hidden_size=12, intermediate_size=UNITS,
        num_attention_heads=3, num_key_value_heads=3, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    if groups != "1":
        for layer in model.model.layers:
            layer.mlp = Alternating(layer.mlp)
    definition = _fused_definition(groups)
    sizes = bind_dimensions(definition, config.to_dict())
    layout = Layout(definition, Signature("synthetic", sizes))
    generator = torch.Generator().manual_seed(3)
    masks = {
        block: torch.rand(UNITS, generator=generator).requires_grad_() for block in layout.blocks()
    }

    def by_hooks():
        handles = [
            model.model.layers[block.layer].mlp.down_proj.register_forward_pre_hook(
                lambda module, args, mask=mask: (args[0] * mask,)
            )
            for block, mask in masks.items()
        ]
        logits = model(tokens).logits
        for handle in handles:
            handle.remove()
        return logits

    wanted = by_hooks()
    with unit_gates(model, layout, masks):
        gated = model(tokens).logits
    torch.testing.assert_close(gated, wanted, rtol=0, atol=1e-6)
    for a, w in zip(
        torch.autograd.grad(gated.sin().sum(), list(masks.values())),
        torch.autograd.grad(wanted.sin().sum(), list(masks.values())),
        strict=True,
    ):
        torch.testing.assert_close(a, w, rtol=1e-4, atol=1e-5)
