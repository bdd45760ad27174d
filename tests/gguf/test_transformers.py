"""GGUF files of every architecture, as plain transformers loads them before and after a patch."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
import transformers
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

from neuropatch.gguf.apply import apply_to_gguf
from neuropatch.gguf.names import ARCHITECTURES
from neuropatch.models.coordinates import ROLES
from neuropatch.models.layout import Layout
from neuropatch.patch.edits import WeightEdit
from neuropatch.patch.metadata import PatchMetadata
from neuropatch.patch.patch import NeuronPatch

TYPES = gguf.GGMLQuantizationType

# hidden (64), intermediate (96), heads * head_dim (128 or 64) and kv_heads * head_dim differ where
# the architecture lets them; all are multiples of a block of 32.
BASE = {
    "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 32,
}  # fmt: skip
WIDE = {**BASE, "head_dim": 32}
CONFIGS = {
    "llama": BASE,
    "qwen2": BASE,
    # Transformers does not read the size of Qwen 3's heads from a file: it takes the usual 128.
    "qwen3": {**BASE, "head_dim": 128},
    "gemma2": WIDE,
    "gemma3": WIDE,
    "phi3": BASE,
    "gpt2": {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 40},
    "starcoder2": BASE,
}


def config_of(arch):
    model_type = ARCHITECTURES[arch].model_types[0]
    return transformers.AutoConfig.for_model(model_type, **CONFIGS[arch], pad_token_id=0)


def write(path, arch, kind):
    """A file with the tensors that transformers looks for, all random."""
    config = config_of(arch)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    names = get_gguf_hf_weights_map(model, TensorProcessor(), model_type=arch, num_layers=2)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    writer = gguf.GGUFWriter(path, arch)
    known = GGUF_CONFIG_MAPPING[arch]
    for key, name in known.items():
        value = getattr(config, name or "", None)
        if isinstance(value, int):
            writer.add_uint32(f"{arch}.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"{arch}.{key}", value)
    if arch == "gpt2":
        writer.add_uint32("gpt2.feed_forward_length", 256)
    if arch == "qwen3":
        writer.add_uint32("qwen3.attention.key_length", 128)
    for token in ("bos", "eos", "padding"):
        writer.add_uint32(f"tokenizer.ggml.{token}_token_id", 0)
    writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(40)])
    rng = np.random.default_rng(7)
    for name, other in sorted(names.items()):
        if name == "output.weight":
            # Tied, as in small models.
            continue
        shape = shapes[other]
        if arch == "gpt2" and name.split(".")[-2].startswith(("attn_q", "attn_o", "ffn_")):
            shape = shape[::-1]
        values = (rng.standard_normal(shape) * 0.2).astype(np.float32)
        values += 1 if "norm" in name else 0
        this = TYPES[kind] if len(shape) == 2 and name.startswith("blk.") else TYPES.F32
        writer.add_tensor(name, gguf.quantize(values, this), raw_dtype=this)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(path):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    return model.eval()


def patch_of(model, arch):
    """Edits of a few weights of every matrix, made in memory."""
    layout = Layout.from_config(model.config.to_dict())
    rng = np.random.default_rng(3)
    parameters = dict(model.named_parameters())
    edits = []
    for matrix in layout.matrices(ROLES):
        slot = layout.memory(matrix)
        (name,) = (name for name in slot.names if name in parameters)
        flat = parameters[name].detach().numpy().reshape(-1)
        rows, columns = np.divmod(rng.choice(slot.shape[0] * slot.shape[1], 6), slot.shape[1])
        rows, columns = np.unique(np.stack([rows, columns]), axis=1).astype(np.int64)
        before = flat[slot.offsets(rows, columns)]
        value = (before * 0.5).astype(np.float32)
        edits.append(WeightEdit.build(matrix, "set", rows, columns, before, value))
    return NeuronPatch(PatchMetadata(layout.signature), tuple(edits))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_files_hold_what_the_patched_model_holds(arch, tmp_path):
    """In float32 there is no rounding, so every parameter and every logit is equal."""
    path = write(tmp_path / "m.gguf", arch, "F32")
    model = load(path)
    patch = patch_of(model, arch)
    done = apply_to_gguf(path, [patch], tmp_path / "out.gguf")
    assert done.result.drift.unequal == 0
    assert done.result.changed == done.result.weights > 2 * 4 * 4
    patch.apply(model)
    found = load(tmp_path / "out.gguf")
    for (name, expected), value in zip(model.named_parameters(), found.parameters(), strict=True):
        assert torch.equal(expected, value), name
    tokens = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, found(tokens).logits)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_quantised_files_are_off_by_what_is_reported(kind, tmp_path):
    path = write(tmp_path / "m.gguf", "llama", kind)
    model = load(path)
    patch = patch_of(model, "llama")
    done = apply_to_gguf(path, [patch], tmp_path / "out.gguf")
    assert done.result.drift.unequal == 0
    patch.apply(model)
    found = load(tmp_path / "out.gguf")
    pairs = zip(model.state_dict().values(), found.state_dict().values(), strict=True)
    differences = torch.cat([(a.double() - b.double()).flatten() for a, b in pairs])
    error = done.errors[kind]
    assert int((differences != 0).sum()) <= error.weights
    assert float(differences.abs().max()) == pytest.approx(error.largest)
    squares = float((differences**2).sum())
    assert squares == pytest.approx(error.squares)
