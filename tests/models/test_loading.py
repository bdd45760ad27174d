"""Which of transformers' classes a checkpoint is loaded as."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

from neuropatch.errors import ModelError
from neuropatch.models.loading import load_causal_model

TEXT = {
    "num_hidden_layers": 1,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 0, 0], "rope_theta": 1e4},
}
VISION = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2}


def test_a_multimodal_model_is_loaded_whole(tmp_path):
    config = AutoConfig.for_model(
        "qwen2_5_vl", text_config=TEXT, vision_config={**VISION, "out_hidden_size": 12}
    )
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    model = load_causal_model(tmp_path)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"


def test_half_of_an_encoder_decoder_is_not_taken_for_a_model(tmp_path):
    sizes = {"d_model": 12, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 50}
    sizes |= {
        f"{stack}_{key}": 3
        for stack in ("encoder", "decoder")
        for key in ("attention_heads", "ffn_dim")
    }
    config = AutoConfig.for_model("bart", **sizes)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is an encoder-decoder \(bart\)"):
        load_causal_model(tmp_path)


QUANTISED = {
    "fp8": {"quant_method": "fp8", "weight_block_size": [4, 4], "activation_scheme": "dynamic"},
    "compressed-tensors": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 8,
                    "type": "float",
                    "symmetric": True,
                    "strategy": "block",
                    "block_structure": [4, 4],
                },
            }
        },
        "ignore": ["lm_head"],
    },
}


@pytest.mark.parametrize("method", sorted(QUANTISED))
def test_float8_weights_are_loaded_times_their_scales(method, make_model, tmp_path, recwarn):
    model = make_model("llama", "bfloat16")
    state = model.state_dict()
    ending = "_scale_inv" if method == "fp8" else "_scale"
    for name in [name for name in state if name.endswith("proj.weight")]:
        rows, columns = state[name].shape
        state[name] = state[name].to(torch.float8_e4m3fn)
        state[name + ending] = torch.full((rows // 4, columns // 4), 0.5)
    model.config.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    document = json.loads((tmp_path / "config.json").read_text())
    document["quantization_config"] = QUANTISED[method]
    (tmp_path / "config.json").write_text(json.dumps(document))
    recwarn.clear()
    loaded = load_causal_model(tmp_path).model.layers[1].mlp.down_proj.weight
    stored = state["model.layers.1.mlp.down_proj.weight"].float()
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.float(), stored * 0.5)
    assert not [one for one in recwarn if "quantization_config" in str(one.message)]
