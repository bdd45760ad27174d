"""Edits: what they may hold, what they compute, and what they are brought to."""

import numpy as np
import pytest

from neuropatch.errors import PatchFormatError, PatchMismatchError
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.patch.edits import Change, UnitEdit, WeightEdit
from neuropatch.storage.dtypes import FLOAT_DTYPES

MATRIX = MatrixId("decoder", 0, -1, "up")
BF16 = FLOAT_DTYPES["BF16"]


def _index(*values):
    return np.array(values, dtype=np.int64)


def _f32(*values):
    return np.array(values, dtype=np.float32)


def _weight(**changes):
    fields = {
        "matrix": MATRIX,
        "kind": "scale",
        "rows": _index(0, 0, 2),
        "columns": _index(1, 3, 0),
        "before": _f32(1, 2, 3),
        "value": _f32(4, 5, 6),
    }
    return WeightEdit(**(fields | changes))


def _unit(**changes):
    fields = {
        "block": BlockId("decoder", 0),
        "kind": "scale",
        "units": _index(1, 3),
        "value": _f32(0, 2),
        "before": np.arange(6, dtype=np.float32).reshape(2, 3) - 2,
    }
    return UnitEdit(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kind": "delete"}, "unknown edit kind 'delete'"),
        ({"matrix": MATRIX._replace(role="norm")}, "unknown role"),
        ({"matrix": MATRIX._replace(stack="middle")}, "no block middle.0"),
        ({"matrix": MATRIX._replace(layer=-1)}, "no block decoder.-1"),
        ({"matrix": MATRIX._replace(expert=-2)}, "no block"),
        ({"rows": _index(0, 0)}, "do not pair up"),
        ({"rows": _index(), "columns": _index()}, r"expected int64 \(n,\), n > 0"),
        ({"rows": _index(0, 0, 2)[:, None]}, "indices are int64"),
        ({"rows": np.array([0, 0, 2], dtype=np.uint8)}, "indices are uint8"),
        ({"rows": _index(-1, 0, 2)}, "negative"),
        ({"columns": _index(-1, 3, 0)}, "negative"),
        ({"columns": _index(1, 3, 2**31)}, "beyond any model"),
        ({"columns": _index(3, 1, 0)}, "not sorted, or occur twice"),
        ({"columns": _index(3, 3, 0)}, "not sorted, or occur twice"),
        ({"rows": _index(2, 0, 0)}, "not sorted, or occur twice"),
        ({"before": _f32(1, 2)}, r"'before' has shape \(2,\)"),
        ({"before": _f32(1, 2, np.nan)}, "'before' holds NaN or infinite"),
        ({"before": _index(1, 2, 3)}, "'before' has dtype int64"),
        ({"value": None}, "a value is needed for every kind but zero"),
        ({"kind": "zero"}, "a value is needed for every kind but zero"),
        ({"value": _f32(1, 2, np.inf)}, "'value' holds NaN or infinite"),
        ({"value": _f32(1, 2, 3)[:, None]}, "'value' has shape"),
        ({"value": np.ones(3)}, "'value' has dtype float64, expected float32"),
        ({"before": np.ones(3)}, "'value' has dtype float32, expected float64"),
        ({"kind": "set", "before": np.ones(3, BF16)}, "expected bfloat16"),
        ({"value": _f32(1, 2, 3e38)}, "leaves the range of float32"),
        ({"kind": "add", "before": np.full(3, 6e4, np.float16), "value": _f32(0, 0, 9e3)}, "range"),
    ],
)
def test_a_weight_edit_that_makes_no_sense_is_refused(changes, why):
    with pytest.raises(PatchFormatError, match=why):
        _weight(**changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kind": "add"}, "unknown unit edit kind 'add'"),
        ({"block": BlockId("middle", 0)}, "no block"),
        ({"units": _index()}, "indices are"),
        ({"units": _index(-1, 3)}, "negative"),
        ({"units": _index(3, 1)}, "not sorted, or occur twice"),
        ({"units": _index(3, 3)}, "not sorted, or occur twice"),
        ({"value": _f32(1)}, "'value' has shape"),
        ({"value": _f32(1, np.nan)}, "NaN"),
        ({"value": np.ones(2)}, "'value' is not float32"),
        ({"before": None}, "only scale edits hold weights from before"),
        ({"kind": "steer"}, "only scale edits hold weights from before"),
        ({"before": _f32(1, 2)}, "'before' has shape"),
        ({"before": np.full((2, 3), np.inf, np.float32)}, "'before' holds NaN or infinite"),
    ],
)
def test_a_unit_edit_that_makes_no_sense_is_refused(changes, why):
    with pytest.raises(PatchFormatError, match=why):
        _unit(**changes)


@pytest.mark.parametrize(
    ("kind", "after"),
    [("zero", [0, 0, 0]), ("scale", [4, 10, 18]), ("set", [4, 5, 6]), ("add", [5, 7, 9])],
)
def test_after(kind, after):
    edit = _weight(kind=kind, **({"value": None} if kind == "zero" else {}))
    assert edit.after.tolist() == after
    assert edit.after.dtype == np.float32
    assert len(edit) == 3


