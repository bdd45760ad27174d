"""Headers of GGUF files: read like the gguf package does, and trusted in nothing."""

from __future__ import annotations

import struct

import gguf
import numpy as np
import pytest

from neuropatch.errors import CheckpointError
from neuropatch.gguf.file import GgufFile


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def claim(name, dimensions, kind=0, offset=0):
    rank = struct.pack("<I", len(dimensions))
    sizes = b"".join(struct.pack("<Q", d) for d in dimensions)
    return text(name) + rank + sizes + struct.pack("<IQ", kind, offset)


def document(entries=(), claims=(), *, data=64, version=3, counts=None):
    """The bytes of a file; tensors lie from the next multiple of 32 on."""
    tensors, pairs = counts or (len(claims), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + b"".join([*entries, *claims])
    return head + bytes(-len(head) % 32 + data)


@pytest.fixture
def opened(tmp_path):
    def open_(content):
        path = tmp_path / "m.gguf"
        path.write_bytes(content)
        return GgufFile.open(path)

    return open_


@pytest.fixture
def refused(opened):
    def check(content, *words):
        with pytest.raises(CheckpointError) as caught:
            opened(content)
        assert "\n" not in caught.value.message
        for word in words:
            assert word in caught.value.message
        assert caught.value.hint

    return check


@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q6_K"])
def test_agrees_with_the_reader_of_the_package(lab, tmp_path, kind):
    path = lab.write(tmp_path / "m.gguf", kind, layers=2)
    file, reader = GgufFile.open(path), gguf.GGUFReader(path)
    assert len(file.tensors) == len(reader.tensors) == 16
    for tensor in reader.tensors:
        info = file.tensors[tensor.name]
        assert info.dtype == tensor.tensor_type.name
        assert info.shape == tuple(tensor.shape.tolist()[::-1])
        assert (info.start, info.stop - info.start) == (tensor.data_offset, tensor.n_bytes)
    assert file.metadata["general.architecture"] == "llama"
    assert file.metadata["llama.embedding_length"] == 256
    assert file.lengths == {"tokenizer.ggml.tokens": 32}
    assert file.size == path.stat().st_size


def test_every_kind_of_metadata_is_passed(opened):
    entries = [
        entry("general.alignment", 4, struct.pack("<I", 64)),
        entry("long", 8, text("x" * (1 << 16))),
        entry("short", 8, text("é")),
        entry("truth", 7, b"\x01"),
        entry("number", 12, struct.pack("<d", 0.5)),
        entry("texts", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b" * 70000)),
        entry("numbers", 9, struct.pack("<IQ", 3, 3) + bytes(6)),
    ]
    file = opened(document(entries, [claim("w", [4, 2])], data=128))
    assert file.metadata["short"] == "é"
    assert file.metadata["long"] == ""
    assert file.metadata["truth"] is True
    assert file.metadata["number"] == 0.5
    assert file.lengths == {"texts": 2, "numbers": 3}
    assert file.tensors["w"].shape == (2, 4)
    assert file.tensors["w"].start % 64 == 0


class TestRefused:
    def test_what_is_no_gguf_file(self, refused, tmp_path):
        refused(b"", "does not begin like one")
        refused(b"GGML" + bytes(60), "does not begin like one")
        with pytest.raises(CheckpointError, match="cannot be read: No such file"):
            GgufFile.open(tmp_path / "none.gguf")

    @pytest.mark.parametrize("version", [1, 4, 3 << 24])
    def test_versions(self, refused, version):
        words = ["big-endian"] if version > 4 else []
        refused(document(version=version), f"version {version}", *words)

    def test_counts(self, refused):
        refused(document(counts=(1 << 60, 0)), f"claims {1 << 60} tensors")
        refused(document(counts=(0, 1 << 63)), f"{1 << 63} entries")
        refused(document([], [claim("w", [4])], counts=(2, 0)), "0 bytes long")

    def test_lengths(self, refused):
        refused(document([struct.pack("<Q", 1 << 62)], counts=(0, 1)), "name", str(1 << 62))
        refused(document([entry("k", 8, struct.pack("<Q", 1 << 62))]), "runs past the end")
        refused(document([entry("k", 8, struct.pack("<Q", 1000))]), "runs past the end")
        refused(document([text("")], counts=(0, 1)), "0 bytes long")

    def test_arrays(self, refused):
        refused(document([entry("k", 9, struct.pack("<IQ", 8, 1 << 60))]), "list of")
        refused(document([entry("k", 9, struct.pack("<IQ", 10, 1 << 61))]), "runs past the end")
        refused(document([entry("k", 9, struct.pack("<IQ", 9, 1))]), "value of type 9")
        refused(document([entry("k", 99, b"")]), "value of type 99")

    def test_names(self, refused):
        refused(document([entry("a", 7, b"\0")] * 2), "'a' twice")
        refused(document([entry(b"\xff", 7, b"\0")]), "UTF-8")
        refused(document([], [claim("w", [4]), claim("w", [4], offset=32)]), "two tensors")

    @pytest.mark.parametrize("value", [0, 24, 1 << 31])
    def test_alignment(self, refused, value):
        bad = entry("general.alignment", 4, struct.pack("<I", value))
        refused(document([bad], [claim("w", [4], offset=1)]), "")

    @pytest.mark.parametrize(
        ("dimensions", "kind", "offset", "word"),
        [
            ([], 0, 0, "dimensions []"),
            ([0], 0, 0, "dimensions [0]"),
            ([48], 2, 0, "Q4_0 has the dimensions [48]"),
            ([1, 1, 1, 1, 1], 0, 0, "5 dimensions"),
            ([4], 0, 8, "lies at"),
            ([4], 0, 64, "lies at"),
            ([1 << 63, 1 << 63], 0, 0, "lies at"),
            ([4], 0, 1 << 63, "lies at"),
            ([4], 77, 0, "type 77, which is not known"),
        ],
    )
    def test_tensors(self, refused, dimensions, kind, offset, word):
        refused(document([], [claim("w", dimensions, kind, offset)]), word)

    def test_overlaps(self, refused):
        refused(document([], [claim("a", [16]), claim("b", [4], offset=32)]), "'b' overlaps")

    def test_every_cut_of_a_header(self, refused, lab, tmp_path):
        path = lab.write(tmp_path / "whole.gguf", "Q4_0")
        content = path.read_bytes()
        first = min(info.start for info in GgufFile.open(path).tensors.values())
        for length in [*range(0, first, 61), len(content) - 33]:
            refused(content[:length])

    def test_random_damage_never_escapes(self, opened, lab, tmp_path):
        content = lab.write(tmp_path / "whole.gguf", "Q4_0").read_bytes()
        first = min(i.start for i in GgufFile.open(tmp_path / "whole.gguf").tensors.values())
        rng = np.random.default_rng(0)
        outcomes = set()
        for _ in range(150):
            damaged = bytearray(content)
            for place in rng.integers(0, first, 3):
                damaged[place] = rng.integers(0, 256)
            try:
                opened(bytes(damaged))
                outcomes.add("opened")
            except CheckpointError:
                outcomes.add("refused")
        assert outcomes == {"opened", "refused"}
