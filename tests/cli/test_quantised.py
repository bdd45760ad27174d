"""Quantised checkpoints that cannot be edited are refused in one line, and stay as they are.

Their tensors have the names, formats and shapes of what the libraries save.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from neuropatch.models.layout import Layout
from neuropatch.patch.patch import NeuronPatch

HIDDEN, WIDTH = 64, 128
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 16,
    "torch_dtype": "float16",
}
_BITSANDBYTES = {"quant_method": "bitsandbytes", "bnb_4bit_compute_dtype": "bfloat16"}
CONFIGS = {
    "gptq": {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "desc_act": False,
        "sym": True,
        "checkpoint_format": "gptq",
    },
    "awq": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 32,
        "zero_point": True,
        "version": "gemm",
    },
    "auto-round": {
        "quant_method": "auto-round",
        "bits": 4,
        "group_size": 32,
        "packing_format": "auto_round:auto_gptq",
    },
    "nf4": _BITSANDBYTES | {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "int8": _BITSANDBYTES | {"load_in_8bit": True, "llm_int8_threshold": 6.0},
    "packed": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32},
            }
        },
        "ignore": ["lm_head"],
    },
    "w8a8": {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
            }
        },
        "ignore": ["lm_head"],
    },
    "hqq": {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}},
}


def parts(style, out, into):
    """The tensors that hold one linear layer, by the ending of their name: format and shape."""
    if style in ("gptq", "auto-round"):
        order = {".g_idx": ("I32", (into,))} if style == "gptq" else {}
        return order | {
            ".qweight": ("I32", (into // 8, out)),
            ".qzeros": ("I32", (into // 32, out // 8)),
            ".scales": ("F16", (into // 32, out)),
        }
    if style == "awq":
        return {
            ".qweight": ("I32", (into, out // 8)),
            ".qzeros": ("I32", (into // 32, out // 8)),
            ".scales": ("F16", (into // 32, out)),
        }
    if style == "nf4":
        return {
            ".weight": ("U8", (out * into // 2, 1)),
            ".weight.absmax": ("U8", (out * into // 64,)),
            ".weight.nested_absmax": ("F32", (1,)),
            ".weight.nested_quant_map": ("F32", (256,)),
            ".weight.quant_map": ("F32", (16,)),
            ".weight.quant_state.bitsandbytes__nf4": ("U8", (92,)),
        }
    if style == "int8":
        return {
            ".weight": ("I8", (out, into)),
            ".SCB": ("F32", (out,)),
            ".weight_format": ("U8", ()),
        }
    if style == "packed":
        return {
            ".weight_packed": ("I32", (out, into // 8)),
            ".weight_scale": ("BF16", (out, into // 32)),
            ".weight_shape": ("I64", (2,)),
        }
    if style == "w8a8":
        return {".weight": ("I8", (out, into)), ".weight_scale": ("BF16", (out, 1))}
    return {".W_q": ("U8", (out * into // 128, 64)), ".meta": ("U8", (1,))}


_BYTES = {"I64": 8, "I32": 4, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}


@pytest.fixture(params=sorted(CONFIGS))
def style(request):
    return request.param


@pytest.fixture
def quantised(tmp_path, style):
    """A checkpoint of one quantised Llama layer."""
    layout = Layout.from_config(LLAMA)
    tensors = {"model.norm.weight": ("F16", (HIDDEN,))}
    for matrix in layout.matrices():
        slot = layout.disk(matrix)
        for ending, what in parts(style, *slot.shape).items():
            tensors[slot.names[0].removesuffix(".weight") + ending] = what
    rng = np.random.default_rng(0)
    header, data = {}, b""
    for name, (dtype, shape) in tensors.items():
        raw = rng.bytes(int(np.prod(shape)) * _BYTES[dtype])
        place = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": place}
        data += raw
    text = json.dumps(header).encode()
    folder = tmp_path / "model"
    folder.mkdir()
    config = LLAMA | {"quantization_config": CONFIGS[style]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


@pytest.fixture
def patch(make_patch, tmp_path) -> NeuronPatch:
    made = make_patch(Layout.from_config(LLAMA), kinds=("zero",), units=("scale",))
    return made.save(tmp_path / "patch.safetensors")


def tree(folder):
    """Every file below a folder, by the hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


TENSOR = "model.layers.0.mlp.gate_proj"
SAID = {
    "gptq": (f"'{TENSOR}.qweight' is quantised (GPTQ, stored as I32)", "from before"),
    "awq": (f"'{TENSOR}.qweight' is quantised (AWQ, stored as I32)", "from before"),
    "auto-round": (f"'{TENSOR}.qweight' is quantised (packed integers", "from before"),
    "nf4": (f"'{TENSOR}.weight' is quantised (bitsandbytes 4-bit", "model.dequantize()"),
    "int8": (f"'{TENSOR}.weight' is quantised (bitsandbytes 8-bit", "model.dequantize()"),
    "packed": (f"'{TENSOR}.weight_packed' is quantised (compressed-tensors, packed", "from before"),
    "w8a8": (f"'{TENSOR}.weight' is quantised (compressed-tensors, stored as I8", "from before"),
    "hqq": (f"'{TENSOR}.W_q' is quantised (hqq, stored as U8)", "from before"),
}


@pytest.mark.parametrize("way", ["-o", "--in-place", "--dry-run"])
def test_refused_in_one_line_and_nothing_is_written(cli, quantised, patch, style, way, tmp_path):
    before = tree(tmp_path)
    where = ["--in-place"] if way == "--in-place" else ["-o", tmp_path / "out"]
    dry = ["--dry-run"] if way == "--dry-run" else []
    run = cli("apply", quantised, patch, *where, *dry)
    message, hint = run.err.splitlines()
    assert (run.code, run.out) == (1, "")
    assert message.startswith("error: ")
    assert SAID[style][0] in message
    assert SAID[style][1] in hint
    assert tree(tmp_path) == before


def test_a_diff_is_refused_too(cli, quantised, style, tmp_path):
    run = cli("diff", quantised, quantised, "-o", tmp_path / "delta.safetensors")
    assert run.code == 1
    assert SAID[style][0].split(".layers.0.")[0] in run.err
    assert "is quantised" in run.err
    assert not (tmp_path / "delta.safetensors").exists()
