from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from neuropatch.errors import UsageError
from neuropatch.kernels import gated_mlp, masked_units, plain_mlp
from neuropatch.kernels.mlp import ACTIVATIONS
from neuropatch.kernels.reference import mlp as reference

# The kernels compute in float32 and round once. An activation errs by a few units of 2**-24 of
# |z| (of 1 for its slope), here below 16 times a factor of 4, each of the two or three products by
# one more, and the rounding by half a unit of the type: 2**-9 for bfloat16, 2**-12 for float16,
# with subnormal steps of 2**-25.
TOLERANCE = {
    torch.float32: {"rtol": 2e-6, "atol": 6e-6},
    torch.bfloat16: {"rtol": 2**-8, "atol": 1e-5},
    torch.float16: {"rtol": 2**-11, "atol": 1e-5},
}
DTYPES = list(TOLERANCE)


def arguments(tokens, units, *, dtype=torch.float32, seed=0, gated=True):
    """Random preactivation, up, mask and gradient; fractional gates, some 0 and some 1."""
    generator = torch.Generator().manual_seed(seed)
    z, up, grad = (
        torch.randn(tokens, units, generator=generator).mul_(scale).to(dtype) for scale in (3, 1, 1)
    )
    mask = torch.rand(units, generator=generator)
    mask[::3] = 0
    mask[1::3] = 1
    return z, up if gated else None, mask, grad


def exact(z, up, mask, grad, activation):
    """Hidden, and the gradients of preactivation, up and mask, in float64 by autograd."""
    leaves = [t.double().requires_grad_() for t in (z, mask, *(() if up is None else (up,)))]
    hidden = reference.ACTIVATIONS[activation](leaves[0]) * leaves[1]
    if up is not None:
        hidden = hidden * leaves[2]
    grads = torch.autograd.grad(hidden, leaves, grad.double())
    return hidden.detach(), grads[0], grads[2] if up is not None else None, grads[1]


def computed(z, up, mask, grad, activation, **options):
    """The same from the operator."""
    z, mask = z.detach().clone().requires_grad_(), mask.detach().clone().requires_grad_()
    up = None if up is None else up.detach().clone().requires_grad_()
    hidden = masked_units(z, up, mask, activation, **options)
    hidden.backward(grad)
    return hidden.detach(), z.grad, None if up is None else up.grad, mask.grad


def assert_close(actual, wanted, dtype, tokens):
    for name, a, w in zip(("hidden", "z", "up"), actual[:3], wanted[:3], strict=True):
        if w is not None:
            assert a.dtype == dtype
            message = f"{name}: {{}}".format
            torch.testing.assert_close(a.double(), w, **TOLERANCE[dtype], msg=message)
    # The sum over tokens is float32 for every type; terms are below 3 * 4 * 4 or so.
    assert actual[3].dtype == torch.float32
    torch.testing.assert_close(actual[3].double(), wanted[3], rtol=1e-5, atol=3e-6 * tokens**0.5)


