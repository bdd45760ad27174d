"""Small random GGUF files of every format, and what they hold by ggml's own words."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from neuropatch.gguf.file import GgufFile
from neuropatch.gguf.names import GgufModel
from neuropatch.models.coordinates import ROLES, MatrixId
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch

TYPES = gguf.GGMLQuantizationType

SIZES = {
    "block_count": 2,
    "embedding_length": 256,
    "feed_forward_length": 512,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "context_length": 64,
}
SHAPES = {
    "ffn_gate": (512, 256), "ffn_up": (512, 256), "ffn_down": (256, 512), "attn_q": (256, 256),
    "attn_k": (128, 256), "attn_v": (128, 256), "attn_output": (256, 256),
}  # fmt: skip
NAMES = dict(zip(ROLES, SHAPES, strict=True))

HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82),
    "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,),
}  # fmt: skip
"""Where the blocks of a type hold their scales (and minimums) in half precision."""

RATIOS = {"Q4_1": (-13, -2), "Q5_1": (-29, -2)}
"""Minimum over scale: blocks of real models hold values of both signs."""

SCALES = {"Q2_K": (0, 16), "Q4_K": (4, 16), "Q5_K": (4, 16)}

PLAIN = ("F32", "F16", "BF16")
QUANTISED = tuple(name for name in HALVES if name != "IQ4_NL")


def half(data, place):
    return float(np.frombuffer(bytes(data[place : place + 2]), dtype=np.float16)[0])


def six_bits(scales, j):
    """Scale and minimum of part ``j``: ``get_scale_min_k4`` of ggml-quants.c."""
    if j < 4:
        return scales[j] & 63, scales[j + 4] & 63
    low = scales[j + 4]
    return (low & 15) | (scales[j - 4] >> 6) << 4, (low >> 4) | (scales[j] >> 6) << 4


def grid(kind, block, i):
    """Step, smallest value and number of the levels of weight ``i``, from ggml-quants.c."""
    block = [int(byte) for byte in block]
    if kind in ("Q4_0", "Q5_0", "Q8_0"):
        d = half(block, 0)
        bits = {"Q4_0": 4, "Q5_0": 5, "Q8_0": 8}[kind]
        return d, -(1 << bits - 1) * d, 1 << bits
    if kind in ("Q4_1", "Q5_1"):
        return half(block, 0), half(block, 2), {"Q4_1": 16, "Q5_1": 32}[kind]
    if kind == "Q2_K":
        scale = block[i // 16]
        return half(block, 80) * (scale & 15), -half(block, 82) * (scale >> 4), 4
    if kind == "Q3_K":
        j, packed = i // 16, block[96:108]
        low = packed[j % 8] >> 4 if j >= 8 else packed[j] & 15
        scale = (low | (packed[8 + j % 4] >> 2 * (j // 4) & 3) << 4) - 32
        return half(block, 108) * scale, -4 * half(block, 108) * scale, 8
    if kind in ("Q4_K", "Q5_K"):
        scale, minimum = six_bits(block[4:16], i // 32)
        levels = 16 if kind == "Q4_K" else 32
        return half(block, 0) * scale, -half(block, 2) * minimum, levels
    scale = block[192 + i // 16]
    step = half(block, 208) * (scale - 256 if scale > 127 else scale)
    return step, -32 * step, 64


class Lab:
    """Writes files, makes patches of them, and looks at them the plain way."""

    grid = staticmethod(grid)
    sizes = SIZES
    shapes = SHAPES
    names = NAMES
    plain = PLAIN
    quantised = QUANTISED

    def blocks(self, kind, count, seed=0):
        """Random blocks: any levels and small scales, and scales of plausible size over them."""
        rng = np.random.default_rng(seed)
        size = gguf.GGML_QUANT_SIZES[TYPES[kind]][1]
        blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
        scale = rng.uniform(0.5e-3, 2e-3, count)
        values = [scale, scale * rng.uniform(*RATIOS.get(kind, (0.02, 0.2)), count)]
        if len(HALVES[kind]) == 1:
            scale *= rng.choice([-1, 1], count)
        for place, halves in zip(HALVES[kind], values, strict=False):
            blocks[:, place : place + 2] = halves.astype(np.float16).view(np.uint8).reshape(-1, 2)
        if kind in SCALES:
            # A part of scale 0 has one value only, and no quantiser makes one that is not 0.
            blocks[:, slice(*SCALES[kind])] |= 0x11
        return blocks

    def tensor(self, kind, shape, seed=0):
        """A random tensor as GGUFWriter takes it."""
        if kind in PLAIN:
            values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
            return gguf.quantize(values, TYPES[kind])
        block, size = gguf.GGML_QUANT_SIZES[TYPES[kind]]
        blocks = self.blocks(kind, int(np.prod(shape)) // block, seed)
        return blocks.reshape(shape[0], shape[1] // block * size)

    def write(
        self, path, kind="Q4_0", *, arch="llama", layers=1, sizes=(), other=(), skip=(), seed=0
    ):
        """A file whose matrices are of one type; ``other`` types by the name of a tensor."""
        writer = gguf.GGUFWriter(path, arch)
        for key, value in {**SIZES, "block_count": layers, **dict(sizes)}.items():
            writer.add_uint32(f"{arch}.{key}", value)
        writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(32)])
        embeddings = np.random.default_rng(seed).standard_normal((32, 256)).astype(np.float32)
        writer.add_tensor("token_embd.weight", embeddings)
        writer.add_tensor("output_norm.weight", np.ones(256, dtype=np.float32))
        for layer in range(layers):
            for number, (name, shape) in enumerate(SHAPES.items()):
                name = f"blk.{layer}.{name}.weight"
                this = dict(other).get(name, kind)
                data = self.tensor(this, shape, seed=seed + 100 * layer + number)
                if name not in skip:
                    writer.add_tensor(name, data, raw_dtype=TYPES[this])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def decoded(self, path):
        """Every matrix tensor by name, decoded whole by the gguf package."""
        return {t.name: self._values(t) for t in gguf.GGUFReader(path).tensors if "blk." in t.name}

    def _values(self, tensor):
        # As one row: the package goes through rows in Python.
        data = np.array(tensor.data).reshape(1, -1)
        return gguf.dequantize(data, tensor.tensor_type).reshape(tensor.shape.tolist()[::-1])

    def matrix(self, path, matrix):
        """A matrix ``[out, in]`` in the order of transformers, float32."""
        place = GgufModel.bind(GgufFile.open(path)).locate(matrix)
        (tensor,) = (t for t in gguf.GGUFReader(path).tensors if t.name == place.info.name)
        rows, columns = np.indices(place.shape).reshape(2, -1)
        values = self._values(tensor).reshape(-1)[place.positions(rows, columns)]
        return values.reshape(place.shape)

    def edit(self, path, role, kind, flat, value=None, *, layer=0, before=None):
        """An edit of weights at flat positions of a matrix."""
        matrix = MatrixId("decoder", layer, -1, role)
        weights = self.matrix(path, matrix)
        flat = np.unique(np.asarray(flat, dtype=np.int64))
        rows, columns = np.divmod(flat, weights.shape[1])
        before = weights[rows, columns] if before is None else before
        if kind == "zero":
            return WeightEdit(matrix, kind, rows, columns, before)
        parameter = np.broadcast_to(np.float32(value), before.shape).copy()
        return WeightEdit(matrix, kind, rows, columns, before, parameter)

    def patch(self, path, *edits):
        """A patch of a file."""
        layout = GgufModel.bind(GgufFile.open(path)).layout
        return NeuronPatch(PatchMetadata(layout.signature), edits)


@pytest.fixture(scope="session")
def lab():
    return Lab()


@pytest.fixture
def model(lab, tmp_path):
    """A small model in Q4_1."""
    return lab.write(tmp_path / "model.gguf", "Q4_1")
