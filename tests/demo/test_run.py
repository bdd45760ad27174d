"""The whole job of ``neuropatch demo``: what its table shows is what the README says."""

import filecmp
import json

import pytest

from neuropatch.demo import MODEL_DIR
from neuropatch.demo.run import RECORDS, run_demo
from neuropatch.errors import OutputError
from neuropatch.patch.patch import NeuronPatch
from neuropatch.progress import Silent


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run_demo(tmp_path_factory.mktemp("demo") / "out", Silent())


def test_the_patch_forgets_what_random_patches_do_not(result):
    rows = {row.name: row for row in result.rows}
    for table, name in RECORDS.items():
        row = rows[name]
        assert row.before == 1
        assert len(row.controls) == 3
        assert min(row.controls) >= 0.95
        if table != "facts_unseen":
            assert row.after <= 0.1
    text = rows["perplexity of clean text"]
    assert 1 < text.after / text.before < 1.05
    assert max(text.controls) / text.before < 1.01
    assert len(result.patch) < 0.01 * result.weights


def test_a_person_who_was_not_shown(result):
    secret = json.loads((result.folder / "phone_unseen.jsonl").read_text().splitlines()[0])
    assert result.prompt == secret["prompt"]
    assert result.answers[0] == secret["response"].strip()
    assert result.answers[1] != result.answers[0]


def test_what_is_left_on_the_disk(result):
    assert NeuronPatch.from_pretrained(result.folder / "patch.safetensors") == result.patch
    weights = "model.safetensors"
    assert filecmp.cmp(MODEL_DIR / weights, result.folder / "model" / weights, shallow=False)
    assert not filecmp.cmp(
        MODEL_DIR / weights, result.folder / "model-patched" / weights, shallow=False
    )
    assert not (result.folder / "model-reverted").exists()
    json.dumps(result.to_json(), allow_nan=False)


def test_a_folder_that_exists_is_refused(result):
    with pytest.raises(OutputError, match="exists already"):
        run_demo(result.folder, Silent())
