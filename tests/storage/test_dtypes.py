"""Number formats: names, rounding and arithmetic as torch has them."""

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from neuropatch.errors import CheckpointError
from neuropatch.models.coordinates import MatrixId
from neuropatch.patch.edits import WeightEdit
from neuropatch.storage.dtypes import (
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    ITEM_BITS,
    bits,
    cast,
    compute_dtype,
    dtype_name,
    float_dtype,
    is_finite,
    smallest_uint,
)

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
NARROW = ["F16", "BF16", "F8_E4M3", "F8_E5M2"]


def _torch_bits(values):
    return values.contiguous().view(torch.uint8).numpy()


def _spread(count, limit, seed=0):
    """Numbers over every magnitude up to ``limit``, and all small halfway cases."""
    rng = np.random.default_rng(seed)
    values = rng.choice([-1, 1], count) * 2.0 ** rng.uniform(-26, np.log2(limit), count)
    return np.concatenate([values, np.arange(-512, 513) / 1024 + 1, [0.0, -0.0]])


def test_the_formats_are_all_editable_ones():
    assert set(TORCH) == set(FLOAT_DTYPES)
    for name, dtype in FLOAT_DTYPES.items():
        assert dtype_name(dtype) == name
        assert ITEM_BITS[name] == 8 * torch.empty(0, dtype=TORCH[name]).element_size()


@pytest.mark.parametrize("name", NARROW)
def test_rounding_is_that_of_torch(name):
    # Up to the largest finite value: past it torch saturates in some formats, and we refuse.
    limit = float(ml_dtypes.finfo(FLOAT_DTYPES[name]).max)
    values = _spread(20_000, limit).astype(np.float32)
    wanted = torch.from_numpy(values).to(TORCH[name])
    np.testing.assert_array_equal(
        cast(values, FLOAT_DTYPES[name]).view(np.uint8), _torch_bits(wanted)
    )


@pytest.mark.parametrize("name", sorted(FLOAT_DTYPES))
@pytest.mark.parametrize("kind", ["zero", "scale", "set", "add"])
def test_an_edit_gives_what_editing_in_torch_gives(name, kind):
    dtype, wide = FLOAT_DTYPES[name], compute_dtype(FLOAT_DTYPES[name])
    rng = np.random.default_rng(1)
    before = cast(rng.standard_normal(5000), dtype)
    value = {
        "zero": None,
        "scale": rng.uniform(-2, 2, 5000).astype(wide),
        "set": cast(rng.standard_normal(5000), dtype),
        "add": rng.standard_normal(5000).astype(wide),
    }[kind]
    index = np.arange(5000)
    edit = WeightEdit(MatrixId("decoder", 0, -1, "up"), kind, index, index, before, value)

    weights = torch.from_numpy(before.view(np.uint8).copy()).view(TORCH[name])
    computed = weights.to(torch.float64 if name == "F64" else torch.float32)
    if kind == "zero":
        result = torch.zeros_like(computed)
    elif kind == "set":
        result = torch.from_numpy(value.astype(wide))
    else:
        operand = torch.from_numpy(value)
        result = computed * operand if kind == "scale" else computed + operand
    np.testing.assert_array_equal(edit.after.view(np.uint8), _torch_bits(result.to(TORCH[name])))


@pytest.mark.parametrize("name", ["F16", "BF16", "F32"])
def test_scaling_is_an_in_place_multiplication_in_torch(name):
    """The user's own ``weight[i] *= factor`` is the reference."""
    before = cast(np.random.default_rng(2).standard_normal(2000), FLOAT_DTYPES[name])
    factor = np.float32(0.37)
    index = np.arange(2000)
    edit = WeightEdit(
        MatrixId("decoder", 0, -1, "up"), "scale", index, index, before, np.full(2000, factor)
    )
    weights = torch.from_numpy(before.view(np.uint8).copy()).view(TORCH[name])
    weights *= float(factor)
    np.testing.assert_array_equal(edit.after.view(np.uint8), _torch_bits(weights))


def test_bits_tell_zeros_apart_and_find_equal_nans():
    values = np.array([0.0, -0.0, np.nan, np.nan], dtype=np.float32)
    assert (bits(values) == bits(values[[1, 1, 2, 2]])).tolist() == [False, True, True, True]
    assert bits(np.zeros((2, 6), dtype=np.float16)[:, ::2]).dtype == np.uint16


@pytest.mark.parametrize("name", sorted(FLOAT_DTYPES))
def test_is_finite(name):
    dtype = FLOAT_DTYPES[name]
    top = ml_dtypes.finfo(dtype).max
    assert is_finite(np.array([0, top, -top], dtype=dtype))
    assert not is_finite(np.array([0, np.nan], dtype=dtype))
    assert not is_finite(cast(np.array([np.inf]), dtype))


@pytest.mark.parametrize(
    ("maximum", "dtype"),
    [(0, "U8"), (255, "U8"), (256, "U16"), (65535, "U16"), (65536, "U32"), (2**32, "U64")],
)
def test_smallest_uint(maximum, dtype):
    assert smallest_uint(maximum) == INTEGER_DTYPES[dtype]


@pytest.mark.parametrize("name", ["I8", "F4", "nonsense"])
def test_a_format_that_cannot_be_edited_is_refused_by_name(name):
    with pytest.raises(CheckpointError, match=f"layer.weight is stored as {name}"):
        float_dtype(name, what="layer.weight")
    assert float_dtype("BF16", what="layer.weight") == ml_dtypes.bfloat16


def test_names_are_those_of_the_safetensors_library(tmp_path):
    for name, dtype in (FLOAT_DTYPES | INTEGER_DTYPES).items():
        if name.startswith(("F8", "BF")):
            continue  # The library's NumPy side does not write these; its torch side is tested too.
        save_file({"x": np.zeros(3, dtype)}, tmp_path / "x.safetensors")
        with safe_open(tmp_path / "x.safetensors", "np") as file:
            assert file.get_slice("x").get_dtype() == name
