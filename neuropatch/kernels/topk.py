"""The operator that selects the top weights of a matrix by ``|W| * score``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neuropatch.kernels._arguments import ACTIVATION_DTYPES, SCORE_DTYPES, dtype_name, fail
from neuropatch.kernels._backend import compiled
from neuropatch.kernels._registry import Operator, register
from neuropatch.kernels.reference import topk as reference

_OP = "product_topk"


def product_topk(
    weight: Tensor, score: Tensor, divisor: float, k: int, floor: float
) -> tuple[Tensor, Tensor]:
    """The ``k`` largest ``score * |weight| / divisor`` above ``floor``, without that product.

    Each product is ``(score * |weight|) / divisor``, rounded after each operation in the type of
    ``score``: the bits that PyTorch gives. Ties go to the lower flat index ``row * in + column``,
    so the result is the same for any number of threads. Products that are not finite (NaN
    included) count as larger than all others: if there is one, the first value is not finite.

    Besides its arguments the compiled kernel takes ``32 * k * torch.get_num_threads()`` bytes.

    Args:
        weight: ``[out, in]``; float32, bfloat16, float16 or float64. Any strides.
        score: ``[out, in]``, float32 or float64, on the device of ``weight``. Any strides.
        divisor: Positive and finite, such as a number of samples; rounded to the type of ``score``.
        k: How many to take, at the most all.
        floor: Finite and not negative; products at or below it are left out.

    Returns:
        Values, in the type of ``score``, and flat indices, int64, both ``[min(k, out * in)]``, in
        descending order of value. Places that no product above ``floor`` fills have value 0 and
        index -1.

    Raises:
        UsageError: An argument does not fit, or ``NEUROPATCH_KERNELS`` cannot be honoured.
    """
    _check(weight, score, divisor, k, floor)
    wide = torch.float64 in (score.dtype, weight.dtype)
    if wide or not compiled(_OP, score.device):
        return reference.product_topk(weight, score, divisor, k, floor)
    with torch.no_grad():
        values, indices = torch.ops.neuropatch.product_topk(weight, score, divisor, k, floor)
    return values, indices


def _check(weight: Tensor, score: Tensor, divisor: float, k: int, floor: float) -> None:
    if weight.dim() != 2 or weight.shape != score.shape:
        shapes = f"{tuple(weight.shape)} and {tuple(score.shape)}"
        fail(_OP, f"weight and score must have one shape (out, in), not {shapes}")
    if weight.dtype not in ACTIVATION_DTYPES:
        name = dtype_name(weight.dtype)
        fail(_OP, f"weight must be float32, bfloat16, float16 or float64, not {name}")
    if score.dtype not in SCORE_DTYPES:
        fail(_OP, f"score must be float32 or float64, not {dtype_name(score.dtype)}")
    if weight.device != score.device:
        fail(_OP, "weight and score must be on one device")
    if not (math.isfinite(divisor) and divisor > 0):
        fail(_OP, f"divisor must be positive and finite, not {divisor:g}")
    if k < 0:
        fail(_OP, f"k must not be negative, but is {k}")
    if not (math.isfinite(floor) and floor >= 0):
        fail(_OP, f"floor must be finite and not negative, but is {floor:g}")


def _fake(
    weight: Tensor, score: Tensor, divisor: float, k: int, floor: float
) -> tuple[Tensor, Tensor]:
    _check(weight, score, divisor, k, floor)
    shape = (min(k, score.shape[0] * score.shape[1]),)
    return score.new_empty(shape), score.new_empty(shape, dtype=torch.int64)


register(
    Operator(
        schema=(
            "product_topk(Tensor weight, Tensor score, float divisor, int k, float floor) -> "
            "(Tensor values, Tensor indices)"
        ),
        check=_check,
        reference=reference.product_topk,
        fake=_fake,
    )
)
