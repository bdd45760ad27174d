"""``neuropatch audit``, with a classifier and a recipe of the tests' own."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import types

import numpy as np
import pytest


class Cut:
    """``P(yhat = 1)`` rises with the column ``x``; one half at a place that training found."""

    def __init__(self, cut):
        self.cut = cut

    def probabilities(self, examples):
        return 1 / (1 + np.exp(self.cut - examples.columns["x"]))


def train(examples, seed):
    x = examples.columns["x"]
    rows = np.random.default_rng(seed).permutation(len(x))[: len(x) // 2]
    ones = x[rows][examples.labels[rows] == 1]
    return Cut(ones.min())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model folder that loads as a cut at 60, made for the group ``m``."""
    loading = types.ModuleType("neuropatch.fairness.loading")
    loading.load_classifier = lambda folder, *, device="auto": Cut(60)
    loading.load_recipe = lambda folder, *, device="auto": train
    monkeypatch.setitem(sys.modules, "neuropatch.fairness.loading", loading)
    model = tmp_path / "model"
    model.mkdir()
    return model


@pytest.fixture
def rows(tmp_path):
    rng = random.Random(0)
    lines = ["x,sex,hired"]
    for _ in range(600):
        x, sex = rng.randint(0, 100), rng.choice("fm")
        lines.append(f"{x},{sex},{'yes' if x > {'f': 30, 'm': 60}[sex] else 'no'}")
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([*lines, ",f,yes"]))
    return path


@pytest.fixture
def auditing(folder, rows):
    def arguments(*options):
        return [
            "audit",
            folder,
            "--data",
            rows,
            "--label",
            "hired=yes",
            "--sensitive",
            "sex",
            *options,
        ]

    return arguments


def test_what_a_user_reads(cli, auditing):
    run = cli(*auditing("--g0", "sex=m", "--g1", "sex=f", "--victims", "3", "--shadows", "3"))
    assert run.code == 0, run.err
    assert "dropped 1 of 601 rows without a value of 'x'" in run.err
    for line in ("accuracy gap", "Delta_EO", "W ", "bound Delta_EO * W", "measured advantage"):
        assert line in run.out
    assert "Adv <= Delta_EO * W holds" in run.out
    assert "meta-classifier" in run.out
    assert "6 of 6" in run.out
    assert "verdict: DETECTABLE" in run.out


def test_json_quiet_and_file(cli, auditing, tmp_path):
    path = tmp_path / "audit.json"
    run = cli(*auditing("--json", "-q", "-o", path))
    assert (run.code, run.err) == (0, "")
    document = json.loads(run.out)
    assert document == json.loads(path.read_text())
    assert document["attacks"] is None
    assert document["inference"]["composition_distance"]["value"] == 1
    assert document["data"]["used"] == 600
    assert cli(*auditing("-q")).out == "detectable\n"


def test_threshold(cli, auditing):
    assert cli(*auditing("-q", "--threshold", "0.9")).out == "not-detectable\n"


def test_shares(cli, auditing):
    run = cli(*auditing("--json", "--g0", "sex=m:80%", "--g1", "sex=m:20%", "--match-labels"))
    document = json.loads(run.out)
    assert document["distributions"]["g0"]["what"] == "80% sex=m"
    # |0.8 - 0.2|, and a little sampling in the larger of the two labels.
    assert 0.5 < document["inference"]["composition_distance"]["value"] < 0.7
    assert document["inference"]["inequality"] != "violated"


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (["--sensitive", "gender"], "no column 'gender'"),
        (["--schema", "adult"], "which schema adult needs"),
        (["--schema", "x"], "no schema 'x'"),
        (["--g0", "sex=m"], "--g1 is not"),
        (["--g0", "sex=q", "--g1", "sex=f"], "no row has sex=q"),
        (["--g0", "sex=m:130%", "--g1", "sex=m:10%"], "130%"),
        (["--threshold", "3"], "--threshold is 3"),
        (["--label", "hired"], "--label 'hired' is no condition"),
        (["--data", "nowhere.csv"], "nowhere.csv does not exist"),
        (["-o", "audit.txt"], "a file named *.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(cli, auditing, options, culprit):
    run = cli(*auditing("-q", *options))
    assert (run.code, run.out) == (1, "")
    error, hint = run.err.splitlines()
    assert culprit in error
    assert hint.startswith("  ")


def test_files_are_checked_before_the_model_is_sought(cli, rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "neuropatch.fairness.loading", None)
    run = cli("audit", "no/model", "--data", rows, "--label", "hired=yes", "--sensitive", "age")
    assert "no column 'age'" in run.err


def test_bad_input_is_refused_without_torch(rows):
    program = (
        "import sys\n"
        "from neuropatch.cli.app import main\n"
        f"arguments = ['audit', './nowhere', '--data', {str(rows)!r}, '--label', 'hired=yes']\n"
        "try:\n    main([*arguments, '--sensitive', 'sex'])\n"
        "finally:\n    print('torch' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "False\n")
    assert "there is no folder ./nowhere" in run.stderr
