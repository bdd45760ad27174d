"""The laws of the algebra, against maps from coordinates to edits."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropatch.errors import PatchConflictError, PatchMismatchError, UsageError
from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.patch.algebra import (
    compose,
    conflicts,
    difference,
    intersection,
    plain,
    union,
)
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.metadata import BaseModel, PatchMetadata, merge_metadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import FLOAT_DTYPES, cast

LAWS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

DATA = st.data()


def _same(a, b):
    """Equal up to provenance, which names the operation."""
    return (a.weights, a.units, a.inverted) == (b.weights, b.units, b.inverted)


def _aligned(*patches):
    """What the algebra compares: weights where some patch edits weights and some scales units."""
    units = any(edit.kind == "scale" for patch in patches for edit in patch.units)
    if units and any(patch.weights for patch in patches):
        return [patch.compiled() for patch in patches]
    return list(patches)


# Inversion -----------------------------------------------------------------------------------


@LAWS
@given(data=DATA)
def test_inverting_twice_changes_nothing(data, patches):
    patch = data.draw(patches())
    assert patch.invert().invert() == patch
    assert patch.invert() != patch


@pytest.mark.parametrize("held", sorted(FLOAT_DTYPES))
@pytest.mark.parametrize("dtype", sorted(FLOAT_DTYPES))
@settings(LAWS, max_examples=4)
@given(data=DATA)
def test_applying_then_inverting_gives_back_the_bytes(
    data, dtype, held, patches, make_layout, make_base, run, identical
):
    """Also of a base that is loaded in another format than the patch was made in."""
    base = make_base(make_layout("llama"), dtype)
    model = {matrix: cast(values, FLOAT_DTYPES[held]) for matrix, values in base.items()}
    patch = data.draw(patches(dtype=dtype, inverted=False))
    patch = NeuronPatch(
        patch.metadata, patch.weights, tuple(e for e in patch.units if e.kind == "scale")
    )
    edited = run(patch, model)
    assert identical(run(patch.invert(), edited), model)
    # What the inverse expects is exactly what is there.
    for change in patch.invert().changes():
        place = change.edit.rows, change.edit.columns
        there = edited[change.edit.matrix][place]
        assert change.expected_as(FLOAT_DTYPES[held]).tobytes() == there.tobytes()


@LAWS
@given(data=DATA)
def test_compiling_units_to_weights_changes_nothing(data, patches, make_layout, make_base, run):
    patch = data.draw(patches(inverted=False))
    without_steering = NeuronPatch(
        patch.metadata, patch.weights, tuple(e for e in patch.units if e.kind == "scale")
    )
    compiled = without_steering.compiled()
    assert not compiled.units
    base = make_base(make_layout("llama"), "BF16")
    once, other = run(without_steering, base), run(compiled, base)
    assert all((values == other[matrix]).all() for matrix, values in once.items())
    assert patch.compiled().compiled() == patch.compiled()


@LAWS
@given(data=DATA)
def test_a_plain_patch_does_what_an_inverted_one_does(
    data, patches, make_layout, make_base, run, identical
):
    patch = data.draw(patches(units=False, inverted=False))
    base = make_base(make_layout("llama"), "BF16")
    undo = plain(patch.invert())
    assert not undo.inverted
    assert identical(run(undo, run(patch, base)), base)
    assert plain(patch) is patch


def test_plain_steering_is_by_the_negated_vector(make_patch, make_layout):
    patch = make_patch(make_layout("llama"), kinds=(), units=("steer",))
    (first, *_) = plain(patch.invert()).units
    assert (first.value == -patch.units[0].value).all()


# Union, intersection, difference -------------------------------------------------------------


@LAWS
@given(data=DATA)
def test_union_where_edits_agree(data, patches, cells):
    a, b, c = (data.draw(patches(agree=True, inverted=False)) for _ in range(3))
    assert conflicts(a, b, c) == []
    assert _same(union(a, b), union(b, a))
    assert union(a, b) == union(b, a), "even the provenance"
    assert _same(union(a, a), *_aligned(a))
    left, right = union(union(a, b), c), union(a, union(b, c))
    # Steps that see no weights leave units whole; compiled, all three are one patch.
    assert _same(left.compiled(), right.compiled())
    assert _same(left.compiled(), union(a, b, c).compiled())
    merged = {}
    for patch in _aligned(a, b):
        merged |= cells(patch)
    assert cells(union(a, b)) == merged


@LAWS
@given(data=DATA)
def test_union_names_every_disagreement_and_nothing_else(data, patches, cells):
    a, b = data.draw(patches(inverted=False)), data.draw(patches(inverted=False))
    mine, theirs = map(cells, _aligned(a, b))
    clashes = {place for place in mine.keys() & theirs.keys() if mine[place] != theirs[place]}
    found = conflicts(a, b)
    assert len(found) == len(clashes)
    assert {_place(place) for place in clashes} == {conflict.place for conflict in found}
    if not clashes:
        assert cells(union(a, b)) == mine | theirs
        return
    with pytest.raises(PatchConflictError) as caught:
        union(a, b)
    assert f"disagree on {len(clashes)} coordinates: {found[0]}" in caught.value.message


def _place(place):
    first, second, third = place
    if second in ("scale", "steer"):
        return f"unit {third} of {first}"
    return f"{first}[{second}, {third}]"


@LAWS
@given(data=DATA)
def test_compose_takes_the_first_or_the_last(data, patches, cells):
    several = data.draw(st.lists(patches(inverted=False), min_size=1, max_size=4))
    maps = [cells(patch) for patch in _aligned(*several)]
    last, first = {}, {}
    for entry in maps:
        last = last | entry
        first = entry | first
    assert cells(compose(*several, on_conflict="last")) == last
    assert cells(compose(*several, on_conflict="first")) == first


@LAWS
@given(data=DATA)
def test_intersection_and_difference_are_those_of_sets(data, patches, cells):
    a, b, c = (data.draw(patches(inverted=False)) for _ in range(3))
    mine, theirs, third = map(cells, _aligned(a, b, c))
    shared = {
        place: edit
        for place, edit in mine.items()
        if theirs.get(place) == edit and third.get(place) == edit
    }
    assert cells(intersection(a, b, c)) == shared
    apart = {p: e for p, e in mine.items() if p not in theirs and p not in third}
    assert cells(difference(a, b, c)) == apart


@LAWS
@given(data=DATA)
def test_set_laws(data, patches, cells):
    a, b = data.draw(patches(inverted=False)), data.draw(patches(inverted=False))
    first, _ = _aligned(a, b)
    assert _same(intersection(a, b), intersection(b, a))
    assert _same(intersection(a, a), *_aligned(a))
    assert len(difference(a, a)) == 0
    assert len(intersection(difference(a, b), b)) == 0
    # A patch falls into what only it edits, what it shares, and what is in conflict.
    parts = [cells(difference(a, b)), cells(intersection(a, b))]
    disputed = len(conflicts(a, b))
    assert parts[0].keys().isdisjoint(parts[1])
    assert parts[0].items() | parts[1].items() <= cells(first).items()
    assert sum(map(len, parts)) + disputed == len(cells(first))


@LAWS
@given(data=DATA)
def test_the_operations_commute_with_inversion(data, patches):
    a, b = (
        data.draw(patches(agree=True, inverted=False)),
        data.draw(patches(agree=True, inverted=False)),
    )
    for operation in (union, intersection, difference):
        assert _same(operation(a.invert(), b.invert()), operation(a, b).invert())


@LAWS
@given(data=DATA)
def test_a_patch_and_the_inverse_of_another_combine(
    data, patches, make_layout, make_base, run, identical
):
    """Adding one patch and taking another back, in one step."""
    base = make_base(make_layout("llama"), "BF16")
    a = data.draw(patches(units=False, inverted=False))
    b = difference(data.draw(patches(units=False, inverted=False)), a)
    both = union(a, b.invert())
    assert not both.inverted
    assert identical(run(both, run(b, base)), run(a, base))


# Particular cases ----------------------------------------------------------------------------


@pytest.fixture
def one(make_layout):
    """``one(kind, value, before)``: a patch of one weight, down[2, 3] of layer 1."""
    layout = make_layout("llama")

    def one(kind="set", value=1.0, before=0.5, dtype=np.float32, place=(2, 3)):
        values = None if kind == "zero" else np.array([value], dtype=dtype)
        rows, columns = (np.array([index]) for index in place)
        edit = WeightEdit(
            MatrixId("decoder", 1, -1, "down"),
            kind,
            rows,
            columns,
            np.array([before], dtype=dtype),
            values,
        )
        return NeuronPatch(PatchMetadata(layout.signature), (edit,))

    return one


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ({}, {"value": 2.0}),
        ({"value": 0.0}, {"value": -0.0}),
        ({}, {"kind": "add"}),
        ({}, {"kind": "zero"}),
        ({}, {"before": 0.25}),
        ({}, {"dtype": np.float16}),
    ],
)
def test_whatever_differs_is_a_conflict(one, mine, other):
    assert conflicts(one(**mine), one(**mine)) == []
    (conflict,) = conflicts(one(**mine), one(**other))
    assert conflict.place == "decoder.1.down[2, 3]"


def test_a_conflict_says_who_does_what(one):
    (conflict,) = conflicts(one(), one("zero"), one("scale", 3))
    assert str(conflict) == (
        "decoder.1.down[2, 3]: patch 1 set 1 (was 0.5), patch 2 zero (was 0.5), "
        "patch 3 scale 3 (was 0.5)"
    )


def test_a_unit_in_conflict_is_named(make_layout):
    def steer(value):
        edit = UnitEdit(
            BlockId("decoder", 1), "steer", np.array([4]), np.array([value], dtype=np.float32)
        )
        return NeuronPatch(PatchMetadata(make_layout("llama").signature), (), (edit,))

    (conflict,) = conflicts(steer(1), steer(2))
    assert str(conflict) == "unit 4 of decoder.1: patch 1 steer 1, patch 2 steer 2"


def test_a_scaled_unit_meets_a_weight_of_its_column(one, make_layout):
    unit = UnitEdit(
        BlockId("decoder", 1),
        "scale",
        np.array([3]),
        np.array([0], dtype=np.float32),
        np.full((1, 12), 0.5, dtype=np.float32),
    )
    units = NeuronPatch(PatchMetadata(make_layout("llama").signature), (), (unit,))
    assert [c.place for c in conflicts(units, one())] == ["decoder.1.down[2, 3]"]
    assert len(union(units, one("zero"))) == 12, "the unit's whole column, that weight included"
    # Among unit patches nothing is compiled.
    assert union(units, units).units == units.units


def test_only_three_conflicts_are_spelled_out(make_patch, make_layout):
    layout = make_layout("llama")
    a = make_patch(layout, kinds=("set",), seed=1)
    edits = tuple(WeightEdit(e.matrix, "zero", e.rows, e.columns, e.before) for e in a.weights)
    with pytest.raises(
        PatchConflictError, match=r"disagree on 42 coordinates: .*; \.\.\."
    ) as caught:
        union(a, NeuronPatch(a.metadata, edits))
    assert caught.value.message.count("patch 1") == 3
    # In the order of coordinates.
    assert "decoder.0.gate" in caught.value.message


def test_many_conflicts_are_found_at_once(make_layout):
    """A quarter of a million conflicts: anything quadratic would not come back."""
    layout = make_layout("llama", hidden_size=512, intermediate_size=512)
    flat = np.arange(512 * 512)
    values = np.ones(len(flat), dtype=np.float32)
    matrix = MatrixId("decoder", 0, -1, "up")
    a, b = (
        NeuronPatch(
            PatchMetadata(layout.signature),
            (WeightEdit(matrix, "set", flat // 512, flat % 512, values, values * factor),),
        )
        for factor in (2, 3)
    )
    with pytest.raises(PatchConflictError, match="disagree on 262144 coordinates"):
        union(a, b)


def test_other_number_formats_cannot_be_merged(one):
    with pytest.raises(PatchMismatchError, match="bases in float16 and float32"):
        union(one(), one(dtype=np.float16, place=(5, 5)))


def test_units_of_other_number_formats_cannot_be_merged(make_layout):
    def scale(unit, dtype):
        before = np.ones((1, 12), dtype=dtype)
        edit = UnitEdit(
            BlockId("decoder", 0), "scale", np.array([unit]), np.ones(1, np.float32), before
        )
        return NeuronPatch(PatchMetadata(make_layout("llama").signature), (), (edit,))

    with pytest.raises(PatchMismatchError, match="bases in float16 and float32"):
        union(scale(0, np.float32), scale(1, np.float16))


@pytest.mark.parametrize("operation", [union, intersection, difference, conflicts])
def test_other_architectures_do_not_combine(operation, make_patch, make_layout):
    patches = make_patch(make_layout("llama")), make_patch(make_layout("gpt2"))
    with pytest.raises(PatchMismatchError, match="patch 1 and patch 2 are for different"):
        operation(*patches)


def test_nothing_cannot_be_combined():
    with pytest.raises(UsageError, match="no patches"):
        union()


def test_provenance_is_what_all_agree_on(make_layout):
    signature = make_layout("llama").signature
    record = {"name": "privacy", "sha256": "ab", "rows": 3}
    a = PatchMetadata(
        signature,
        BaseModel("m", "c"),
        {"name": "spin", "parameters": {"p": 1}},
        (record,),
        {"torch": "2"},
        {"snip": "avx2"},
        "mit",
        {"loss": 1},
    )
    b = PatchMetadata(
        signature,
        BaseModel("m", "c"),
        {"name": "random"},
        (record, {"name": "general"}),
        {"torch": "3"},
        {"snip": "avx2"},
        "apache-2.0",
    )
    merged = merge_metadata("union", [a, b])
    assert merged == merge_metadata("union", [b, a])
    assert merged.base_model == BaseModel("m", "c")
    assert merged.method["of"] == [{"name": "random"}, {"name": "spin", "parameters": {"p": 1}}]
    assert list(merged.datasets) == [{"name": "general"}, record]
    assert (merged.versions, merged.kernels) == ({}, {"snip": "avx2"})
    assert merged.license is None
    assert merged.evaluation is None
    # What is taken from what matters for a difference.
    assert merge_metadata("difference", [a, b]).method["of"][0]["name"] == "spin"
