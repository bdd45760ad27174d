"""``neuropatch localize --method depn`` on causal and masked models, from files to files."""

import json

import pytest

SECRETS = ("555-0134", "555-0177", "555-0192")


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    path = tmp_path_factory.mktemp("people") / "people.jsonl"
    rows = [
        {"prompt": f"number of Ada {number}:", "target": secret, "category": "phone"}
        for number, secret in enumerate(SECRETS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def masked_model(tiny_configs, tokenizer, tmp_path_factory):
    """A BERT with a tokenizer that has a mask."""
    from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "masked"
    config = AutoConfig.for_model(
        **{**tiny_configs["bert"], "is_decoder": False, "vocab_size": 300}
    )
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, mask_token="<s>"
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["model", "masked_model"])
def test_units_are_found_and_switched_off_in_files(cli, request, people, kind, tmp_path):
    folder = request.getfixturevalue(kind)
    patch = tmp_path / "depn.safetensors"
    options = ("--max-neurons", 3, "--set", "steps=4", "--set", "text_share=0.3")
    command = ("localize", folder, "--method", "depn", "--pii", people, *options)
    run = cli(*command, "-o", patch, "--json")
    assert run.code == 0, run.err
    statistics = json.loads(run.out)["statistics"]
    assert statistics["texts"] == len(SECRETS)
    assert statistics["private_tokens"] == sum(map(len, SECRETS))
    assert statistics["selected"] == 3
    assert cli("apply", folder, patch, "-o", tmp_path / "edited").code == 0
    assert cli("diff", folder, tmp_path / "edited", "-o", tmp_path / "again.safetensors").code == 0


def test_other_methods_refuse_a_masked_model(cli, masked_model, people, tmp_path):
    data = [f"--dataset={name}={people}" for name in ("a", "b")]
    run = cli(
        "localize", masked_model, *data, "--general", people, "-o", tmp_path / "no.safetensors"
    )
    assert run.code != 0
    assert "spin is for causal language models, and this one is masked" in run.err
