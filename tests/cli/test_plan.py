"""``neuropatch plan``: a table of ways, from files without weights."""

import json
import shutil

import pytest
import transformers


def test_a_table_of_ways(cli, model):
    run = cli("plan", model, "--device", "cpu", "--max-memory", "8GB")
    assert (run.code, run.err) == (0, "")
    lines = run.out.splitlines()
    assert lines[0].startswith(f"model    {model} (llama), ")
    rows = {line.split("  ")[1]: line for line in lines if line.startswith("  ")}
    assert rows["full"].rstrip().endswith("yes, chosen")
    assert rows["2 windows"].rstrip().endswith("yes")
    assert "<= 2" in rows["certified"]
    assert rows["full, offload"].rstrip().endswith("yes *")
    assert "chosen   full, because scores of all layers fit" in lines
    assert "as measured here just now" in run.out


def test_json_and_quiet(cli, model, tmp_path):
    # The config is enough, whatever its name.
    path = tmp_path / "some-model.json"
    shutil.copyfile(model / "config.json", path)
    options = ("--max-memory", "8GB", "--memory", "windows", "--flops", "2e9", "--device", "cpu")
    document = json.loads(cli("plan", path, *options, "--json").out)
    assert (document["chosen"], document["reason"]) == ("windows", "as asked")
    assert document["budget_bytes"] == 8 * 10**9
    assert document["rates"] == {"flops_per_s": 2e9, "bytes_per_s": None, "measured": False}
    modes = [one["mode"] for one in document["ways"]]
    assert modes == ["full", "windows", "certified", "full"]
    for one in document["ways"]:
        parts = ("weights_bytes", "scores_bytes", "activations_bytes", "program_bytes")
        assert one["peak_bytes"] == sum(one[part] for part in parts)
    assert cli("plan", path, *options, "--quiet").out == "windows\n"


def test_more_data_takes_longer_and_no_more_memory(cli, model):
    common = ("plan", model, "--flops", "1e9", "--device", "cpu", "--json", "--max-memory", "1GB")
    few, many = (
        json.loads(cli(*common, "--datasets", "5", "--samples", count).out)["ways"][0]
        for count in ("100", "200")
    )
    assert many["seconds"] == 2 * few["seconds"]
    assert many["peak_bytes"] == few["peak_bytes"]


def test_nothing_fits(cli, model):
    run = cli("plan", model, "--max-memory", "1MB", "--device", "cpu")
    assert run.code == 0
    assert "chosen   none: " in run.out
    assert "raise --max-memory" in run.out


def test_a_size_is_no_mode(cli, model):
    run = cli("plan", model, "--memory", "24GB", "--device", "cpu")
    assert run.code == 1
    assert "unknown --memory '24GB'" in run.err
    assert "--max-memory" in run.err


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "encoder-decoder"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "masked language model"),
    ],
)
def test_what_continues_no_text_is_refused(cli, tmp_path, config, says):
    whole = transformers.AutoConfig.for_model(**config).to_dict()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(whole | config))
    run = cli("plan", path, "--flops", "1e9", "--device", "cpu")
    assert (run.code, run.out) == (1, "")
    assert run.err.startswith(f"error: {path} is a")
    assert says in run.err
