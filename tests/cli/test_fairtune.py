"""``neuropatch fairtune``: from a table to a fair model, its patch, and back."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys

import pytest

FAST = ("--epochs", "2", "--max-cost", "0.2", "--device", "cpu")
READING = ("--label", "hired=yes", "--sensitive", "sex")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """People whose cut of ``x`` depends on their group: a model of one is wrong on the other."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "town", "sex", "hired"])
        for _ in range(1200):
            x, sex = rng.gauss(0, 1), rng.choice("fm")
            hired = "yes" if x > {"f": -0.4, "m": 0.4}[sex] else "no"
            writer.writerow([f"{x:.4f}", rng.choice("ab"), sex, hired])
    return path


@pytest.fixture(scope="module")
def made(rows, tmp_path_factory):
    """A run in a process of its own, as a user starts it: its folder and its output."""
    folder = tmp_path_factory.mktemp("out") / "fair"
    command = [sys.executable, "-m", "neuropatch", "fairtune", "new", "--data", rows, *READING]
    limits = ("--max-neurons", "0.25", "-o", folder, "--json")
    run = subprocess.run([*command, *FAST, *limits], capture_output=True, text=True, check=True)
    return folder, json.loads(run.stdout), run.stderr


def _patch_is_the_difference(cli, base, fair, patch, tmp_path, snapshot):
    assert cli("apply", base, patch, "-o", tmp_path / "again").code == 0
    assert snapshot(tmp_path / "again") == snapshot(fair)
    assert cli("revert", fair, patch, "-o", tmp_path / "back").code == 0
    assert snapshot(tmp_path / "back") == snapshot(base)


def test_what_is_written_and_printed(made):
    folder, printed, notes = made
    assert sorted(path.name for path in folder.iterdir()) == [
        "base", "fair", "patch.safetensors", "results.json",
    ]  # fmt: skip
    assert json.loads((folder / "results.json").read_text()) == printed
    assert "pure groups" in notes
    before, after = printed["before"], printed["after"]
    assert after["accuracy_gap"]["value"] < before["accuracy_gap"]["value"] / 2
    assert after["composition_distance"]["value"] == 1
    assert after["advantage"]["value"] <= after["bound"]["value"] + 1e-12
    assert printed["total_units"] == 128
    assert 0 < printed["units"] <= 32
    assert printed["accuracy_cost"] == pytest.approx(
        sum(one["value"] for one in before["accuracy"]) / 2
        - sum(one["value"] for one in after["accuracy"]) / 2
    )
    assert sum(map(sum, printed["rows"].values())) == 1200


def test_base_and_patch_are_the_fair_model(made, cli, tmp_path, snapshot):
    folder, _, _ = made
    paths = folder / "base", folder / "fair", folder / "patch.safetensors"
    _patch_is_the_difference(cli, *paths, tmp_path, snapshot)


def test_the_patch_is_like_any_other(made, cli, tmp_path):
    folder, printed, _ = made
    patch = folder / "patch.safetensors"
    told = cli("inspect", patch)
    assert told.code == 0
    assert f"{printed['weights']:,} add weights" in told.out
    assert "fft (arXiv:2606.01719)" in told.out
    assert "neuropatch_tabular_mlp" in told.out
    made_again = cli("diff", folder / "base", folder / "fair", "-o", tmp_path / "d.safetensors")
    assert made_again.code == 0, made_again.err
    other = cli("combine", "union", patch, patch, "-o", tmp_path / "two.safetensors")
    assert other.code == 0, other.err


def test_the_fair_model_can_be_audited_and_its_kind_trained(made, rows, cli):
    folder, printed, _ = made
    run = cli(
        *("audit", folder / "fair", "--data", rows, *READING, "--device", "cpu", "--json"),
        *("--victims", "1", "--shadows", "1"),
    )
    assert run.code == 0, run.err
    found = json.loads(run.out)
    assert found["attacks"]["results"]
    # All rows instead of the test rows.
    value = found["inference"]["accuracy_gap"]["value"]
    assert value == pytest.approx(printed["after"]["accuracy_gap"]["value"], abs=0.1)


def test_a_model_of_ones_own(made, rows, cli, tmp_path, snapshot):
    base = made[0] / "base"
    before = snapshot(base)
    patch = tmp_path / "elsewhere" / "p.safetensors"
    run = cli(
        *("fairtune", base, "--data", rows, *READING, *FAST, "-o", tmp_path / "own"),
        *("--patch", patch, "--baselines"),
    )
    assert run.code == 0, run.err
    assert "trained elsewhere" in run.err
    assert "no rehearsal" in run.out
    assert "DP-SGD" in run.out
    assert "units changed" in run.out
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == ["fair", "results.json"]
    assert snapshot(base) == before
    _patch_is_the_difference(cli, base, tmp_path / "own" / "fair", patch, tmp_path, snapshot)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (["--rehearsal", "2"], "--rehearsal is 2"),
        (["--max-neurons", "0"], "--max-neurons is 0"),
        (["--max-neurons", "1000"], "of the model's 128 units"),
        (["--penalty-weight", "-1"], "--penalty-weight is -1"),
        (["--g0", "sex=f"], "--g0 is given and --g1 is not"),
        (["--sensitive", "age"], "'age'"),
        (["--patch", "p.bin"], "p.bin"),
    ],
    ids=" ".join,
)
def test_mistakes_leave_nothing_behind(options, culprit, made, rows, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = cli(
        *("fairtune", made[0] / "base", "--data", rows, *READING, *FAST, "-q"),
        *("-o", tmp_path / "out", *options),
    )
    assert (run.code, run.out) == (1, "")
    assert culprit in run.err
    assert len(run.err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused(made, rows, cli, snapshot):
    folder = made[0]
    before = snapshot(folder)
    run = cli("fairtune", "new", "--data", rows, *READING, "-o", folder)
    assert (run.code, run.out) == (1, "")
    assert "exists already" in run.err
    assert snapshot(folder) == before


def test_texts_need_a_model_to_start_from(cli, tmp_path):
    path = tmp_path / "texts.csv"
    lines = [f"she runs {i},f,yes\nhe runs {i},m,no\nhe sits {i},m,yes\nshe sits {i},f,no\n"
             for i in range(20)]  # fmt: skip
    path.write_text("text,sex,hired\n" + "".join(lines))
    run = cli(
        *("fairtune", "new", "--data", path, *READING, "--text-column", "text"),
        *("-o", tmp_path / "out", "-q"),
    )
    assert run.code == 1
    assert "--train-base" in run.err
    assert not (tmp_path / "out").exists()