SHAPES = [(1, 1), (3, 16), (65, 8), (2, 17), (130, 33), (1, 513), (5, 1100), (64, 512)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
def test_agrees_with_float64(path, activation, dtype, gated):
    for tokens, units in SHAPES:
        z, up, mask, grad = arguments(tokens, units, dtype=dtype, gated=gated)
        wanted = exact(z, up, mask, grad, activation)
        actual = computed(z, up, mask, grad, activation)
        assert_close(actual, wanted, dtype, tokens)
        assert (actual[0][:, ::3] == 0).all()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tokens=st.integers(0, 70),
    units=st.integers(0, 40),
    gated=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_any_shape(path, tokens, units, gated, activation, dtype, seed):
    z, up, mask, grad = arguments(tokens, units, dtype=dtype, seed=seed, gated=gated)
    actual = computed(z, up, mask, grad, activation)
    assert_close(actual, exact(z, up, mask, grad, activation), dtype, max(tokens, 1))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
def test_gradcheck_of_the_reference(activation, gated):
    z, up, mask, _ = arguments(4, 6, gated=gated)
    leaves = [t.double().requires_grad_() for t in (z, mask, *((up,) if gated else ()))]

    def function(z, mask, up=None):
        return masked_units(z, up, mask, activation)

    assert torch.autograd.gradcheck(function, leaves)


def test_leading_dimensions(path):
    z, up, mask, _ = arguments(12, 20)
    flat = masked_units(z, up, mask, "silu")
    for lead in [(3, 4), (2, 3, 2), (12, 1)]:
        shaped = masked_units(z.view(*lead, 20), up.view(*lead, 20), mask, "silu")
        assert torch.equal(shaped, flat.view(*lead, 20))
    assert torch.equal(masked_units(z[0], up[0], mask, "silu"), flat[0])


def strided_copy(tensor):
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reuse", [True, False])
def test_any_strides(path, dtype, reuse):
    z, up, mask, grad = arguments(70, 37, dtype=dtype)
    wanted = computed(z, up, mask, grad, "silu")
    both = torch.cat([z, up], 1)
    wide = torch.stack([z, up], 2)
    views = {
        "halves of one product": both.chunk(2, dim=1),
        "alternating columns": wide.unbind(2),
        "column-major": (z.T.contiguous().T, up.T.contiguous().T),
    }
    for name, inputs in views.items():
        assert not inputs[0].is_contiguous(), name
        leaves = [strided_copy(t) for t in inputs]
        leaves.append(torch.stack([mask, mask], 1)[:, 0])
        for leaf in leaves:
            leaf.requires_grad_()
        # Copies, since what is given away may not be a leaf.
        given = [strided_copy(t) if reuse else t for t in leaves[:2]]
        assert given[0].stride() == leaves[0].stride(), name
        hidden = masked_units(*given, leaves[2], "silu", reuse=reuse)
        hidden.backward(grad.T.contiguous().T)
        assert hidden.is_contiguous()
        actual = (hidden.detach(), *(leaf.grad for leaf in leaves))
        for a, w in zip(actual, wanted, strict=True):
            torch.testing.assert_close(a, w, rtol=1e-6, atol=3e-6, msg=name)


def test_expanded_gradient(path):
    """The gradient of a sum has strides of 0."""
    z, up, mask, _ = arguments(9, 21)
    ones = torch.ones_like(z)
    wanted = computed(z, up, mask, ones, "gelu")
    actual = computed(z, up, mask, torch.ones(1, 1).expand(9, 21), "gelu")
    assert all(torch.equal(a, w) for a, w in zip(actual, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_value_is_stored_as_torch_stores_it(path, dtype):
    """Products of float32 factors, rounded; subnormals, infinities and NaN included."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(dtype).abs()[None]
    generator = torch.Generator().manual_seed(0)
    for mask in (
        torch.ones(values.shape[1]),
        torch.rand(values.shape[1], generator=generator) * 2,
        torch.full((values.shape[1],), 1 + 2.0**-8),  # ties of bfloat16
        torch.full((values.shape[1],), 1 + 2.0**-11),  # ties of float16
    ):
        stored = masked_units(values, None, mask, "relu")
        wanted = (values.float() * mask).to(dtype)
        torch.testing.assert_close(stored[0], wanted[0], rtol=0, atol=0, equal_nan=True)


def logistic(z):
    return torch.special.expit(z)


ACCURATE = {
    "silu": lambda z: z * logistic(z),
    "gelu": lambda z: z * 0.5 * torch.special.erfc(-z / 2**0.5),
    "gelu_tanh": lambda z: z * logistic(2 * (2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)),
}


@pytest.mark.parametrize("activation", ACCURATE)
def test_accuracy_of_activations(instruction_sets, choose_path, activation):
    """Against formulas without cancellation in float64, in units in the last place.

    The exponential errs by 1.1 units; the quotient, the polynomial of the normal tail and the
    products add theirs. The argument of gelu_tanh's logistic function is rounded before it goes
    into the exponential, which magnifies its three roundings by the argument.
    """
    z = torch.cat([torch.linspace(-30, 30, 400_001), torch.logspace(-37, 38, 2000)])
    z = torch.cat([z, -z])[None]
    wanted = ACCURATE[activation](z.double())
    step = torch.nextafter(wanted.float().abs(), torch.tensor(torch.inf)) - wanted.float().abs()
    for choice in instruction_sets:
        choose_path(choice)
        actual = masked_units(z, None, torch.ones(z.shape[1]), activation)
        assert actual.isfinite().all()
        normal = wanted.abs() > 1e-36
        units = (actual.double() - wanted).abs() / step
        bound = {"silu": 4, "gelu": 8}.get(activation, 4 - 3 * (wanted / z.double()).log())
        assert (units <= bound)[normal].all(), (choice, (units - bound)[normal].max())
        assert ((actual.double() - wanted).abs()[~normal] < 1e-40).all(), choice


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_huge_and_subnormal_values(path, activation):
    big = 1e38  # torch's own gelu overflows before the largest float
    z = torch.tensor([[big, -big, 1e30, -1e30, 1e-40, -1e-40, 0.0, -0.0, 88.0, -88.0, -120.0]])
    mask, ones = torch.ones(z.shape[1]), torch.ones_like(z)
    hidden, grad_z, _, _ = computed(z, None, mask, ones, activation)
    limit = torch.where(z > 0, z, 0)
    torch.testing.assert_close(hidden[:, :4], limit[:, :4], rtol=1e-6, atol=0)
    wanted = exact(z, None, mask, ones, activation)
    torch.testing.assert_close(hidden[:, 4:].double(), wanted[0][:, 4:], rtol=1e-5, atol=1e-35)
    if path != "reference" or activation != "gelu_tanh":  # torch's own slope is NaN there
        slopes = (z > 0).double()[:, :4]
        torch.testing.assert_close(grad_z[:, :4].double(), slopes, rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(grad_z[:, 4:].double(), wanted[1][:, 4:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_in_its_place(path, activation, bad):
    z, up, mask, grad = arguments(9, 21)
    mask.fill_(0.5)
    clean = computed(z, up, mask, grad, activation)
    z[8, 20] = bad
    dirty = computed(z, up, mask, grad, activation)
    assert not dirty[0][8, 20].isfinite()
    assert not dirty[3][20].isfinite()
    for a, b in zip(clean[:3], dirty[:3], strict=True):
        torch.testing.assert_close(a[:8], b[:8], rtol=0, atol=0)
        torch.testing.assert_close(a[8, :20], b[8, :20], rtol=0, atol=0)
    torch.testing.assert_close(clean[3][:20], dirty[3][:20], rtol=0, atol=0)


def test_independent_of_threads(instruction_sets, choose_path, threads):
    for choice in instruction_sets:
        choose_path(choice)
        for tokens, units in [(300, 20), (3, 1500), (200, 700)]:
            inputs = arguments(tokens, units)
            results = []
            for count in (1, 2, 3, 7):
                threads(count)
                results.append(computed(*inputs, "silu"))
            for other in results[1:]:
                pairs = zip(results[0], other, strict=True)
                assert all(torch.equal(a, b) for a, b in pairs), (choice, tokens, units)


def weights(dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 7, 10, generator=generator)
    gate, up = torch.randn(2, 33, 10, generator=generator)
    bias, mask = torch.randn(33, generator=generator), torch.rand(33, generator=generator)
    return [t.to(dtype) for t in (x, gate, up, bias)] + [mask]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlps_against_float64_autograd(path, activation):
    x, gate, up, bias, mask = weights()
    act = reference.ACTIVATIONS[activation]

    def gradients(function, *leaves):
        leaves = [t.clone().requires_grad_() for t in leaves]
        result = function(*leaves)
        return result.detach(), *torch.autograd.grad(result.sin().sum(), leaves)

    def stock_gated(x, mask):
        return act(functional.linear(x, gate.double())) * functional.linear(x, up.double()) * mask

    def stock_plain(x, mask):
        return act(functional.linear(x, up.double(), bias.double())) * mask

    ours_gated = gradients(lambda x, m: gated_mlp(x, gate, up, m, activation), x, mask)
    ours_plain = gradients(lambda x, m: plain_mlp(x, up, bias, m, activation), x, mask)
    for ours, stock in ((ours_gated, stock_gated), (ours_plain, stock_plain)):
        for a, w in zip(ours, gradients(stock, x.double(), mask.double()), strict=True):
            # Sums over ten products, then 33 units, then 21 tokens of values up to 100.
            torch.testing.assert_close(a.double(), w, rtol=1e-5, atol=3e-4)


def test_transposed_storage_of_gpt2(path):
    x, _, up, bias, mask = weights()
    stored = up.T.contiguous()
    assert torch.allclose(
        plain_mlp(x, stored.T, bias, mask, "gelu_tanh"), plain_mlp(x, up, bias, mask, "gelu_tanh")
    )


def saved_bytes(function):
    """Bytes of distinct tensors kept for the backward pass, weights aside."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    return result, kept


def test_only_the_products_are_saved(path):
    x, gate, up, _, mask = weights()
    x.requires_grad_()
    mask.requires_grad_()
    result, kept = saved_bytes(lambda: gated_mlp(x, gate, up, mask, "silu"))
    for held in (gate, up, mask):
        kept.pop(held.untyped_storage().data_ptr(), None)
    assert x.untyped_storage().data_ptr() not in kept
    assert sorted(kept.values()) == [21 * 33 * 4] * 2
    result.sum().backward()


def test_gradients_take_the_place_of_the_products(instruction_sets, monkeypatch):
    x, gate, up, _, mask = weights()
    x.requires_grad_()
    saved, written = [], []
    operator = torch.ops.neuropatch.masked_units_backward_
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.data_ptr()) or t, lambda t: t
    ):
        hidden = gated_mlp(x, gate, up, mask, "silu")

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is operator.default:
                written.extend(t.data_ptr() for t in args[:2])
            return function(*args, **(kwargs or {}))

    with Spy():
        torch.autograd.grad(hidden.sum(), x, retain_graph=True)
        assert not set(written) & set(saved)
        written.clear()
        torch.autograd.grad(hidden.sum(), x)
    if instruction_sets:
        assert len(set(written) & set(saved)) == 2


def test_a_retained_graph_gives_the_same_gradients(path):
    x, gate, up, _, mask = weights()
    x.requires_grad_()
    mask.requires_grad_()
    loss = gated_mlp(x, gate, up, mask, "silu").square().sum()
    first = torch.autograd.grad(loss, (x, mask), retain_graph=True)
    second = torch.autograd.grad(loss, (x, mask), retain_graph=True)
    third = torch.autograd.grad(loss, (x, mask))
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, (x, mask))


