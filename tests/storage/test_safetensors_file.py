"""Reading untrusted safetensors headers, and writing canonical files."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuropatch.errors import CheckpointError, NeuropatchError
from neuropatch.storage import safetensors_file
from neuropatch.storage.dtypes import FLOAT_DTYPES, INTEGER_DTYPES, bits
from neuropatch.storage.safetensors_file import parse_json, read_array, read_header, serialize

DTYPES = FLOAT_DTYPES | INTEGER_DTYPES
FILES = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def _file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def refusal(write):
    """The message with which a file of some bytes is refused."""

    def refusal(content):
        path = write(content)
        with pytest.raises(CheckpointError) as caught:
            read_header(path)
        assert caught.value.message.startswith(f"{path} is not a valid safetensors file: ")
        assert caught.value.hint
        assert "\n" not in caught.value.message
        return caught.value.message

    return refusal


# Round trips ---------------------------------------------------------------------------------


@st.composite
def _tensors(draw):
    names = draw(st.lists(st.text(max_size=6).filter(_is_utf8), max_size=5, unique=True))
    tensors = {}
    for name in names:
        if name == "__metadata__":
            continue
        dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        raw = draw(st.binary(min_size=(n := int(np.prod(shape)) * dtype.itemsize), max_size=n))
        tensors[name] = np.frombuffer(raw, dtype=dtype).reshape(shape)
    return tensors


def _is_utf8(text):
    return not any(0xD800 <= ord(letter) < 0xE000 for letter in text)


@FILES
@given(
    tensors=_tensors(), metadata=st.dictionaries(st.text(max_size=5).filter(_is_utf8), st.text())
)
def test_writing_and_reading_is_the_identity(tensors, metadata, tmp_path):
    metadata = {key: value for key, value in metadata.items() if _is_utf8(value)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(serialize(tensors, metadata))
    header = read_header(path)
    assert header.metadata == metadata
    assert set(header.tensors) == set(tensors)
    for name, array in tensors.items():
        info = header.tensors[name]
        read = read_array(path, info)
        assert read.dtype == array.dtype
        assert read.shape == array.shape == info.shape
        assert info.numel == array.size
        assert (bits(read) == bits(array)).all()
        assert read.flags.writeable
        # Aligned, so that a reader may map the file.
        assert (info.start - header.data_start) % array.dtype.itemsize == 0
    assert header.data_start % 8 == 0


@FILES
@given(tensors=_tensors())
def test_the_bytes_depend_on_the_content_alone(tensors):
    metadata = {"b": "1", "a": "2"}
    again = dict(reversed(tensors.items()))
    assert serialize(tensors, metadata) == serialize(again, dict(reversed(metadata.items())))


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_the_library_reads_what_we_write(name, tmp_path):
    values = np.random.default_rng(0).integers(0, 100, (3, 4)).astype(DTYPES[name])
    path = tmp_path / "x.safetensors"
    path.write_bytes(serialize({"a": values, "b": values[:0]}, {"key": "värde"}))
    loaded = safetensors.torch.load_file(path)
    assert loaded["a"].shape == (3, 4)
    assert loaded["b"].shape == (0, 4)
    assert loaded["a"].contiguous().view(torch.uint8).numpy().tobytes() == values.tobytes()
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"key": "värde"}


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_we_read_what_the_library_writes(name, tmp_path):
    values = np.random.default_rng(0).integers(0, 100, (3, 4)).astype(DTYPES[name])
    torch_dtype = safetensors.torch._TYPES[name]
    tensor = torch.from_numpy(values.view(np.uint8).copy()).view(torch_dtype)
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(
        {"a": tensor, "zzz": torch.zeros(5, dtype=torch.int8), "empty": tensor[:0]},
        path,
        {"format": "pt"},
    )
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    assert header.tensors["a"].dtype == name
    read = read_array(path, header.tensors["a"])
    assert read.dtype == values.dtype
    assert read.tobytes() == values.tobytes()
    assert read_array(path, header.tensors["empty"]).shape == (0, 4)
    with pytest.raises(CheckpointError, match="'zzz' has the unexpected dtype 'I8'"):
        read_array(path, header.tensors["zzz"])


def test_a_format_from_the_future_may_lie_untouched(write):
    header = {"new": _entry(0, 3, [5], "F5_NEW"), "old": _entry(3, 11)}
    tensors = read_header(write(_file(header, bytes(11)))).tensors
    assert (tensors["new"].dtype, tensors["new"].stop - tensors["new"].start) == ("F5_NEW", 3)


# Damage --------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path, write):
    for path in (tmp_path / "absent", tmp_path, write(b"") / "below"):
        with pytest.raises(CheckpointError, match="no such file"):
            read_header(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "0 bytes long"),
        (b"1234567", "7 bytes long"),
        (bytes(8), "not readable JSON"),
        ((2**63).to_bytes(8, "little"), "more than the limit"),
        ((10**8).to_bytes(8, "little") + b"{}", "claims 100000000 bytes but 2 follow"),
        (_file(b"{"), "not readable JSON"),
        (_file(b"\xff{}"), "not readable JSON"),
        (_file(b"\xef\xbb\xbf{}"), "not readable JSON"),
        (_file(b"[]"), "it is not an object"),
        (_file(b"null"), "it is not an object"),
        (_file(b"[" * 200_000), "nested too deeply"),
        (_file(b'{"a":' * 200_000), "nested too deeply"),
        (_file(b'{"a": NaN}'), "NaN is no JSON number"),
        (_file(b'{"a": 1e999}'), "not readable JSON"),
        (_file(b'{"\\ud800": 1}'), "surrogates not allowed"),
        (_file(b'{"a": ' + b"9" * 5000 + b"}"), "not readable JSON"),
        (_file(b'{"a": 1, "a": 1}'), "a name occurs twice"),
        (_file({}, b"1"), "1 bytes follow the last tensor"),
        (_file({"__metadata__": []}), "metadata is not a map"),
        (_file({"__metadata__": {"a": 1}}), "metadata is not a map"),
        (_file({"a": []}), "entry of tensor 'a' is malformed"),
        (_file({"a": {"dtype": "F32"}}), "entry of tensor 'a' is malformed"),
        (_file({"a": {**_entry(), "more": 1}}, bytes(8)), "entry of tensor 'a' is malformed"),
        (_file({"a": _entry(dtype=1)}, bytes(8)), "dtype of tensor 'a' is not text"),
        (_file({"a": _entry(shape=[1] * 65)}, bytes(8)), "shape of tensor 'a'"),
        (_file({"a": {**_entry(), "shape": 2}}, bytes(8)), "shape of tensor 'a'"),
        (_file({"a": {**_entry(), "data_offsets": [0]}}, bytes(8)), "offsets of tensor 'a'"),
        (_file({"a": {**_entry(), "data_offsets": {}}}, bytes(8)), "offsets of tensor 'a'"),
        (_file({"a": _entry(4, 0)}, bytes(8)), "lies at 4..0"),
        (_file({"a": _entry(0, 16)}, bytes(8)), "lies at 0..16 but the data is 8 bytes"),
        (_file({"a": _entry(shape=[3])}, bytes(8)), r"F32 \[3\] does not fill its 8 bytes"),
        (_file({"a": _entry(shape=[2**62, 2**62, 2])}, bytes(8)), "does not fill"),
        (_file({"a": _entry(dtype="F4", shape=[15])}, bytes(8)), "does not fill"),
        (_file({"a": _entry(), "b": _entry()}, bytes(8)), "overlaps another"),
        (_file({"a": _entry(), "b": _entry(4, 12)}, bytes(12)), "overlaps another"),
        (_file({"a": _entry(), "b": _entry(12, 20)}, bytes(20)), "leaves a gap"),
        (_file({"a": _entry(4, 12)}, bytes(12)), "leaves a gap"),
        (_file({"a": _entry(), "b": _entry(4, 4, [0])}, bytes(8)), "overlaps another"),
        (_file({"\x1b[2J\n": _entry(4, 12)}, bytes(12)), r"tensor '\\x1b\[2J\\n' overlaps"),
    ],
)
def test_a_damaged_file_is_refused(content, why, refusal):
    assert re.search(why, refusal(content))


@pytest.mark.parametrize("size", [-1, True, 1.0, "1", None, 2**63, 10**400, [1]])
@pytest.mark.parametrize("field", ["shape", "data_offsets"])
def test_a_size_that_is_no_size_is_refused(size, field, refusal):
    entry = _entry(0, 8)
    entry[field] = [size, *entry[field][1:]]
    assert f"{'shape' if field == 'shape' else 'offsets'} of tensor 'a'" in refusal(
        _file({"a": entry}, bytes(8))
    )


def test_a_header_past_the_limit_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    path.write_bytes(serialize({}, {"key": "v" * 100}))
    monkeypatch.setattr(safetensors_file, "MAX_HEADER_BYTES", 100)
    with pytest.raises(CheckpointError, match="more than the limit"):
        read_header(path)


def test_a_tensor_cut_off_after_the_header_was_read_is_refused(write):
    path = write(_file({"a": _entry()}, bytes(8)))
    info = read_header(path).tensors["a"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="'a' is cut off"):
        read_array(path, info)


_GOOD = serialize(
    {
        "edits.0.row": np.arange(5, dtype=np.uint8),
        "w": np.ones((2, 3), np.float32),
        "h": np.ones(3, np.float16),
    },
    {"format": "pt", "name": "ü"},
)


@pytest.mark.parametrize("length", range(0, len(_GOOD), 3))
def test_every_truncation_is_refused(length, refusal):
    refusal(_GOOD[:length])


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_damage_gives_an_error_or_a_sound_header(data, tmp_path):
    content = bytearray(_GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    try:
        header = read_header(path)
    except NeuropatchError:
        return
    position = header.data_start
    for info in sorted(header.tensors.values(), key=lambda info: info.start):
        assert position <= info.start <= info.stop <= header.file_size == len(content)
        position = info.stop
        if info.dtype in DTYPES:
            assert read_array(path, info).shape == info.shape


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    header=st.dictionaries(
        st.sampled_from(["a", "__metadata__"]),
        _JSON
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F4", "U8", "?"]) | _JSON,
                "shape": st.lists(st.integers(-1, 3) | _JSON, max_size=3) | _JSON,
                "data_offsets": st.lists(st.integers(-1, 9), min_size=2, max_size=2) | _JSON,
            }
        ),
    )
)
def test_any_header_gives_an_error_or_a_sound_header(header, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(_file(header, bytes(8)))
    try:
        found = read_header(path)
    except NeuropatchError:
        return
    assert all(
        len(info.shape) <= 64 and info.stop <= found.file_size for info in found.tensors.values()
    )


@settings(max_examples=50, deadline=None)
@given(document=st.dictionaries(st.text(max_size=4), _JSON))
def test_strict_json_can_be_written_again(document):
    try:
        parsed = parse_json(json.dumps(document))
    except ValueError:
        with pytest.raises(ValueError, match=r"(?s)."):
            json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        return
    assert parse_json(json.dumps(parsed, ensure_ascii=False, allow_nan=False)) == document