def test_a_weight_in_a_narrow_format_is_rounded_once():
    # In bfloat16, 1 + 2**-8 lies halfway between two values; in float32 it is exact.
    before = np.ones(3, BF16)
    edit = _weight(kind="add", before=before, value=_f32(2**-8, 2**-8 + 2**-20, 3 * 2**-8))
    assert edit.after.astype(float).tolist() == [1.0, 1 + 2**-7, 1 + 2**-6]


def test_build_sorts_by_row_then_column():
    edit = WeightEdit.build(
        MATRIX, "set", _index(2, 0, 0), _index(0, 3, 1), _f32(3, 2, 1), _f32(6, 5, 4)
    )
    assert edit == _weight(kind="set")
    assert edit.keys.tolist() == [1, 3, 2 << 32]


@pytest.mark.parametrize("make", [_weight, _unit])
def test_edits_are_equal_bit_for_bit_and_never_hashed(make):
    assert make() == make()
    value = make().value.copy()
    value[0] = 0.0
    other = value.copy()
    other[0] = -0.0
    assert make(value=value) != make(value=other)
    assert make() != "an edit"
    with pytest.raises(TypeError):
        hash(make())


@pytest.mark.parametrize("make", [_weight, _unit])
def test_take(make):
    edit = make()
    keep = np.zeros(len(edit), dtype=bool)
    assert edit.take(keep) is None
    assert edit.take(~keep) == edit
    keep[1] = True
    part = edit.take(keep)
    assert (len(part), part.value.tolist()) == (1, [edit.value[1]])


def test_a_scaled_unit_compiles_to_its_column_of_down():
    zero, scale = _unit().compiled()
    assert zero.matrix == scale.matrix == MatrixId("decoder", 0, -1, "down")
    assert (zero.kind, zero.rows.tolist(), zero.columns.tolist()) == ("zero", [0, 1, 2], [1] * 3)
    assert (scale.kind, scale.columns.tolist()) == ("scale", [3] * 3)
    assert scale.before.tolist() == [1, 2, 3]
    assert scale.after.tolist() == [2, 4, 6]
    assert not np.signbit(zero.after).any()
    assert len(_unit(value=_f32(1, 2)).compiled()) == 1


def test_a_scaled_unit_of_a_float64_base_compiles_to_float64():
    (edit,) = _unit(value=_f32(1, 2), before=np.ones((2, 3))).compiled()
    assert edit.value.dtype == np.float64


def test_steering_does_not_compile():
    with pytest.raises(PatchFormatError, match="steering adds a constant"):
        _unit(kind="steer", before=None).compiled()


def test_a_change_forth_and_back():
    edit = _weight()
    forth, back = Change(edit, inverted=False), Change(edit, inverted=True)
    assert forth.expected.tolist() == [1, 2, 3]
    assert back.expected.tolist() == [4, 10, 18]
    assert forth.new_values(_f32(2, 2, 2)).tolist() == [8, 10, 12]
    assert back.new_values(_f32(2, 2, 2)).tolist() == [1, 2, 3]
    assert (back.as_set().before.tolist(), back.as_set().value.tolist()) == ([4, 10, 18], [1, 2, 3])


def test_what_an_inverted_change_expects_is_computed_in_the_format_of_the_model():
    edit = _weight(before=_f32(1.003, 1, 1), value=_f32(1.003, 1, 1))
    rounded = np.array([1.003], dtype=BF16).astype(np.float32)
    wanted = (rounded * np.float32(1.003)).astype(BF16)
    expected = Change(edit, inverted=True).expected_as(BF16)
    assert expected[0] == wanted[0]
    assert expected[0] != edit.after[0].astype(BF16), "rounding afterwards is something else"


@pytest.mark.parametrize(
    ("inverted", "edit"),
    [
        (False, {"kind": "set", "value": _f32(1, 1, 7e4)}),
        (False, {"kind": "scale", "value": _f32(1, 1, 7e4)}),
        (True, {"kind": "zero", "value": None, "before": _f32(1, 1, 7e4)}),
    ],
)
def test_a_change_that_does_not_fit_the_models_format_is_refused(inverted, edit):
    change = Change(_weight(**edit), inverted)
    with pytest.raises(PatchMismatchError, match=r"decoder\.0\.up gives infinite .* in float16"):
        change.new_values(np.ones(3, dtype=np.float16))
    assert np.isfinite(change.new_values(_f32(1, 1, 1))).all()


def test_zeroing_heals_a_nan_and_scaling_does_not():
    current = _f32(np.nan, 1, 1)
    assert Change(_weight(kind="zero", value=None), False).new_values(current).tolist() == [0, 0, 0]
    with pytest.raises(PatchMismatchError, match="infinite or NaN"):
        Change(_weight(), False).new_values(current)
