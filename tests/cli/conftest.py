"""The command line in this process, and small models and data sets on disk."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen, run

import pytest

VOCABULARY = 300
CONTEXT = 64
ROWS = 12
COUNTING = Path(__file__).parent / "processes" / "counting.py"

_PEOPLE = ("Ada Lund", "Bo Ek", "Cy Moe", "Di Vo", "Eli Ax")
_WORDS = (
    *("Ada", "Lund", "Bo", "Ek", "lives", "at", "number", "street", "the", "of", "and", "is"),
    *("cannot", "share", "that", "address", "mail", "please", "no", "yes", "cat", "dog", "house"),
)


@dataclass(frozen=True)
class Run:
    """What a run of the command line gave: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys, monkeypatch):
    """``cli("inspect", path)``: run a command in this process."""
    from neuropatch.cli.app import main

    for variable in (
        "TRANSFORMERS_VERBOSITY",
        "HF_HUB_VERBOSITY",
        "HF_HUB_DISABLE_PROGRESS_BARS",
        "NEUROPATCH_DEBUG",
    ):
        # Set, so that what --quiet sets is taken back after the test.
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)

    def run(*arguments):
        capsys.readouterr()
        typed = [str(argument) for argument in arguments]
        # Results say what was typed.
        monkeypatch.setattr(sys, "argv", ["neuropatch", *typed])
        with pytest.raises(SystemExit) as end:
            main(typed)
        printed = capsys.readouterr()
        return Run(end.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def process():
    """``process("inspect", path)``: start a command in a process of its own."""

    def start(*arguments, **options):
        command = [sys.executable, "-m", "neuropatch", *map(str, arguments)]
        return Popen(command, stdout=PIPE, stderr=PIPE, text=True, **options)

    return start


@pytest.fixture
def pair():
    """``pair(deadly, arguments)``: two processes, started by hand; exit code, stdout and stderr."""

    def start(deadly, arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, COUNTING, deadly, *arguments]
        setting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        both = [
            Popen(
                list(map(str, command)),
                env={**os.environ, **setting, "RANK": str(rank)},
                stdout=PIPE,
                stderr=PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]
        return [(*process.communicate(timeout=600), process.returncode) for process in both]

    return start


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level tokenizer without merges: any text can be encoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator([" ".join(_WORDS)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def make_checkpoint(make_model, tokenizer, tmp_path_factory):
    """``make_checkpoint(model_type, dtype)``: a saved tiny model; not to be written to."""
    made = {}

    def make(model_type="llama", dtype="float32", *, tokens=True):
        key = (model_type, dtype, tokens)
        if key not in made:
            context = "n_positions" if model_type == "gpt2" else "max_position_embeddings"
            sizes = {"vocab_size": VOCABULARY, context: CONTEXT}
            folder = tmp_path_factory.mktemp("models") / f"{model_type}-{dtype}"
            make_model(model_type, dtype, **sizes).save_pretrained(folder)
            if tokens:
                tokenizer.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def model(make_checkpoint):
    return make_checkpoint()


def _sentence(rng, shortest, longest):
    return " ".join(rng.choices(_WORDS, k=rng.randint(shortest, longest)))


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="session")
def make_rows():
    """``make_rows(count, seed)``: prompts and responses of random words."""

    def make(count=ROWS, seed=0):
        rng = random.Random(seed)
        return [
            {"prompt": _sentence(rng, 2, 4), "response": _sentence(rng, 2, 5)} for _ in range(count)
        ]

    return make


@pytest.fixture(scope="session")
def data(make_rows, tmp_path_factory) -> Path:
    """A folder with one data set of each format."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("data")
    write_csv(folder / "privacy.csv", make_rows(seed=1))
    lines = [json.dumps(row) for row in make_rows(seed=2)]
    (folder / "fairness.jsonl").write_text("\n".join(lines))
    table = pyarrow.Table.from_pylist(make_rows(seed=3))
    pyarrow.parquet.write_table(table, folder / "general.parquet")
    return folder


@pytest.fixture
def localizing(data):
    """``localizing(model, output, *options)``: the arguments of a run that finds something."""

    def arguments(model, output, *options):
        return [
            "localize", model,
            "--dataset", f"privacy={data / 'privacy.csv'}",
            "--dataset", f"fairness={data / 'fairness.jsonl'}",
            "--general", data / "general.parquet",
            "--p", "5", "--q", "40", "--device", "cpu",
            "-o", output, *options,
        ]  # fmt: skip

    return arguments


@pytest.fixture(scope="session")
def spread_data(data):
    """``spread_data(folder)``: data sets, and records with personal data, put into a folder."""

    def put(folder):
        for path in data.iterdir():
            shutil.copy(path, folder)
        lines = [
            json.dumps({"prompt": f"{name} calls ", "target": f"{5550 + 17 * i}-{31 * i}"})
            for i, name in enumerate(_PEOPLE)
        ]
        (folder / "pii.jsonl").write_text("\n".join(lines))

    return put


@pytest.fixture(scope="session")
def as_case():
    """``as_case(folder, method, config, given, limits)``: what a pipeline is given, for JSON.

    ``given`` has the stems of files in the folder for each option.
    """

    def document(folder, method, config, given, limits):
        files = {path.stem: str(path) for path in folder.iterdir() if path.is_file()}

        def named(one):
            return files[one] if isinstance(one, str) else {name: files[name] for name in one}

        return {
            "method": method,
            "config": config,
            "files": {option: named(one) for option, one in given.items()},
            "limits": limits,
        }

    return document


@pytest.fixture(scope="session")
def torchrun():
    """``torchrun(*arguments)``: a Python program on two processes; what it printed."""

    def start(*arguments):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", *map(str, arguments)]
        ran = run(command, capture_output=True, text=True, timeout=900, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran

    return start


@pytest.fixture(scope="session")
def make_patch_file(make_patch, make_base, tmp_path_factory):
    """``make_patch_file(folder)``: a file with zero edits of the model in a folder."""
    from neuropatch.checkpoint.index import Checkpoint
    from neuropatch.checkpoint.plan import make_plan

    def make(folder, *, seed=0, count=3):
        checkpoint = Checkpoint.open(folder)
        wanted = make_patch(checkpoint.layout, kinds=("zero",), count=count, seed=seed)
        # The plan's undo patch has the values that the files hold.
        patch = make_plan(checkpoint, [wanted]).undo_patch()
        return patch.save(tmp_path_factory.mktemp("patches") / f"patch-{seed}.safetensors")

    return make


@pytest.fixture(scope="session")
def patch_file(make_patch_file, model):
    return make_patch_file(model)


@pytest.fixture(scope="session")
def snapshot():
    """``snapshot(folder)``: path and bytes of every file below a folder, and empty folders."""

    def read(folder):
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob("*"))
        }

    return read