def test_what_was_given_away_cannot_be_used_unseen(path):
    """Autograd refuses where another operation has kept a product that is written over."""
    x, gate, _, _, mask = weights()
    z = functional.linear(x.requires_grad_(), gate)
    squared = z.square()
    masked_units(z, None, mask, "silu", reuse=True).sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.sum().backward()


def test_inputs_are_left_alone_unless_given_away(path):
    z, up, mask, grad = arguments(4, 9)
    before = z.clone(), up.clone(), mask.clone(), grad.clone()
    leaves = z.requires_grad_(), up.requires_grad_(), mask.requires_grad_()
    masked_units(*leaves, "silu").backward(grad)
    for now, then in zip((*leaves, grad), before, strict=True):
        assert torch.equal(now, then)


def test_under_checkpointing(path):
    x, gate, up, _, mask = weights()
    x.requires_grad_()
    mask.requires_grad_()

    def function(x, mask):
        return gated_mlp(x, gate, up, mask, "gelu")

    plain = torch.autograd.grad(function(x, mask).square().sum(), (x, mask))
    held = torch.utils.checkpoint.checkpoint(function, x, mask, use_reentrant=False)
    again = torch.autograd.grad(held.square().sum(), (x, mask))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_no_memory_is_held_after_the_backward_pass(path):
    x, gate, up, _, mask = weights()
    mask.requires_grad_()
    hidden = gated_mlp(x, gate, up, mask, "silu")
    hidden.sum().backward()
    del hidden
    gc.collect()
    assert mask.grad.shape == (33,)
    assert mask.grad.untyped_storage().nbytes() == 33 * 4


