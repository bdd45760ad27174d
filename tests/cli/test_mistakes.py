"""Mistakes that users make: exit code 1, one line that names the culprit, nothing left behind."""

from __future__ import annotations

import json
import shutil
import struct

import pytest


def copied(model, tmp_path, name="model"):
    folder = tmp_path / "in" / name
    shutil.copytree(model, folder)
    return folder


def refused(run, *culprits):
    """One line that names every culprit, one line with the remedy, nothing on stdout."""
    assert run.code == 1, run.err
    assert run.out == ""
    # Before the error there may be notes, which --quiet takes away.
    error, *hint = run.err.splitlines()
    assert error.startswith("error: ")
    assert len(hint) == 1, run.err
    assert hint[0].startswith("  ")
    for culprit in culprits:
        assert str(culprit) in run.err, run.err
    assert "defect" not in run.err


@pytest.fixture
def output(tmp_path):
    """Where a refused run would have written; nothing may be there afterwards."""
    folder = tmp_path / "out"
    folder.mkdir()
    yield folder / "spin.safetensors"
    assert list(folder.iterdir()) == []


class TestData:
    @pytest.fixture
    def with_data(self, cli, localizing, model, output, data):
        def run(file, *options):
            arguments = [str(a) for a in localizing(model, output, "-q", *options)]
            privacy = f"privacy={data / 'privacy.csv'}"
            arguments[arguments.index(privacy)] = f"privacy={file}"
            return cli(*arguments)

        return run

    def test_wrong_column(self, with_data, data):
        run = with_data(data / "privacy.csv", "--prompt-column", "question")
        refused(run, "privacy.csv", "'question'", "'prompt', 'response'", "--prompt-column")

    def test_columns_that_cannot_be_guessed(self, with_data, tmp_path):
        (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
        refused(with_data(tmp_path / "odd.csv"), "odd.csv", "'a', 'b'", "--prompt-column")

    def test_empty_file(self, with_data, tmp_path):
        (tmp_path / "none.csv").write_text("")
        refused(with_data(tmp_path / "none.csv"), "none.csv is empty")

    def test_only_a_header(self, with_data, tmp_path):
        (tmp_path / "none.csv").write_text("prompt,response\n")
        refused(with_data(tmp_path / "none.csv"), "none.csv has no rows")

    def test_missing_file(self, with_data, tmp_path):
        refused(with_data(tmp_path / "no.csv"), "no.csv does not exist", "path")

    def test_folder(self, with_data, tmp_path):
        refused(with_data(tmp_path), tmp_path, "is a folder")

    def test_unreadable_type(self, with_data, tmp_path):
        (tmp_path / "table.xlsx").write_bytes(b"PK")
        refused(with_data(tmp_path / "table.xlsx"), "table.xlsx", ".csv, .jsonl")

    def test_another_type_than_its_name(self, with_data, tmp_path):
        (tmp_path / "table.parquet").write_text("prompt,response\na,b\n")
        refused(with_data(tmp_path / "table.parquet"), "table.parquet is not a valid Parquet file")
        (tmp_path / "table.jsonl").write_text("prompt,response\na,b\n")
        refused(with_data(tmp_path / "table.jsonl"), "table.jsonl: line 1", "not valid JSON")

    def test_longer_than_the_context(self, with_data, tmp_path):
        (tmp_path / "long.csv").write_text("prompt,response\na,b\na," + "9" * 200 + "\n")
        refused(with_data(tmp_path / "long.csv"), "long.csv: row 2 has", "64", "--max-length 64")
        too_short = with_data(tmp_path / "long.csv", "--max-length", "2", "--q", "1e-9")
        refused(too_short, "--q 1e-09 selects no weight")

    def test_prompts_that_fill_the_length(self, with_data, tmp_path):
        (tmp_path / "long.csv").write_text("prompt,response\na,b\n" + "9" * 80 + ",b\n")
        run = with_data(tmp_path / "long.csv", "--max-length", "32")
        refused(run, "long.csv", "row 2", "--max-length")


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "culprits"),
        [
            (["--method", "spn"], ["'spn'", "spin"]),
            (["--target", "mpl"], ["'mpl'", "mlp"]),
            (["--scope", "matrx"], ["'matrx'", "matrix"]),
            (["--dtype", "fp32"], ["'fp32'", "float32"]),
            (["--device", "tpu9"], ["'tpu9'", "cpu"]),
            (["--device", "cuda:77"], ["'cuda:77'", "cpu"]),
            (["--q", "-1"], ["--q", "-1"]),
            (["--p", "1.5"], ["--p", "1.5"]),
            (["--q", "nan"], ["--q", "nan"]),
            (["--q", "1e-9"], ["--q 1e-09 selects no weight", "--scope model"]),
            (["--memory", "certain"], ["'certain'", "certified"]),
            (["--max-memory", "12 lemons"], ["'12 lemons'", "8GB"]),
            (["--max-memory", "1kB"], ["1 kB", "--max-memory"]),
            (["--dataset", "privacy=other.csv"], ["two data sets are called 'privacy'"]),
            (["--dataset", "privacy.csv"], ["privacy.csv is not NAME=FILE"]),
            (["--dataset", "general=g.csv"], ["'general'"]),
        ],
        ids=" ".join,
    )
    def test_localize(self, options, culprits, cli, localizing, model, output, data, monkeypatch):
        monkeypatch.chdir(data)
        shutil.copy("privacy.csv", "g.csv")
        refused(cli(*localizing(model, output, "-q", *options)), *culprits)

    def test_one_data_set(self, cli, model, output, data):
        run = cli(
            *("localize", model, "--dataset", f"a={data / 'privacy.csv'}", "--q", "10"),
            *("--general", data / "general.parquet", "-o", output, "-q"),
        )
        refused(run, "--dataset")

    @pytest.mark.parametrize("name", ["spin.bin", "spin", "spin.safetensors.json"])
    def test_output_that_is_no_patch_file(self, name, cli, localizing, model, output):
        refused(cli(*localizing(model, output.with_name(name))), name, f"{name}.safetensors")

    def test_output_that_is_a_folder(self, cli, localizing, model, output):
        refused(cli(*localizing(model, output.parent)), output.parent, "patch.safetensors")

    def test_output_that_cannot_be_written(self, cli, localizing, model, tmp_path):
        # Permissions do not stop root, under whom tests may run; a file in the way does.
        (tmp_path / "file").write_text("")
        refused(
            cli(*localizing(model, tmp_path / "file" / "deep" / "p.safetensors")),
            tmp_path / "file",
            "is not a folder",
        )
        assert (tmp_path / "file").read_text() == ""

    def test_neither_output_nor_in_place(self, cli, model, patch_file):
        refused(cli("apply", model, patch_file), "--in-place", "-o")

    def test_one_patch_to_combine(self, cli, patch_file, output):
        refused(cli("combine", "union", patch_file, "-o", output), "at least two")

    def test_nothing_in_common(self, cli, model, make_patch_file, output):
        files = [make_patch_file(model, seed=seed, count=1) for seed in (11, 12)]
        refused(cli("combine", "intersection", *files, "-o", output), "intersection", "empty")


