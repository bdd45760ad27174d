"""Patches on models in memory: apply, revert, hold for a block, steer, refuse."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from neuropatch.errors import ModelError, NeuropatchError, PatchMismatchError
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.definition import parse_definition
from neuropatch.patch import runtime
from neuropatch.patch.algebra import union
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.patch.runtime import to_numpy, to_torch
from neuropatch.storage.dtypes import FLOAT_DTYPES

IDS = torch.tensor([[3, 7, 11, 2, 30]])


def _snapshot(model):
    return {name: to_numpy(p).tobytes() for name, p in model.named_parameters()}


def _hooks(model):
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def _logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture(params=["llama", "gpt2"])
def model_type(request):
    return request.param


@pytest.fixture
def model(model_type, make_model):
    return make_model(model_type)


@pytest.fixture
def patch(model_type, model, base_of, make_patch, make_layout):
    """Every kind of edit, units too, made from the model itself."""
    return make_patch(make_layout(model_type), base=base_of(model), units=("scale", "steer"))


# Weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_apply_then_revert(
    dtype, model_type, make_model, base_of, make_patch, make_layout, run, identical
):
    model = make_model(model_type, dtype)
    base, before = base_of(model), _snapshot(model)
    patch = make_patch(make_layout(model_type), base=base, units=("scale",))
    drift = patch.apply(model)
    assert (drift.unequal, drift.sentences()) == (0, [])
    assert drift.weights == sum(len(edit) for edit in patch.compiled().weights)
    assert identical(base_of(model), run(patch, base))
    assert not identical(base_of(model), base)
    patch.revert(model)
    assert _snapshot(model) == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_patch_made_in_float32_on_a_model_loaded_in_another_format(
    dtype, model_type, patch, make_model
):
    model = make_model(model_type, dtype)
    before = _snapshot(model)
    assert patch.apply(model).unequal == 0
    assert _snapshot(model) != before
    patch.revert(model)
    assert _snapshot(model) == before


def test_the_inverse_applied_is_the_patch_reverted(model, patch):
    before = _snapshot(model)
    patch.apply(model)
    assert patch.invert().apply(model).unequal == 0
    assert _snapshot(model) == before
    assert _hooks(model) == 0


def test_reverting_the_inverse_applies_the_patch(model, patch, make_model, model_type):
    other = make_model(model_type)
    patch.apply(other)
    patch.invert().revert(model)
    assert _snapshot(model) == _snapshot(other)
    assert torch.equal(_logits(model), _logits(other))


def test_applied_holds_for_the_block_alone(model, patch):
    before, clean = _snapshot(model), _logits(model)
    with patch.applied(model) as held:
        assert held is model
        assert _snapshot(model) != before
        assert not torch.allclose(_logits(model), clean)
        assert _hooks(model) == 2
    assert _snapshot(model) == before
    assert _hooks(model) == 0
    assert torch.equal(_logits(model), clean)


def test_an_exception_inside_the_block_restores(model, patch):
    before = _snapshot(model)
    with pytest.raises(ZeroDivisionError), patch.applied(model):
        raise ZeroDivisionError
    assert _snapshot(model) == before
    assert _hooks(model) == 0


def test_an_interrupt_while_the_patch_is_being_put_on_restores(model, patch, monkeypatch):
    before = _snapshot(model)
    steer, calls = runtime._steer, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        steer(*args)

    monkeypatch.setattr(runtime, "_steer", interrupted)
    with pytest.raises(KeyboardInterrupt), patch.applied(model):
        pytest.fail("the block must not be entered")
    assert _snapshot(model) == before
    assert _hooks(model) == 0


def test_an_interrupt_halfway_through_writing_restores(model, patch, monkeypatch):
    before = _snapshot(model)
    write, first = runtime._write, [True]

    def interrupted(writes):
        if first:
            first.clear()
            write(writes[: len(writes) // 2])
            assert _snapshot(model) != before
            raise KeyboardInterrupt
        write(writes)

    monkeypatch.setattr(runtime, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt), patch.applied(model):
        pytest.fail("the block must not be entered")
    assert _snapshot(model) == before
    assert _hooks(model) == 0


def test_blocks_nest(model, patch):
    before, clean = _snapshot(model), _logits(model)
    with patch.applied(model):
        once = _snapshot(model)
        with patch.invert().applied(model):
            assert _snapshot(model) == before
            assert torch.equal(_logits(model), clean)
        assert _snapshot(model) == once
    assert _snapshot(model) == before


def test_gradients_and_identity_of_parameters_stay(model, patch):
    parameters = dict(model.named_parameters())
    patch.apply(model)
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_parameter_that_is_not_contiguous_is_edited_too(
    make_model, make_layout, make_patch, base_of
):
    model = make_model("llama")
    linear = model.model.layers[0].mlp.up_proj
    linear.weight = nn.Parameter(linear.weight.detach().T.contiguous().T)
    assert not linear.weight.is_contiguous()
    before = _snapshot(model)
    patch = make_patch(make_layout("llama"), base=base_of(model))
    patch.apply(model)
    assert base_of(model)[patch.weights[0].matrix].tobytes() != before
    edit = next(e for e in patch.weights if e.matrix.role == "up" and e.kind == "set")
    held = to_numpy(linear.weight)[edit.rows, edit.columns]
    assert held.tobytes() == edit.after.tobytes()
    patch.revert(model)
    assert _snapshot(model) == before


# Drift and refusal ---------------------------------------------------------------------------


def test_a_fine_tune_drifts_and_is_restored_by_the_block(model, patch, base_of):
    compiled = patch.compiled()
    target = next(e for e in compiled.weights if e.kind == "scale" and e.matrix.role == "q")
    slots = {s.matrix: s for s in runtime.resolve_parameters(
        model, runtime.model_layout(model), [target.matrix]
    )}  # fmt: skip
    weight = slots[target.matrix].slot.offsets(target.rows, target.columns)
    with torch.no_grad():
        slots[target.matrix].parameter.view(-1)[torch.from_numpy(weight)] += 0.5
    before = _snapshot(model)
    with patch.applied(model):
        assert _snapshot(model) != before
    assert _snapshot(model) == before
    drift = patch.apply(model)
    assert drift.unequal == len(target)
    entry = drift.roles["q"]
    assert (entry.weights - entry.equal) == len(target)
    assert drift.sentences() == [
        f"q: {entry.equal} of {entry.weights} weights equal the patch's base, "
        f"relative change {entry.relative:.2g}"
    ]
    # The factor acts on what the fine-tune holds.
    wanted = (target.before + np.float32(0.5)) * target.value
    np.testing.assert_allclose(base_of(model)[target.matrix][target.rows, target.columns], wanted)
    with pytest.raises(PatchMismatchError, match="does not hold this patch"):
        patch.revert(model)


def test_a_model_that_does_not_hold_the_patch_is_not_reverted(model, patch):
    before = _snapshot(model)
    with pytest.raises(PatchMismatchError, match=r"does not hold this patch: \d+ of \d+ weights"):
        patch.revert(model)
    assert _snapshot(model) == before
    assert _hooks(model) == 0
    patch.apply(model)
    patch.revert(model)
    with pytest.raises(PatchMismatchError, match="opposite order"):
        patch.revert(model)


def test_another_architecture_is_refused(patch, model_type, make_model):
    other = make_model("gpt2" if model_type == "llama" else "llama")
    before = _snapshot(other)
    for use in (patch.apply, patch.revert):
        with pytest.raises(PatchMismatchError, match="for another architecture than the model"):
            use(other)
    assert _snapshot(other) == before


def test_nothing_is_written_when_the_plan_fails(model, model_type, patch):
    """The last matrix cannot be edited: the first is left alone, and no hook is set."""
    if model_type == "llama":
        model.model.layers[1].self_attn.o_proj = nn.Identity()
    else:
        model.transformer.h[1].attn.c_proj = nn.Identity()
    before = _snapshot(model)
    with pytest.raises(ModelError, match="has no parameter"):
        patch.apply(model)
    with pytest.raises(ModelError, match="has no parameter"), patch.applied(model):
        pytest.fail("the block must not be entered")
    assert _snapshot(model) == before
    assert _hooks(model) == 0


def test_nothing_is_written_when_a_value_does_not_fit(make_model, make_layout):
    model = make_model("llama", "float16")
    before = _snapshot(model)
    one = np.array([1.0], dtype=np.float32)
    edits = tuple(
        WeightEdit(
            MatrixId("decoder", layer, -1, "up"), "set", np.array([0]), np.array([0]), one, one * v
        )
        for layer, v in ((0, 1.0), (1, 1e5))
    )
    patch = NeuronPatch(PatchMetadata(make_layout("llama").signature), edits)
    with pytest.raises(PatchMismatchError, match=r"decoder\.1\.up gives infinite"):
        patch.apply(model)
    assert _snapshot(model) == before


def test_a_quantised_parameter_is_refused(make_model, make_layout, make_patch):
    model = make_model("llama")
    linear = model.model.layers[0].mlp.up_proj
    linear.weight = nn.Parameter(linear.weight.detach().to(torch.int8), requires_grad=False)
    patch = make_patch(make_layout("llama"))
    with pytest.raises(ModelError, match=r"torch\.int8 cannot be edited"):
        patch.apply(model)


def test_float8_in_units_of_scales_is_refused(make_model, make_layout, make_patch):
    model = make_model("llama")
    linear = model.model.layers[0].mlp.up_proj
    linear.weight = nn.Parameter(linear.weight.detach().to(torch.float8_e4m3fn), False)
    patch = make_patch(make_layout("llama"), kinds=("zero",))
    linear.weight_scale_inv = nn.Parameter(torch.ones(1, 1), False)
    before = _snapshot(model)
    with pytest.raises(ModelError, match=r"float8 numbers in units of .*up_proj.weight_scale_inv"):
        patch.apply(model)
    assert _snapshot(model) == before
    del linear.weight_scale_inv
    assert patch.apply(model).weights


# Steering ------------------------------------------------------------------------------------


@pytest.fixture
def steer(model_type, make_layout):
    """``steer({unit: value}, layer)``: a patch that steers units."""

    def steer(values, layer=1):
        edit = UnitEdit(
            BlockId("decoder", layer),
            "steer",
            np.array(sorted(values)),
            np.array([values[unit] for unit in sorted(values)], dtype=np.float32),
        )
        return NeuronPatch(PatchMetadata(make_layout(model_type).signature), (), (edit,))

    return steer


def test_steering_is_a_bias_of_down(model, model_type, steer):
    clean = _logits(model)
    vector = torch.zeros(20)
    vector[[2, 17]] = torch.tensor([1.5, -3.0])
    with steer({2: 1.5, 17: -3.0}).applied(model):
        steered = _logits(model)
    if model_type == "llama":
        module = model.model.layers[1].mlp.down_proj
        bias, base = module.weight.detach() @ vector, 0
    else:
        module = model.transformer.h[1].mlp.c_proj
        bias, base = module.weight.detach().T @ vector, module.bias.detach()
    module.bias = nn.Parameter(base + bias)
    torch.testing.assert_close(_logits(model), steered, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(steered, clean, atol=1e-3)


def test_steering_patches_add_up_and_leave_no_trace(model, steer):
    """Taking a small vector out of a large one by subtracting would leave a rounding error."""
    clean = _logits(model)
    large, small = steer({4: 1e8}), steer({4: 1e-3, 5: 1.0})
    small.apply(model)
    alone = _logits(model)
    large.apply(model)
    large.revert(model)
    assert torch.equal(_logits(model), alone)
    large.apply(model)
    small.revert(model)
    large.revert(model)
    assert _hooks(model) == 0
    assert torch.equal(_logits(model), clean)


def test_the_same_steering_twice_counts_twice(model, steer):
    once, twice = steer({4: 1.0}), steer({4: 2.0})
    with twice.applied(model):
        wanted = _logits(model)
    once.apply(model)
    once.apply(model)
    assert torch.equal(_logits(model), wanted)
    once.revert(model)
    assert _hooks(model) == 1
    once.revert(model)
    assert _hooks(model) == 0


def test_inverted_steering_is_by_the_negated_vector(model, steer):
    with steer({4: -2.0}).applied(model):
        wanted = _logits(model)
    with steer({4: 2.0}).invert().applied(model):
        assert torch.equal(_logits(model), wanted)
    assert _hooks(model) == 0


@pytest.mark.parametrize("held", [None, {4: 1.0}])
def test_steering_that_is_not_there_is_not_reverted(held, model, steer):
    if held:
        steer(held).apply(model)
    hooks = _hooks(model)
    with pytest.raises(PatchMismatchError, match="its units are not steered"):
        steer({4: 2.0}).revert(model)
    assert _hooks(model) == hooks


def test_a_copy_of_a_steered_model_is_steered_apart_from_it(model, steer):
    patch = steer({4: 2.0})
    clean = _logits(model)
    patch.apply(model)
    steered = _logits(model)
    other = copy.deepcopy(model)
    patch.revert(model)
    assert torch.equal(_logits(model), clean)
    assert torch.equal(_logits(other), steered)
    patch.revert(other)
    assert torch.equal(_logits(other), clean)
    assert _hooks(other) == 0


def test_scaled_and_steered_units_at_once(model, model_type, base_of, make_layout, steer):
    """scale then steer: the factor acts on the activation, and the constant is added to it."""
    base = base_of(model)[MatrixId("decoder", 1, -1, "down")]
    off = UnitEdit(
        BlockId("decoder", 1),
        "scale",
        np.array([4]),
        np.zeros(1, np.float32),
        base[:, [4]].T.copy(),
    )
    both = union(
        NeuronPatch(PatchMetadata(make_layout(model_type).signature), (), (off,)), steer({5: 1.0})
    )
    before = _snapshot(model)
    with both.applied(model):
        assert base_of(model)[MatrixId("decoder", 1, -1, "down")][:, 4].any() == np.False_
        assert _hooks(model) == 1
    assert _snapshot(model) == before


# Experts -------------------------------------------------------------------------------------


@pytest.fixture
def mixture(monkeypatch):
    """A tiny mixture of experts whose ``down`` matrices are one tensor a layer, and its layout."""
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    roles = {
        "down": {
            "shape": ["hidden", "expert_width"],
            "disk": {"path": "mlp.experts.{expert}.down_proj.weight"},
            "memory": {"path": "mlp.experts.down_proj", "stacked": True},
        }
    }
    stack = {
        "name": "decoder",
        "layers": "layers",
        "experts": "experts",
        "prefixes": ["model.layers.{layer}"],
        "roles": roles,
    }
    document = {
        "name": "mixture",
        "model_types": ["qwen3_moe"],
        "dimensions": {
            "layers": ["num_hidden_layers"],
            "hidden": ["hidden_size"],
            "experts": ["num_experts", "num_local_experts"],
            "expert_width": ["moe_intermediate_size"],
        },
        "stacks": [stack],
    }
    known = {"qwen3_moe": parse_definition(document)}
    monkeypatch.setattr("neuropatch.models.definition.definitions", lambda: known)
    monkeypatch.setattr("neuropatch.patch.patch.definitions", lambda: known)
    config = Qwen3MoeConfig(
        vocab_size=40,
        num_hidden_layers=2,
        hidden_size=12,
        moe_intermediate_size=7,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=3,
        num_experts_per_tok=2,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    return model, runtime.model_layout(model)


def test_experts_in_one_tensor_are_edited_apart(mixture, make_patch, base_of, run, identical):
    model, layout = mixture
    base, before = base_of(model), _snapshot(model)
    matrices = [m for m in layout.matrices() if m.expert == 1]
    patch = make_patch(layout, base=base, matrices=matrices, units=("scale",))
    patch.apply(model)
    assert identical(base_of(model), run(patch, base))
    patch.revert(model)
    assert _snapshot(model) == before


def test_experts_in_one_tensor_cannot_be_steered(mixture, make_patch):
    model, layout = mixture
    patch = make_patch(layout, units=("scale", "steer"))
    before = _snapshot(model)
    with pytest.raises(ModelError, match="stored as one tensor"):
        patch.apply(model)
    assert _snapshot(model) == before


# Conversion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FLOAT_DTYPES))
def test_tensors_and_arrays_convert_bit_for_bit(name):
    dtype = next(d for d, known in runtime._TORCH_NAMES.items() if known == name)
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.arange(256, dtype=torch.uint8).repeat(size)
    tensor = raw.view(dtype)
    array = to_numpy(tensor)
    assert array.dtype == FLOAT_DTYPES[name]
    assert array.tobytes() == raw.numpy().tobytes()
    back = to_torch(array[::2], tensor)
    assert back.dtype == dtype
    assert back.view(torch.uint8).numpy().tobytes() == array[::2].tobytes()


def test_a_module_that_is_no_model_is_refused(patch):
    with pytest.raises(NeuropatchError, match="no transformers config"):
        patch.apply(nn.Linear(2, 2))
