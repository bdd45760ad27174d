"""Which of transformers' classes a checkpoint is loaded as."""

import pytest
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