class TestModel:
    @pytest.fixture(params=["localize", "apply"])
    def with_model(self, request, cli, localizing, patch_file, output):
        def run(folder):
            if request.param == "apply":
                return cli("apply", folder, patch_file, "-o", output.with_suffix(""))
            return cli(*localizing(folder, output, "-q"))

        return run

    def test_missing(self, with_model, tmp_path):
        refused(with_model(tmp_path / "no"), f"there is no folder {tmp_path / 'no'}", "user/name")

    def test_file(self, with_model, model):
        refused(with_model(model / "config.json"), "config.json is a file", model)

    def test_folder_without_config(self, with_model, model, tmp_path):
        folder = copied(model, tmp_path)
        (folder / "config.json").unlink()
        refused(with_model(folder), f"{folder} has no config.json")

    def test_pickle_only(self, with_model, model, tmp_path):
        folder = copied(model, tmp_path)
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        refused(with_model(folder), "pytorch_model.bin", "python -c", "save_pretrained")

    def test_cut_short(self, with_model, model, tmp_path):
        folder = copied(model, tmp_path)
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
        refused(with_model(folder), "model.safetensors")

    def test_damaged_header(self, with_model, model, tmp_path):
        folder = copied(model, tmp_path)
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(20)
            file.write(b"\x00garbage")
        refused(with_model(folder), "model.safetensors")

    def test_missing_tensor(self, with_model, model, tmp_path):
        from safetensors.numpy import load_file, save_file

        folder = copied(model, tmp_path)
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, folder / "model.safetensors")
        refused(with_model(folder), folder, "model.layers.1.mlp.up_proj.weight")

    def test_missing_shard(self, with_model, model, tmp_path):
        folder = copied(model, tmp_path)
        names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        (folder / "model.safetensors").rename(folder / names["a"])
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        refused(with_model(folder), folder, names["b"])

    def test_other_shapes_than_the_config_says(self, with_model, model, tmp_path):
        folder = copied(model, tmp_path)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 24}))
        refused(with_model(folder), "24")

    def test_unknown_architecture(self, with_model, model, tmp_path):
        folder = copied(model, tmp_path)
        (folder / "config.json").write_text('{"model_type": "abacus"}')
        refused(with_model(folder), "abacus")


