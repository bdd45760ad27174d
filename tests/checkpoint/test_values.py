from __future__ import annotations

import os
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuropatch.checkpoint import values as module
from neuropatch.checkpoint.values import read_values, write_values
from neuropatch.errors import CheckpointError
from neuropatch.storage.dtypes import FLOAT_DTYPES
from neuropatch.storage.safetensors_file import TensorInfo

START = 13  # tensors need not be aligned in their file


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(sorted(FLOAT_DTYPES)),
    size=st.integers(1, 5000),
    share=st.floats(0.0002, 1),
    seed=st.integers(0, 2**32 - 1),
    limits=st.sampled_from([(4096, 1 << 20), (16, 64), (0, 8)]),
)
def test_writes_only_the_values_named(dtype, size, share, seed, limits):
    rng = np.random.default_rng(seed)
    kind = FLOAT_DTYPES[dtype]
    before = rng.bytes(START + size * kind.itemsize + 7)
    offsets = np.sort(rng.choice(size, max(1, int(share * size)), replace=False)).astype(np.int64)
    new = np.frombuffer(rng.bytes(len(offsets) * kind.itemsize), dtype=kind)
    info = TensorInfo("t", dtype, (size,), START, START + size * kind.itemsize)
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "GAP_BYTES", limits[0])
        patch.setattr(module, "PIECE_BYTES", limits[1])
        file.write(before)
        file.flush()
        whole = np.frombuffer(before[START : info.stop], dtype=kind).copy()
        found = read_values(file.fileno(), info, kind, offsets)
        assert found.tobytes() == whole[offsets].tobytes()
        write_values(file.fileno(), info, offsets, new)
        whole[offsets] = new
        file.seek(0)
        assert file.read() == before[:START] + whole.tobytes() + before[-7:]


def test_sparse_values_cost_their_own_bytes_only(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(bytes(1 << 20))
    written = []
    real = os.pwrite

    def spy(descriptor, data, position):
        written.append(len(data))
        return real(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", spy)
    info = TensorInfo("t", "F32", (1 << 18,), 0, 1 << 20)
    with path.open("r+b") as file:
        offsets = np.array([0, 5000, 5001, 200_000])
        write_values(file.fileno(), info, offsets, np.ones(4, dtype=np.float32))
    assert written == [4, 8, 4]


def test_a_file_that_was_cut_is_an_error(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(bytes(10))
    info = TensorInfo("block.weight", "F32", (4,), 0, 16)
    with (
        path.open("rb") as file,
        pytest.raises(CheckpointError, match=r"block\.weight.*ends at byte 10"),
    ):
        read_values(file.fileno(), info, np.dtype(np.float32), np.array([0, 3]))
