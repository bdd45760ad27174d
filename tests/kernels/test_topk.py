"""The top products against a sort of all of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropatch.errors import UsageError
from neuropatch.kernels import product_topk

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def by_sorting(weight, score, divisor, k, floor):
    """The definition, with Python's sort: values as PyTorch computes them."""
    product = (score * weight.abs().to(score.dtype) / divisor).reshape(-1).tolist()
    order = sorted((-value, index) for index, value in enumerate(product) if value > floor)
    return [-value for value, _ in order[:k]], [index for _, index in order[:k]]


def draw(out, inp, dtype=torch.float32, seed=0, tied=False):
    generator = torch.Generator().manual_seed(seed)
    if tied:
        weight = torch.randint(-1, 2, (out, inp), generator=generator)
        score = torch.randint(0, 3, (out, inp), generator=generator)
    else:
        weight = torch.randn(out, inp, generator=generator)
        score = torch.rand(out, inp, generator=generator)
    return weight.to(dtype), score.float()


def check(weight, score, divisor, k, floor):
    values, indices = product_topk(weight, score, divisor, k, floor)
    expected_values, expected_indices = by_sorting(weight, score, divisor, k, floor)
    rest = min(k, score.numel()) - len(expected_values)
    assert values.dtype == score.dtype
    assert indices.tolist() == expected_indices + [-1] * rest
    assert values.tolist() == expected_values + [0.0] * rest


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    out=st.integers(1, 40),
    inp=st.integers(1, 60),
    k=st.integers(0, 300),
    divisor=st.sampled_from([1, 3, 64, 100]),
    floor=st.sampled_from([0.0, 1 / 3, 0.5, 100.0]),
    dtype=st.sampled_from(DTYPES),
    tied=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_equals_a_sort(path, out, inp, k, divisor, floor, dtype, tied, seed):
    weight, score = draw(out, inp, dtype, seed, tied)
    check(weight, score, divisor, k, floor / divisor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 50, 5000, 10**9])
def test_several_tiles_with_ties(path, dtype, k):
    """More than one tile each way, none of them whole, and ties across their borders."""
    check(*draw(37, 700, dtype, tied=True), 7, k, 0.0)
    check(*draw(37, 700, dtype), 7, k, 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides(path, dtype):
    """A transposed weight (Conv1D), row ranges of a fused one, and expanded tensors."""
    weight, score = draw(60, 300, dtype)
    check(weight.T.contiguous().T, score, 3, 99, 0.0)
    check(weight.T.contiguous().T[20:40], score[20:40], 3, 99, 0.0)
    check(weight[::2, ::3], score.T.contiguous().T[::2, ::3], 3, 99, 0.0)
    check(torch.ones((), dtype=dtype).expand(60, 300), score, 3, 99, 0.0)


def test_equal_values_take_the_lowest_indices(path):
    values, indices = product_topk(torch.ones(50, 600), torch.ones(50, 600), 1, 700, 0)
    assert indices.tolist() == list(range(700))
    assert values.eq(1).all()


def test_zeros_are_never_taken(path):
    values, indices = product_topk(torch.tensor([[0.0, -2.0]]), torch.tensor([[3.0, 0.5]]), 1, 2, 0)
    assert values.tolist() == [1.0, 0.0]
    assert indices.tolist() == [1, -1]


@pytest.mark.parametrize(
    ("weight", "score"),
    [
        (1.0, float("nan")),
        (float("nan"), 1.0),
        (float("inf"), 0.0),
        (1.0, float("inf")),
        (3e38, 3e38),
    ],
)
def test_a_product_that_is_not_finite_comes_first(path, weight, score):
    weights, scores = draw(33, 300)
    weights[20, 270], scores[20, 270] = weight, score
    values, indices = product_topk(weights, scores, 2, 3, 0.5)
    assert indices[0] == 20 * 300 + 270
    assert not values[0].isfinite()
    weights[20, 270], scores[20, 270] = 1, 0
    finite = product_topk(weights, scores, 2, 2, 0.5)
    assert torch.equal(values[1:], finite[0])
    assert torch.equal(indices[1:], finite[1])


def test_subnormal_products_are_kept(path):
    weight, score = torch.full((2, 3), 2.0**-70), torch.full((2, 3), 2.0**-75)
    values, indices = product_topk(weight, score, 1, 2, 0)
    assert values.tolist() == [2.0**-145] * 2
    assert indices.tolist() == [0, 1]
    assert product_topk(weight, score, 1, 2, 2.0**-145)[1].tolist() == [-1, -1]


def test_independent_of_threads(instruction_sets, choose_path, threads):
    arguments = draw(100, 900, tied=True)
    results = []
    for choice in instruction_sets:
        choose_path(choice)
        for count in (1, 2, 7):
            threads(count)
            results.append(product_topk(*arguments, 9, 200, 0))
    assert all(
        torch.equal(results[0][0], values) and torch.equal(results[0][1], indices)
        for values, indices in results
    )


def test_float64_takes_the_reference():
    weight, score = draw(9, 20)
    check(weight.double(), score.double(), 3, 17, 0.0)


BAD_ARGUMENTS = {
    "shapes": ({"score": torch.zeros(4, 3)}, r"one shape \(out, in\), not \(3, 4\) and \(4, 3\)"),
    "dimensions": ({"weight": torch.zeros(12), "score": torch.zeros(12)}, r"not \(12,\) and"),
    "divisor": ({"divisor": 0.0}, "divisor must be positive and finite, not 0"),
    "k": ({"k": -1}, "k must not be negative, but is -1"),
    "floor": ({"floor": -0.5}, "floor must be finite and not negative, but is -0.5"),
    "no floor": ({"floor": float("inf")}, "floor must be finite and not negative, but is inf"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(path, case):
    changed, message = BAD_ARGUMENTS[case]
    given = {
        "weight": torch.zeros(3, 4),
        "score": torch.zeros(3, 4),
        "divisor": 1.0,
        "k": 2,
        "floor": 0.0,
        **changed,
    }
    with pytest.raises(UsageError, match=message) as of_wrapper:
        product_topk(**given)
    with pytest.raises((RuntimeError, UsageError)) as of_operator:
        torch.ops.neuropatch.product_topk(**given)
    assert of_wrapper.value.message in str(of_operator.value)


@pytest.mark.parametrize(
    ("weight", "score", "message"),
    [
        (torch.zeros(2, 2).int(), torch.zeros(2, 2), "weight must be .* not int32"),
        (torch.zeros(2, 2), torch.zeros(2, 2).half(), "score must be .* not float16"),
        (torch.zeros(2, 2, device="meta"), torch.zeros(2, 2), "must be on one device"),
    ],
)
def test_bad_types_and_devices(weight, score, message):
    with pytest.raises(UsageError, match=message):
        product_topk(weight, score, 1, 1, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    torch.library.opcheck(
        torch.ops.neuropatch.product_topk.default, (*draw(9, 50, dtype), 3.0, 30, 0.1)
    )