def test_weights_that_learn_are_refused():
    x, gate, up, bias, mask = weights()
    with pytest.raises(UsageError, match="up_weight requires a gradient, but only x and mask"):
        gated_mlp(x, gate, up.clone().requires_grad_(), mask, "silu")
    with pytest.raises(UsageError, match="gate_weight requires a gradient"):
        gated_mlp(x, gate.clone().requires_grad_(), up, mask, "silu")
    with pytest.raises(UsageError, match="bias requires a gradient"):
        plain_mlp(x, up, bias.clone().requires_grad_(), mask, "silu")


BAD_ARGUMENTS = {
    "one dimension": ({"preactivation": torch.zeros(4), "up": None}, r"two dimensions, not.*\(4,"),
    "up shape": ({"up": torch.zeros(5, 4)}, r"shape \(5, 4\), not \(3, 4\)"),
    "up type": ({"up": torch.zeros(3, 4).half()}, "preactivation is float32 but up is float16"),
    "mask shape": ({"mask": torch.ones(3)}, r"mask has shape \(3,\), not \(4,\)"),
    "mask matrix": ({"mask": torch.ones(3, 4)}, r"mask has shape \(3, 4\), not \(4,\)"),
    "mask type": ({"mask": torch.ones(4).double()}, "mask must be float32, not float64"),
    "activation": ({"activation": "tanh"}, "'tanh' is none of silu, gelu, gelu_tanh, relu"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(path, case):
    changed, message = BAD_ARGUMENTS[case]
    good = {
        "preactivation": torch.zeros(3, 4),
        "up": torch.zeros(3, 4),
        "mask": torch.ones(4),
        "activation": "silu",
    }
    merged = {**good, **changed}
    with pytest.raises((UsageError, RuntimeError), match=message):
        torch.ops.neuropatch.masked_units(*merged.values())
    grad = torch.zeros_like(merged["preactivation"])
    values = list(merged.values())
    with pytest.raises((UsageError, RuntimeError), match=message):
        torch.ops.neuropatch.masked_units_backward_(*values[:3], grad, values[3])
    if case not in ("one dimension", "up shape"):  # any leading dimensions are fine there
        with pytest.raises(UsageError, match=message):
            masked_units(**merged)


def test_bad_gradients_and_overlaps():
    z, up, mask, grad = arguments(3, 4)
    operator = torch.ops.neuropatch.masked_units_backward_
    with pytest.raises((UsageError, RuntimeError), match=r"grad has shape \(2, 4\), not \(3, 4\)"):
        operator(z, up, mask, grad[:2], "silu")
    with pytest.raises((UsageError, RuntimeError), match="but grad is bfloat16"):
        operator(z, up, mask, grad.bfloat16(), "silu")
    with pytest.raises(UsageError, match="but up has"):
        masked_units(z, up[:2], mask, "silu")
    with pytest.raises(UsageError, match="not int32"):
        masked_units(z.int(), None, mask, "silu")
    with pytest.raises(UsageError, match="on one device"):
        masked_units(z, None, torch.ones(4, device="meta"), "silu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("reuse", [True, False])
def test_opcheck(dtype, gated, reuse):
    z, up, mask, grad = arguments(5, 19, dtype=dtype, gated=gated)
    torch.library.opcheck(
        torch.ops.neuropatch.masked_units_backward_.default, (z, up, mask, grad, "silu")
    )
    leaves = [None if t is None else t.clone().requires_grad_() for t in (z, up, mask)]
    torch.library.opcheck(torch.ops.neuropatch.masked_units.default, (*leaves, "gelu", reuse))
