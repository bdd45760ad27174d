"""The patch file: identity, determinism, and refusing what is not a patch."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropatch.errors import PatchFormatError
from neuropatch.models.coordinates import ROLES, STACKS, BlockId, MatrixId
from neuropatch.models.layout import Signature
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.format import METADATA_KEY, encode, read_patch
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import FLOAT_DTYPES
from neuropatch.storage.safetensors_file import read_array, read_header, serialize

FILES = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "patch.safetensors"


@pytest.fixture
def patch(make_patch, make_layout):
    """One patch with every kind of edit."""
    return make_patch(make_layout("llama"), units=("scale", "steer"), dtype="BF16")


def _open(path):
    header = read_header(path)
    tensors = {name: read_array(path, info) for name, info in header.tensors.items()}
    return json.loads(header.metadata[METADATA_KEY]), tensors


def _close(path, document, tensors):
    path.write_bytes(serialize(tensors, {METADATA_KEY: json.dumps(document)}))


@pytest.fixture
def refusal(path, patch):
    """The message with which a patch file is refused once ``change(document, tensors)`` is done."""

    def refusal(change):
        path.write_bytes(encode(patch))
        document, tensors = _open(path)
        change(document, tensors)
        _close(path, document, tensors)
        with pytest.raises(PatchFormatError) as caught:
            read_patch(path)
        assert caught.value.message.startswith(str(path))
        assert caught.value.hint
        assert "\n" not in caught.value.message
        return caught.value

    return refusal


# Identity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", sorted(FLOAT_DTYPES))
@settings(FILES, max_examples=20)
@given(data=st.data())
def test_writing_and_reading_is_the_identity(data, dtype, patches, path):
    patch = data.draw(patches(dtype=dtype))
    content = encode(patch)
    path.write_bytes(content)
    read = read_patch(path)
    assert read == patch
    assert encode(read) == content
    assert (read == patch.invert()) is False


def test_one_patch_of_everything(patch, path):
    patch.save(path)
    assert read_patch(path) == patch
    document, tensors = _open(path)
    assert [(s["on"], s["kind"], s["dtype"]) for s in document["edits"]] == [
        *(("weights", kind, "BF16") for kind in ("add", "scale", "set", "zero")),
        ("units", "scale", "BF16"),
        ("units", "steer", "F32"),
    ]
    assert {tensors["edits.0.row"].dtype, tensors["edits.0.layer"].dtype} == {np.dtype(np.uint8)}
    assert tensors["edits.4.before"].shape == (4, 12)
    assert "edits.5.before" not in tensors


@pytest.mark.parametrize("layers", [[1], {"sparse": 1}, {"sparse": ["a"]}, {"sparse": [True]}])
def test_layers_of_a_kind_are_lists_of_numbers(refusal, layers):
    found = refusal(lambda document, _: document["architecture"].update(layers=layers))
    assert "metadata field 'layers' is not" in found.message


def test_bases_of_mixed_formats_get_sections_of_their_own(make_layout, make_base, make_patch, path):
    layout = make_layout("llama")
    base = make_base(layout, "BF16")
    base |= {m: w.astype(np.float32) for m, w in base.items() if m.layer == 1}
    patch = make_patch(layout, base=base, kinds=("set",), inverted=True)
    patch.save(path)
    assert read_patch(path) == patch
    assert [section["dtype"] for section in _open(path)[0]["edits"]] == ["BF16", "F32"]


def test_experts_stacks_and_wide_indices(path):
    """Of an architecture that this version does not know; only coordinates can be checked."""

    def weights(stack, expert, row):
        matrix = MatrixId(stack, 3, expert, "up")
        one = np.ones(1, dtype=np.float16)
        return WeightEdit(matrix, "set", np.array([row]), np.array([70_000]), one, one)

    def units(stack, width):
        before = np.ones((2, width), dtype=np.float32)
        factors = np.ones(2, dtype=np.float32)
        return UnitEdit(BlockId(stack, 0), "scale", np.array([1, 2]), factors, before)

    patch = NeuronPatch(
        PatchMetadata(Signature("mixture9", {})),
        (weights("decoder", -1, 5), weights("decoder", 300, 6), weights("encoder", 2, 2**31 - 1)),
        (units("decoder", 4), units("encoder", 6)),
    )
    patch.save(path)
    assert read_patch(path) == patch
    document, tensors = _open(path)
    assert [section["count"] for section in document["edits"]] == [1, 2, 2, 2]
    assert tensors["edits.1.expert"].tolist() == [300, 2]
    assert tensors["edits.1.row"].dtype == np.uint32
    assert tensors["edits.1.column"].dtype == np.uint32
    assert tensors["edits.1.stack"].tolist() == [STACKS.index("decoder"), STACKS.index("encoder")]


def test_an_empty_patch(make_layout, path):
    patch = NeuronPatch(PatchMetadata(make_layout("gpt2").signature))
    patch.save(path)
    assert read_patch(path) == patch
    assert len(patch) == 0


_MAKE = """
import numpy as np, hashlib
from neuropatch.models.coordinates import MatrixId
from neuropatch.models.layout import Signature
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.format import encode
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
edits = tuple(
    WeightEdit(MatrixId("decoder", i, -1, r), "zero", np.arange(3), np.arange(3), np.ones(3))
    for i in range(3) for r in {"gate", "up", "down", "q"}
)
versions = {name: "1" for name in {"torch", "numpy", "neuropatch", "transformers"}}
metadata = PatchMetadata(Signature("other", {"layers": 3}), versions=versions)
print(hashlib.sha256(encode(NeuronPatch(metadata, edits))).hexdigest())
import sys; assert "torch" not in sys.modules
"""


def test_the_bytes_do_not_depend_on_hashing_and_need_no_torch():
    """Sets of texts come in another order in every process."""
    found = {
        subprocess.run(
            [sys.executable, "-c", _MAKE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_a_large_patch_is_read_without_python_loops(make_layout, path):
    """A million weights; anything per weight in Python would take minutes and gigabytes."""
    layout = make_layout("llama", hidden_size=1024, intermediate_size=1024)
    flat = np.arange(0, 1024 * 1024, 2)
    values = np.ones(len(flat), dtype=np.float32)
    edits = tuple(
        WeightEdit(
            MatrixId("decoder", 0, -1, role), "set", flat // 1024, flat % 1024, values, values
        )
        for role in ("gate", "up")
    )
    patch = NeuronPatch(PatchMetadata(layout.signature), edits)
    patch.save(path)
    # Two index bytes for each of row and column, one for stack, layer and role, two floats.
    assert path.stat().st_size < len(patch) * 15 + 4096
    assert read_patch(path) == patch


# Versions and kinds --------------------------------------------------------------------------


def test_a_newer_major_version_is_refused_with_what_it_needs(refusal):
    error = refusal(lambda document, _: document.update(format_version="2.0"))
    assert "has patch format 2.0; this neuropatch reads 1.x" in error.message
    assert "reads patch format 2.0" in error.hint


def test_a_newer_minor_version_may_say_more(patch, path):
    path.write_bytes(encode(patch))
    document, tensors = _open(path)
    document |= {"format_version": "1.7", "signed_by": ["someone"]}
    _close(path, document, tensors)
    assert read_patch(path) == patch


@pytest.mark.parametrize(
    "version", [None, 1, 1.0, "1", "1.0.0", "1.x", "", "9" * 5000 + ".0", "１.0"]
)
def test_an_unreadable_version_is_refused(version, refusal):
    error = refusal(lambda document, _: document.update(format_version=version))
    assert "no readable format version" in error.message


@pytest.mark.parametrize(
    ("section", "change", "why"),
    [
        (0, {"kind": "prune"}, "unknown edit kind 'prune' on weights"),
        (0, {"kind": "steer"}, "unknown edit kind 'steer' on weights"),
        (4, {"kind": "zero"}, "unknown edit kind 'zero' on units"),
        (0, {"kind": ["add"]}, "unknown edit kind"),
        (0, {"on": "heads"}, "edits 'heads', which this version does not know"),
        (0, {"on": {}}, "edits {}"),
    ],
)
def test_an_unknown_kind_of_edit_is_refused_with_what_it_needs(section, change, why, refusal):
    def damage(document, _):
        document["edits"][section].update(change)
        document["format_version"] = "1.4"

    error = refusal(damage)
    assert why in error.message
    assert "reads patch format 1.4" in error.hint


@pytest.mark.parametrize("field", ["stacks", "roles"])
@pytest.mark.parametrize("value", [None, [], ["decoder"], {"decoder": 0}, [*ROLES, "router"]])
def test_unknown_codes_of_stacks_and_roles_are_refused(field, value, refusal):
    error = refusal(lambda document, _: document.update({field: value}))
    assert "which this version does not know" in error.message


# Damage --------------------------------------------------------------------------------------


def test_what_is_no_patch(path, tmp_path):
    with pytest.raises(PatchFormatError, match="no such file"):
        read_patch(path)
    path.write_bytes(serialize({"w": np.ones(3)}, {"format": "pt"}))
    with pytest.raises(PatchFormatError, match="but not a neuron patch"):
        read_patch(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(PatchFormatError, match="not a valid safetensors file"):
        read_patch(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": ' + "7" * 5000 + "}",
        '{"format_version": "1.0", "format_version": "1.0"}',
        '{"a": "\\ud800"}',
    ],
)
def test_metadata_that_is_not_strict_json_is_refused(text, path):
    path.write_bytes(serialize({}, {METADATA_KEY: text}))
    with pytest.raises(PatchFormatError, match="metadata is not readable JSON"):
        read_patch(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 3) for name in ("architecture", "base_model", "method", "versions", "kernels")),
        *((name, None) for name in ("architecture", "base_model", "method", "versions", "kernels")),
        ("datasets", {}),
        ("datasets", [3]),
        ("license", 3),
        ("evaluation", []),
        ("versions", {"torch": 2}),
        ("base_model", {"name": 3, "revision": None}),
        ("architecture", {"model_type": None, "dimensions": {}}),
        ("architecture", {"model_type": "evil\x1b[2J", "dimensions": {}}),
        ("architecture", {"model_type": "llama", "dimensions": {"layers": True}}),
        ("architecture", {"model_type": "llama", "dimensions": {"layers": 2.0}}),
        ("architecture", {"model_type": "llama", "dimensions": {"layers": 2}}),
        ("inverted", 0),
        ("inverted", None),
        ("edits", {}),
        ("edits", None),
        ("edits", [None]),
        ("edits", []),
    ],
)
def test_metadata_of_the_wrong_type_is_refused(field, value, refusal):
    refusal(lambda document, _: document.update({field: value}))


@pytest.mark.parametrize("size", [-1, 0, 2**31, 10**300])
def test_hostile_sizes_in_the_signature_are_refused(size, refusal):
    def damage(document, _):
        document["architecture"]["dimensions"]["hidden"] = size

    assert "which is not a size" in refusal(damage).message


def _set(name, change):
    def damage(_, tensors):
        tensors[name] = change(tensors[name].copy())

    return damage


def _section(number, **change):
    return lambda document, _: document["edits"][number].update(change)


def _at(index, value):
    def change(column):
        column[index] = value
        return column

    return change


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_section(0, count=41), "missing, empty or not 41 long"),
        (_section(0, count=None), "missing, empty or not None long"),
        (_section(0, count="42"), "missing, empty or not '42' long"),
        (_section(0, count=10**4000), "missing, empty or not"),
        (_section(0, columns=5), "has the columns 5"),
        (_section(0, columns=True), "has the columns True"),
        (_section(0, columns={}), "has the columns {}"),
        (_section(0, columns=["row"]), "has the columns"),
        (_section(0, dtype="F32"), "claims values in 'F32' but holds BF16"),
        (_section(0, dtype=None), "claims values in None"),
        (_section(3, kind="add"), "has the columns"),
        (lambda _, tensors: tensors.pop("edits.0.row"), "'row' is missing"),
        (lambda _, tensors: tensors.update(extra=np.ones(2)), "tensors that no edit names"),
        (lambda document, _: document["edits"].pop(), "tensors that no edit names"),
        (lambda document, _: document["edits"].append(document["edits"][0]), "section 6"),
        (_set("edits.0.row", lambda c: c.astype(np.float32)), "'row' holds no indices"),
        (_set("edits.0.row", lambda c: c[:, None]), "'row' holds no indices"),
        (_set("edits.0.row", lambda c: c[:-1]), "'row' is missing, empty or not 42"),
        (_set("edits.0.row", lambda c: c[0]), "'row' is missing, empty or not 42"),
        (_set("edits.0.layer", lambda c: _at(-1, 2**31)(c.astype(np.uint32))), "beyond any model"),
        (_set("edits.0.layer", lambda c: _at(-1, 2**63)(c.astype(np.uint64))), "beyond any model"),
        (_set("edits.0.layer", _at(-1, 2)), "no matrix decoder.2.o"),
        (_set("edits.0.stack", _at(-1, 1)), "no encoder stack"),
        (_set("edits.0.stack", _at(-1, 2)), "'stack' has an index beyond"),
        (_set("edits.0.role", _at(-1, len(ROLES))), "'role' has an index beyond"),
        (_set("edits.0.row", _at(-1, 255)), "lies outside 12 x 24"),
        (_set("edits.0.layer", lambda c: c[::-1].copy()), "not sorted, or occur twice"),
        (_set("edits.0.row", lambda c: c * 0), "not sorted, or occur twice"),
        (_set("edits.4.unit", _at(1, 0)), "not sorted, or occur twice"),
        (_set("edits.0.value", _at(3, np.nan)), "'value' holds NaN"),
        (_set("edits.0.value", _at(3, 3.4e38)), "leaves the range of bfloat16"),
        (_set("edits.0.value", lambda c: c.astype(np.float64)), "'value' has dtype float64"),
        (_set("edits.0.value", lambda c: c.astype(np.uint8)), "'value' has dtype uint8"),
        (_set("edits.0.value", lambda c: c[:, None]), "'value' has shape"),
        (_set("edits.0.before", _at(3, np.inf)), "'before' holds NaN or infinite"),
        (_set("edits.4.before", lambda c: c[:, :-1].copy()), "not 12 long"),
        (_set("edits.4.before", lambda c: c[:, 0].copy()), "'before' has shape"),
    ],
)
def test_damaged_columns_are_refused(damage, why, refusal):
    assert why in refusal(damage).message


def test_one_coordinate_under_two_kinds_is_refused(refusal):
    def damage(_, tensors):
        for column in ("stack", "layer", "role", "row", "column"):
            tensors[f"edits.0.{column}"] = tensors[f"edits.1.{column}"]

    assert "a weight is edited twice" in refusal(damage).message


# Fuzz ----------------------------------------------------------------------------------------


def _sound(path):
    """Read a damaged file: a patch error, or a patch that can be written and read again."""
    try:
        patch = read_patch(path)
    except PatchFormatError:
        return
    path.write_bytes(encode(patch))
    assert read_patch(path) == patch


@pytest.fixture(scope="module")
def content(make_patch, make_layout):
    """The bytes of a small patch with every kind of edit."""
    return encode(make_patch(make_layout("llama"), units=("scale", "steer"), count=1))


@pytest.fixture(scope="module")
def parts(content, tmp_path_factory):
    """The document and the tensors of that patch."""
    path = tmp_path_factory.mktemp("format") / "patch.safetensors"
    path.write_bytes(content)
    return _open(path)


def test_every_truncation_is_refused(content, path):
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(PatchFormatError):
            read_patch(path)


@settings(FILES, max_examples=120)
@given(data=st.data())
def test_flipped_bits_give_an_error_or_a_sound_patch(data, content, path):
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    _sound(path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(FILES, max_examples=120)
@given(data=st.data())
def test_lies_in_the_document_give_an_error_or_a_sound_patch(data, parts, path):
    document, tensors = copy.deepcopy(parts)
    node = document
    while True:
        key = data.draw(
            st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))
        )
        if isinstance(node[key], (dict, list)) and node[key] and data.draw(st.booleans()):
            node = node[key]
            continue
        if isinstance(node, dict) and data.draw(st.booleans()):
            del node[key]
        else:
            node[key] = data.draw(_JSON)
        break
    _close(path, document, tensors)
    _sound(path)


@settings(FILES, max_examples=80)
@given(data=st.data())
def test_damaged_tensors_give_an_error_or_a_sound_patch(data, parts, path):
    document, tensors = copy.deepcopy(parts)
    name = data.draw(st.sampled_from(sorted(tensors)))
    column = tensors[name].copy()
    change = data.draw(st.sampled_from(["bytes", "dtype", "shape", "shorter", "order"]))
    if change == "bytes":
        raw = column.reshape(-1).view(np.uint8)
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    elif change == "dtype":
        kinds = [np.uint8, np.uint16, np.uint64, np.float16, np.float32, np.float64]
        column = column.astype(data.draw(st.sampled_from(kinds)))
    elif change == "shape":
        column = column[..., None] if data.draw(st.booleans()) else column[None]
    elif change == "shorter":
        column = column[: data.draw(st.integers(0, len(column)))]
    else:
        column = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(column)
    tensors[name] = column
    _close(path, document, tensors)
    _sound(path)
