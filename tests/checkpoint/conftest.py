"""Small random checkpoints and patches of them, written without transformers."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from neuropatch.checkpoint.index import Checkpoint
from neuropatch.models.coordinates import ROLES, MatrixId
from neuropatch.models.layout import Layout
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import FLOAT_DTYPES, cast, compute_dtype
from neuropatch.storage.safetensors_file import read_array, read_header, serialize

LLAMA = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 16,
    "tie_word_embeddings": True,
}
GPT2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "vocab_size": 16}
CONFIGS = {"llama": LLAMA, "gpt2": GPT2}


class Lab:
    """Makes checkpoints and patches, and looks at the bytes of folders."""

    configs = CONFIGS

    def tensors(self, config, dtype="F32", seed=0):
        """Random tensors of a model: every matrix, and embeddings and a norm beside them."""
        rng = np.random.default_rng(seed)
        layout = Layout.from_config(config)
        slots = [layout.disk(matrix) for matrix in layout.matrices()]
        shapes = {slot.names[0]: slot.stored_shape for slot in slots}
        shapes |= {"model.embed_tokens.weight": (16, 8), "model.norm.weight": (8,)}
        return {
            name: cast(rng.standard_normal(shape).astype(np.float32), FLOAT_DTYPES[dtype])
            for name, shape in shapes.items()
        }

    def write(self, folder, config, tensors, shards=1):
        """Write a checkpoint's folder; returns it."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
        if shards == 1:
            (folder / "model.safetensors").write_bytes(serialize(tensors, {"format": "pt"}))
            return folder
        weight_map = {}
        for number in range(shards):
            name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            part = {key: tensors[key] for key in sorted(tensors)[number::shards]}
            weight_map.update(dict.fromkeys(part, name))
            (folder / name).write_bytes(serialize(part, {"format": "pt"}))
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    def raw(self, path, tensors):
        """Write a safetensors file of ``name: (format, array)``, whatever the array's own dtype."""
        header, parts, offset = {}, [], 0
        for name, (dtype, array) in tensors.items():
            data = np.ascontiguousarray(array).tobytes()
            place = [offset, offset + len(data)]
            header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": place}
            parts.append(data)
            offset += len(data)
        text = json.dumps(header).encode()
        path.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *parts]))

    def checkpoint(self, folder, model="llama", dtype="F32", shards=1, seed=0):
        """A random checkpoint of a small model."""
        config = CONFIGS[model]
        return self.write(folder, config, self.tensors(config, dtype, seed), shards)

    def values(self, folder, matrix):
        """A matrix ``[out, in]`` as a checkpoint holds it, read the plain way."""
        checkpoint = Checkpoint.open(folder)
        location = checkpoint.locate(matrix)
        path = checkpoint.path(location.shard)
        flat = read_array(path, location.info).reshape(-1)
        out, into = location.slot.shape
        rows, columns = np.divmod(np.arange(out * into), into)
        return flat[location.slot.offsets(rows, columns)].reshape(out, into)

    def edit(self, folder, matrix, kind, flat, value=None):
        """An edit of the weights at flat positions of a matrix, made from a checkpoint."""
        weights = self.values(folder, matrix)
        flat = np.unique(np.asarray(flat, dtype=np.int64))
        before = weights.reshape(-1)[flat]
        if kind == "zero":
            parameter = None
        else:
            dtype = before.dtype if kind == "set" else compute_dtype(before.dtype)
            parameter = np.full(len(flat), value, dtype=np.float64).astype(dtype)
        rows, columns = np.divmod(flat, weights.shape[1])
        return WeightEdit(matrix, kind, rows, columns, before, parameter)

    def patch(self, folder, kinds=("zero", "scale", "set", "add"), seed=0, roles=ROLES, count=3):
        """A patch that edits a few weights of every matrix, in every way."""
        rng = np.random.default_rng(seed)
        checkpoint = Checkpoint.open(folder)
        edits = []
        for matrix in checkpoint.layout.matrices(roles):
            size = int(np.prod(checkpoint.layout.shape(matrix)))
            chosen = rng.choice(size, count * len(kinds), replace=False)
            for number, kind in enumerate(kinds):
                part = chosen[number * count : (number + 1) * count]
                edits.append(self.edit(folder, matrix, kind, part, rng.choice([0.5, -0.25, 1.5])))
        return NeuronPatch(PatchMetadata(checkpoint.layout.signature), tuple(edits))

    def unit_patch(self, folder, units, factor=0.0, layer=0):
        """A patch that scales units of one layer."""
        checkpoint = Checkpoint.open(folder)
        matrix = MatrixId("decoder", layer, -1, "down")
        before = np.ascontiguousarray(self.values(folder, matrix).T[np.asarray(units)])
        value = np.full(len(units), factor, dtype=np.float32)
        edit = UnitEdit(matrix.block, "scale", np.asarray(units, dtype=np.int64), value, before)
        return NeuronPatch(PatchMetadata(checkpoint.layout.signature), units=(edit,))

    def tree(self, folder):
        """What a folder holds: hash of every file, by path below it."""
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }

    def names(self, folder):
        """Names in a folder, sorted."""
        return sorted(path.name for path in Path(folder).iterdir())

    def expected(self, folder, patch):
        """Every matrix of a checkpoint once a patch is applied, by NumPy on whole matrices."""
        checkpoint = Checkpoint.open(folder)
        matrices = {m: self.values(folder, m).copy() for m in checkpoint.layout.matrices()}
        for change in patch.changes():
            place = change.edit.rows, change.edit.columns
            matrix = matrices[change.edit.matrix]
            matrix[place] = change.new_values(matrix[place])
        return matrices

    def holds(self, folder, matrices):
        """Whether a checkpoint holds exactly these matrices."""
        return all(
            np.array_equal(self.values(folder, m).view(np.uint8), values.view(np.uint8))
            for m, values in matrices.items()
        )

    def bytes_changed(self, before, after):
        """Names of the tensors that differ between two files."""
        a, b = read_header(before), read_header(after)
        return {
            name
            for name, info in a.tensors.items()
            if read_array(before, info).tobytes() != read_array(after, b.tensors[name]).tobytes()
        }


@pytest.fixture(autouse=True, scope="module")
def no_flush():
    """Tests of files do not wait for the disk; those that kill a process run another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def lab():
    return Lab()


@pytest.fixture
def model(lab, tmp_path):
    """A small llama in one file."""
    return lab.checkpoint(tmp_path / "model")
