"""Kinds of language models: told by the config, loaded with the head that belongs to them."""

import json

import pytest
import torch

from neuropatch.errors import ModelError
from neuropatch.models.kind import model_kind
from neuropatch.models.loading import load_masked_model


@pytest.mark.parametrize(
    ("architectures", "kind"),
    [
        (["LlamaForCausalLM"], "causal"),
        (["GPT2LMHeadModel"], "causal"),
        (["BertLMHeadModel"], "causal"),
        (["BertForMaskedLM"], "masked"),
        (["BertForPreTraining"], "masked"),
        (None, "causal"),
    ],
)
def test_the_kind_is_that_of_the_head(architectures, kind):
    assert model_kind({"architectures": architectures}) == kind
    assert model_kind({}) == "causal"


@pytest.fixture
def folder(tiny_configs, tmp_path):
    from transformers import AutoConfig, AutoModelForMaskedLM

    config = AutoConfig.for_model(**{**tiny_configs["bert"], "is_decoder": False})
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_masked_model_is_loaded_with_its_head(folder):
    assert model_kind(json.loads((folder / "config.json").read_text())) == "masked"
    model = load_masked_model(folder, dtype="float32", device="cpu")
    assert not model.training
    assert model(input_ids=torch.tensor([[5, 6]])).logits.shape == (1, 2, 50)


def test_a_masked_model_without_its_head_is_refused(folder, tmp_path):
    from transformers import AutoModel

    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "body")
    with pytest.raises(ModelError, match=r"weights are missing, such as 'cls\."):
        load_masked_model(tmp_path / "body")
