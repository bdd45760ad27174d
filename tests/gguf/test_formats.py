"""Levels of blocks: where their bits lie, and which of them is the nearest to a value."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from neuropatch.errors import CheckpointError
from neuropatch.gguf.formats import FORMATS, Quantised, format_of
from neuropatch.storage.safetensors_file import TensorInfo

QUANTISED = [name for name, form in FORMATS.items() if isinstance(form, Quantised)]


@pytest.fixture(params=QUANTISED)
def kind(request):
    return request.param


def nearest(lab, kind, block, i, target):
    """Distance of a target from the nearest value that weight ``i`` of a block can take."""
    step, lowest, count = lab.grid(kind, block, i)
    return min(abs(step * level + lowest - target) for level in range(count))


def test_levels_and_scales_are_those_of_ggml(lab, kind):
    form, blocks = FORMATS[kind], lab.blocks(kind, 3)
    levels = form.levels(blocks)
    decoded = gguf.dequantize(blocks.reshape(1, -1), form.kind).reshape(3, -1)
    for b in range(3):
        for i in range(form.weights):
            step, lowest, count = lab.grid(kind, blocks[b], i)
            assert 0 <= levels[b, i] < count == form.highest + 1
            # One rounding to float32, of values that are computed here in float64.
            expected = step * int(levels[b, i]) + lowest
            assert decoded[b, i] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_writing_levels_changes_nothing_else(lab, kind):
    form, blocks = FORMATS[kind], lab.blocks(kind, 5)
    levels = form.levels(blocks)
    rng = np.random.default_rng(1)
    others = rng.integers(0, form.highest + 1, levels.shape).astype(np.int16)
    changed = form.with_levels(blocks, others)
    assert np.array_equal(form.levels(changed), others)
    assert np.array_equal(form.with_levels(changed, levels), blocks)


def test_the_nearest_level_is_found(lab, kind):
    form, blocks = FORMATS[kind], lab.blocks(kind, 4, seed=2)
    rng = np.random.default_rng(3)
    flat = np.sort(rng.choice(4 * form.weights, 40, replace=False))
    which, inside = np.divmod(flat, form.weights)
    spread = float(np.abs(form.decode(blocks)).max())
    targets = rng.uniform(-1.5 * spread, 1.5 * spread, 40).astype(np.float32)
    targets[:5] = 0
    found = form.represent(blocks, which, inside, targets)
    new = form.put(blocks, which, inside, found.codes)
    assert np.array_equal(form.values(new, which, inside), found.values)
    assert form.others_moved(blocks, new, which, inside) == 0
    for n, target in enumerate(targets):
        step, lowest, count = lab.grid(kind, blocks[which[n]], inside[n])
        error = nearest(lab, kind, blocks[which[n]], inside[n], float(target))
        assert abs(found.values[n] - target) == pytest.approx(error, rel=1e-5, abs=1e-8)
        ends = sorted((lowest, lowest + step * (count - 1)))
        margin = abs(step) / 2
        inside_range = ends[0] - margin <= target <= ends[1] + margin
        assert found.fits[n] == inside_range


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q8_0", "Q3_K", "Q6_K"])
def test_symmetric_formats_hold_zero_exactly(lab, name):
    form, blocks = FORMATS[name], lab.blocks(name, 2)
    which, inside = np.divmod(np.arange(2 * form.weights), form.weights)
    found = form.represent(blocks, which, inside, np.zeros(len(which), dtype=np.float32))
    assert found.fits.all()
    assert not found.values.any()


def test_a_block_of_scale_zero_keeps_its_levels(lab):
    form, blocks = FORMATS["Q4_0"], lab.blocks("Q4_0", 1)
    blocks[:, :2] = 0
    which, inside = np.zeros(3, dtype=np.int64), np.array([0, 5, 31])
    found = form.represent(blocks, which, inside, np.zeros(3, dtype=np.float32))
    assert np.array_equal(form.put(blocks, which, inside, found.codes), blocks)
    assert found.fits.all()
    assert not form.represent(blocks, which, inside, np.ones(3, dtype=np.float32)).fits.any()


def test_blocks_are_handled_a_bounded_number_at_a_time(lab, kind, monkeypatch):
    form, blocks = FORMATS[kind], lab.blocks(kind, 9, seed=4)
    flat = np.arange(0, 9 * form.weights, 7)
    which, inside = np.divmod(flat, form.weights)
    targets = np.zeros(len(flat), dtype=np.float32)
    whole = form.represent(blocks, which, inside, targets)
    new = form.put(blocks, which, inside, whole.codes)
    monkeypatch.setattr("neuropatch.gguf.formats.CHUNK_WEIGHTS", 2 * form.weights)
    pieces = form.represent(blocks, which, inside, targets)
    assert np.array_equal(pieces.codes, whole.codes)
    assert np.array_equal(pieces.values, whole.values)
    assert np.array_equal(form.put(blocks, which, inside, whole.codes), new)
    assert np.array_equal(form.values(new, which, inside), whole.values)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_numbers_are_rounded_once(name):
    form = FORMATS[name]
    values = np.array([1.0, -0.1, 3.3], dtype=np.float32)
    blocks = values.astype(form.dtype).view(np.uint8).reshape(3, -1)
    which, inside = np.array([0, 2]), np.zeros(2, dtype=np.int64)
    targets = np.array([0.1, 1e-3], dtype=np.float32)
    found = form.represent(blocks, which, inside, targets)
    assert np.array_equal(found.values, targets.astype(form.dtype).astype(np.float32))
    new = form.put(blocks, which, inside, found.codes)
    assert np.array_equal(form.values(new, which, inside), found.values)
    assert np.array_equal(new[1], blocks[1])


def test_a_value_beyond_half_precision_does_not_fit():
    form = FORMATS["F16"]
    zero = np.zeros(1, dtype=np.int64)
    blocks = np.zeros((1, 2), dtype=np.uint8)
    assert not form.represent(blocks, zero, zero, np.array([1e6], dtype=np.float32)).fits.any()


def test_other_formats_are_refused_by_name():
    with pytest.raises(CheckpointError, match="'w' is stored as IQ4_NL"):
        format_of(TensorInfo("w", "IQ4_NL", (32,), 0, 18))