class TestTokenizer:
    def test_missing(self, cli, localizing, make_checkpoint, output):
        folder = make_checkpoint(tokens=False)
        refused(cli(*localizing(folder, output, "-q")), f"{folder} has no tokenizer", "copy")

    def test_damaged(self, cli, localizing, model, output, tmp_path):
        folder = copied(model, tmp_path)
        (folder / "tokenizer.json").write_text('{"version": ')
        refused(cli(*localizing(folder, output, "-q")), folder, "tokenizer does not load")

    def test_of_another_model(self, cli, localizing, model, make_model, output, tmp_path):
        folder = copied(model, tmp_path)
        make_model("llama").save_pretrained(folder)  # of 50 tokens
        refused(cli(*localizing(folder, output, "-q")), folder, "has 50 tokens", "tokenizer")

    def test_remote_code_is_not_run(self, cli, localizing, model, output, tmp_path):
        folder = copied(model, tmp_path)
        config = {"tokenizer_class": None, "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "evil.py").write_text("raise SystemExit('ran')")
        run = cli(*localizing(folder, output, "-q"))
        refused(run, folder, "tokenizer does not load", "custom code")


class TestPatch:
    @pytest.fixture(params=["inspect", "apply", "revert", "combine"])
    def with_patch(self, request, cli, model, patch_file, output):
        def run(path):
            if request.param == "inspect":
                return cli("inspect", path)
            if request.param == "combine":
                return cli("combine", "union", path, patch_file, "-o", output)
            return cli(request.param, model, path, "-o", output.with_suffix(""))

        return run

    def test_missing(self, with_patch, tmp_path):
        refused(with_patch(tmp_path / "no.safetensors"), "no.safetensors", "check the path")

    def test_model_instead_of_patch(self, with_patch, model):
        refused(with_patch(model / "model.safetensors"), "model.safetensors")

    def test_folder_without_patch(self, with_patch, model):
        refused(with_patch(model), model, "neuron_patch.safetensors")

    def test_no_safetensors(self, with_patch, tmp_path):
        path = tmp_path / "p.safetensors"
        path.write_text("not a patch at all, but long enough to have a length")
        refused(with_patch(path), path)

    def test_empty(self, with_patch, tmp_path):
        path = tmp_path / "p.safetensors"
        path.write_bytes(b"")
        refused(with_patch(path), path)

    def test_truncated(self, with_patch, patch_file, tmp_path):
        path = tmp_path / "p.safetensors"
        path.write_bytes(patch_file.read_bytes()[:-9])
        refused(with_patch(path), path)

    def test_corrupted(self, with_patch, patch_file, tmp_path):
        data = bytearray(patch_file.read_bytes())
        (length,) = struct.unpack("<Q", data[:8])
        data[8 + length : 8 + length + 16] = b"\xff" * 16
        path = tmp_path / "p.safetensors"
        path.write_bytes(bytes(data))
        refused(with_patch(path), path)

    def test_of_another_architecture(self, cli, model, make_checkpoint, make_patch_file, output):
        path = make_patch_file(make_checkpoint("gpt2"))
        for command in ("apply", "revert"):
            run = cli(command, model, path, "-o", output.with_suffix(""))
            refused(run, "gpt2", "llama")

    def test_revert_of_what_is_not_there(self, cli, model, patch_file, output):
        refused(cli("revert", model, patch_file, "-o", output.with_suffix("")), "does not hold")


class TestOutputFolder:
    def test_exists(self, cli, model, patch_file, tmp_path, snapshot):
        folder = tmp_path / "taken"
        folder.mkdir()
        (folder / "diary.txt").write_text("mine")
        refused(cli("apply", model, patch_file, "-o", folder), folder, "exists already")
        assert snapshot(tmp_path) == {"taken": None, "taken/diary.txt": b"mine"}

    def test_below_a_file(self, cli, model, patch_file, tmp_path):
        (tmp_path / "file").write_text("")
        run = cli("apply", model, patch_file, "-o", tmp_path / "file" / "out")
        refused(run, tmp_path / "file")

    def test_inside_the_model(self, cli, model, patch_file, snapshot):
        before = snapshot(model)
        refused(cli("apply", model, patch_file, "-o", model / "out"), "inside the model")
        assert snapshot(model) == before
