"""The example in docs/patch-format.md is what is really written."""

import json
import re
from pathlib import Path

import numpy as np

from neuropatch.models.coordinates import BlockId, MatrixId
from neuropatch.models.layout import Layout
from neuropatch.patch.edits import UnitEdit, WeightEdit
from neuropatch.patch.format import METADATA_KEY
from neuropatch.patch.metadata import BaseModel, PatchMetadata
from neuropatch.patch.patch import NeuronPatch
from neuropatch.storage.dtypes import FLOAT_DTYPES
from neuropatch.storage.safetensors_file import read_array, read_header

TEXT = (Path(__file__).parents[2] / "docs" / "patch-format.md").read_text(encoding="utf-8")


def _example():
    layout = Layout.from_config(
        {
            "model_type": "llama",
            "num_hidden_layers": 2,
            "hidden_size": 4,
            "intermediate_size": 6,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 32,
        }
    )
    metadata = PatchMetadata(
        layout.signature,
        BaseModel("example/tiny-llama", "4f1c0de4f1c0de4f1c0de4f1c0de4f1c0de4f1c0"),
        {"name": "spin", "parameters": {"p": 5e-7, "q": 5e-7, "seed": 0, "target": "mlp"}},
        ({"name": "privacy", "sha256": "9f86d081", "rows": 200, "used": 128},),
        {"neuropatch": "0.1.0", "torch": "2.13.0"},
        {"snip_accumulate": "avx2"},
        "apache-2.0",
    )

    def weights(layer, role, rows, columns, before):
        return WeightEdit(
            MatrixId("decoder", layer, -1, role),
            "zero",
            np.array(rows),
            np.array(columns),
            np.array(before, dtype=FLOAT_DTYPES["BF16"]),
        )

    unit = UnitEdit(
        BlockId("decoder", 1),
        "scale",
        np.array([2]),
        np.zeros(1, dtype=np.float32),
        np.array([[1, -1, 0.5, 2]], dtype=FLOAT_DTYPES["BF16"]),
    )
    edits = (weights(0, "up", [2, 5], [1, 0], [0.5, -0.25]), weights(1, "down", [3], [4], [0.125]))
    return NeuronPatch(metadata, edits, (unit,))


def test_the_documented_example_is_what_is_written(tmp_path):
    header = read_header(_example().save(tmp_path / "patch.safetensors"))
    (block,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert json.loads(header.metadata[METADATA_KEY]) == json.loads(block)
    rows = re.findall(r"^\| `(edits\.\d\.\w+)` \| `(\w+)` \| (.*?)(?: \(.*\))? \|$", TEXT, re.M)
    documented = {name: (dtype, json.loads(f"[{content}]")) for name, dtype, content in rows}
    written = {
        name: (info.dtype, read_array(header.path, info).astype(float).tolist())
        for name, info in header.tensors.items()
    }
    assert documented == written
