"""The command line against the Hub, in processes of their own, as users run it."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from neuropatch.checkpoint.index import Checkpoint
from neuropatch.checkpoint.plan import make_plan
from neuropatch.patch.metadata import BaseModel
from neuropatch.patch.patch import PATCH_FILE

CARD = b"---\nlicense: mit\n---\n"
WORDS = ("Ada", "Bo", "lives", "at", "house", "number", "street", "cat", "dog", "yes", "no")


@pytest.fixture(scope="module")
def base(make_model, tmp_path_factory):
    """A tiny model with a tokenizer, in several weight files."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("end-to-end") / "base"
    make_model("llama").save_pretrained(folder, max_shard_size="4KB")
    built = Tokenizer(models.WordLevel({word: n for n, word in enumerate(("<s>", *WORDS))}, "<s>"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<s>").save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path):
    rng = random.Random(0)
    files = {}
    for name in ("privacy", "fairness", "general"):
        files[name] = tmp_path / f"{name}.jsonl"
        rows = [
            {key: " ".join(rng.choices(WORDS, k=3)) for key in ("prompt", "response")}
            for _ in range(8)
        ]
        files[name].write_text("\n".join(map(json.dumps, rows)))
    return files


@pytest.fixture
def people(hub, base, tmp_path):
    """``ada``, who has a model on the Hub, and ``bob``: environments with homes of their own."""
    tokens = {name: hub.add_user(name) for name in ("ada", "bob")}
    hub.upload("ada/model", {**{path.name: path for path in base.iterdir()}, "README.md": CARD})
    return {
        name: hub.environment(tmp_path / f"home-{name}", token) for name, token in tokens.items()
    }


@pytest.fixture
def start(tmp_path):
    """``start(environment, "push", ...)``: a command in a process."""

    def run(environment, *arguments):
        command = [sys.executable, "-m", "neuropatch", *map(str, arguments)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=environment, cwd=tmp_path, text=True, **pipes)

    return run


@pytest.fixture
def run(start):
    def run(environment, *arguments, code=0):
        process = start(environment, *arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        return out, err

    return run


@pytest.fixture
def patch_file(base, make_patch, down, tmp_path):
    checkpoint = Checkpoint.open(base)
    wanted = make_patch(checkpoint.layout, matrices=[down(1)], kinds=("zero",))
    patch = make_plan(checkpoint, [wanted]).undo_patch()
    metadata = replace(patch.metadata, base_model=BaseModel("ada/model"))
    return replace(patch, metadata=metadata).save(tmp_path / "patch.safetensors")


@pytest.mark.slow
def test_from_the_hub_to_the_hub(hub, base, people, data, run, tmp_path):
    ada, bob = people["ada"], people["bob"]
    sets = [f"{name}={data[name]}" for name in ("privacy", "fairness")]
    run(
        ada, "localize", "ada/model", "--dataset", sets[0], "--dataset", sets[1],
        "--general", data["general"], "--p", "5", "--q", "40", "--target", "down",
        "--device", "cpu", "-o", "spin.safetensors", "-q",
    )  # fmt: skip
    out, _ = run(ada, "push", "spin.safetensors", "ada/patch", "-q")
    assert out == f"{hub.url}/ada/patch/commit/{hub.commits('ada/patch')[0].oid}\n"
    hub.log.clear()
    out, _ = run(bob, "inspect", "ada/patch", "--json")
    base_model = json.loads(out)["metadata"]["base_model"]
    assert base_model == {"name": "ada/model", "revision": hub.commits("ada/model")[0].oid}
    assert list(hub.log.downloads) == [f"ada/patch/{PATCH_FILE}"]
    assert "ada/patch" in run(bob, "list", "ada")[0]

    hub.log.clear()
    out, _ = run(bob, "apply", "ada/model", "ada/patch", "--push", "bob/variant", "--json")
    files = {file["path"]: file for file in json.loads(out)["files"]}
    edited = [path for path, file in files.items() if file["edited"]]
    assert 0 < len(edited) < len(Checkpoint.open(base).headers)
    assert hub.log.lfs_bytes == sum((base / path).stat().st_size for path in edited)

    program = (
        "import json\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "from neuropatch import NeuronPatch\n"
        "model = AutoModelForCausalLM.from_pretrained('bob/variant')\n"
        "AutoTokenizer.from_pretrained('bob/variant')\n"
        "again = AutoModelForCausalLM.from_pretrained('ada/model')\n"
        "NeuronPatch.from_pretrained('ada/patch').apply(again)\n"
        "pairs = zip(model.state_dict().values(), again.state_dict().values())\n"
        "print(all(a.equal(b) for a, b in pairs))\n"
    )
    reader = subprocess.run(
        [sys.executable, "-c", program],
        env=hub.environment(tmp_path / "home-reader"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert reader.stdout == "True\n"


@pytest.mark.parametrize("when", ["PUT /storage/", "POST /commit/", "POST /objects/batch"])
def test_killed_and_run_again(when, hub, people, patch_file, start, run):
    method, path = when.split()
    hub.fail(path, method, delay=1)
    arguments = ("apply", "ada/model", patch_file, "--push", "bob/variant")
    process = start(people["bob"], *arguments)
    hub.log.wait(path, method)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    hub.log.settle()
    # The commit that was on its way was made without anybody to tell.
    made = method == "POST" and path == "/commit/"
    assert len(hub.commits("bob/variant")) == 1 + made
    hub.log.clear()
    out, _ = run(people["bob"], *arguments)
    assert ("has all of it already" in out) == made
    assert len(hub.commits("bob/variant")) == 2
    assert hub.repo("bob/variant").find("main").tree.keys() >= {"config.json", "README.md"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"path": "/commit/", "status": 403}, "does not allow it"),
        ({"path": "/api/repos/create", "status": 401}, "the access token is not valid"),
        ({"path": "/objects/batch", "status": 400}, "the Hub answers with 400"),
        ({"path": "/storage/", "status": 403}, "while uploading"),
        (
            {"path": "/commit/", "status": 429, "headers": {"Retry-After": "9999"}},
            "9999 seconds",
        ),
        ({"path": "/commit/", "status": 413}, "storage on the Hub does not allow it"),
    ],
    ids=lambda value: str(value.get("status")) if isinstance(value, dict) else "",
)
def test_each_failure_is_one_line(fault, message, hub, people, patch_file, run):
    hub.fail(times=1000, message="no, hf_" + "Invented" * 3, **fault)
    out, err = run(people["ada"], "push", patch_file, "ada/patch", code=1)
    error, hint = err.splitlines()[-2:]
    assert "thrown while" not in err
    assert out == ""
    assert error.startswith("error: push to ada/patch") or "9999" in error
    assert message in error
    assert hint.startswith("  ")
    assert "Invented" not in err


def test_what_is_shown(hub, people, patch_file, run):
    ada = people["ada"]
    out, _ = run(ada, "push", patch_file, "ada/patch", "--dry-run")
    assert re.search(rf"{PATCH_FILE} +[\d.]+ KB  uploaded", out)
    assert out.endswith("nothing was sent\n")
    out, _ = run(ada, "push", patch_file, "ada/patch", "--private", "--commit-message", "mine")
    commit = hub.commits("ada/patch")[0]
    assert out.endswith(f"pushed {hub.url}/ada/patch/commit/{commit.oid}\n")
    assert commit.title == "mine"
    assert hub.repo("ada/patch").private


@pytest.mark.parametrize(
    ("answer", "options", "code"), [("n", [], 1), ("y", [], 0), ("", ["-y"], 0)]
)
def test_a_terminal_is_asked(answer, options, code, hub, people, patch_file, tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "neuropatch", "push", str(patch_file), "ada/patch", *options]
    process = subprocess.Popen(
        command, env=people["ada"], stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, text=True
    )
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    out = process.communicate(timeout=60)[0]
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert process.returncode == code
    assert ("push to ada/patch? [y/N]" in shown) == (not options)
    assert ("nothing was sent" in shown) == bool(code)
    assert (("model", "ada/patch") in hub.store.repos) == (not code)
    assert ("pushed http" in out) == (not code)


def test_results_on_the_card(hub, people, patch_file, run, tmp_path):
    estimate = {"value": 20.0, "low": 19.0, "high": 21.0}
    metric = {
        "metric": "perplexity", "dataset": None, "better": "lower", "base": estimate,
        "patched": {**estimate, "value": 20.25}, "control": None, "verdict": "no difference",
    }  # fmt: skip
    document = {
        "format": "neuropatch-evaluation", "format_version": 1, "text": {"source": "wiki.txt"},
        "pairs": [], "metrics": [metric],
    }  # fmt: skip
    results = tmp_path / "results.json"
    results.write_text(json.dumps(document))
    run(people["ada"], "push", patch_file, "ada/patch", "--results", results)
    card = hub.files("ada/patch")["README.md"].decode()
    assert "| `perplexity` | lower | 20 (19 to 21) | 20.25 (19 to 21) | - |" in card
    assert "model-index:" in card
