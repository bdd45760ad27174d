"""``neuropatch analyze``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FIGURES = ("layers", "components", "similarity", "leakage")


@pytest.fixture
def patches(make_patch, make_layout, tmp_path):
    """Two patch files of weights and units of one tiny model."""
    paths = []
    for name, seed in (("first", 0), ("second", 1)):
        patch = make_patch(make_layout(), kinds=("zero",), units=("scale",), seed=seed)
        paths.append(patch.save(tmp_path / f"{name}.safetensors"))
    return paths


@pytest.fixture
def points(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("series,neurons,leakage\nspin,0,0.9\nspin,60,0.25\n")
    return path


@pytest.fixture
def no_figures(monkeypatch):
    """As if matplotlib were not installed; the folder is written sooner."""
    monkeypatch.setattr("neuropatch.analysis.output.find_spec", lambda name: None)


def test_a_table_without_a_folder(patches, points, cli, tmp_path):
    before = sorted(tmp_path.iterdir())
    run = cli("analyze", *patches, "--results", points)
    assert (run.code, run.err) == (0, "")
    for words in (
        "first",
        "decoder.1",
        "mlp units",
        "first, second",
        "by chance",
        "mean of 2 groups",
    ):
        assert words in run.out
    assert any(line.split()[:3] == ["spin", "60", "0.25"] for line in run.out.splitlines())
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_of_figures_and_numbers(patches, points, cli, tmp_path):
    folder = tmp_path / "new" / "figures"
    run = cli("analyze", *patches, "--results", points, "-o", folder, "--json")
    assert (run.code, run.err) == (0, "")
    files = [f"{name}.{kind}" for name in FIGURES for kind in ("csv", "svg", "png")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(["analysis.json", *files])
    document = json.loads(run.out)
    assert sorted(document["files"]) == sorted(path.name for path in folder.iterdir())
    written = json.loads((folder / "analysis.json").read_text())
    assert document == written | {"output": str(folder), "files": document["files"]}
    assert [one["name"] for one in written["patches"]] == ["first", "second"]


def test_quiet_prints_the_folder(patches, cli, tmp_path, no_figures):
    run = cli("analyze", patches[0], "-o", tmp_path / "out", "--quiet")
    assert (run.code, run.out) == (0, f"{tmp_path / 'out'}\n")
    assert not (tmp_path / "out" / "similarity.csv").exists()


def test_what_is_there_is_not_written_over(patches, points, cli, tmp_path, snapshot, no_figures):
    folder = tmp_path / "out"
    assert cli("analyze", *patches, "--results", points, "-o", folder).code == 0
    (folder / "mine.txt").write_text("mine")
    (folder / "leakage.svg").write_text("of the earlier analysis")
    before = snapshot(folder)
    run = cli("analyze", *patches, "-o", folder)
    assert run.code == 1
    assert run.err == (
        f"error: -o {folder} exists already\n"
        "  name a folder that does not exist, or add --overwrite\n"
    )
    assert snapshot(folder) == before
    assert cli("analyze", *patches, "-o", folder, "--overwrite").code == 0
    after = snapshot(folder)
    # What the new analysis lacks does not stay as if it belonged to it.
    assert set(before) - set(after) == {"leakage.csv", "leakage.svg"}
    assert after["mine.txt"] == b"mine"
    assert after["layers.csv"] == before["layers.csv"]


def test_a_file_in_the_way(patches, points, cli):
    run = cli("analyze", *patches, "-o", points, "--overwrite")
    assert (run.code, run.out) == (1, "")
    assert run.err.startswith(f"error: -o {points} is not a folder\n")


def test_without_matplotlib_the_numbers_are_written(patches, cli, tmp_path, no_figures):
    run = cli("analyze", *patches, "-o", tmp_path / "out")
    assert run.code == 0
    assert run.err == "warning: no figures without matplotlib: pip install 'neuropatch[plots]'\n"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["analysis.json", "components.csv", "layers.csv", "similarity.csv"]


def test_neither_torch_nor_matplotlib_is_loaded_for_a_table(patches):
    program = (
        "import json, sys\n"
        "from neuropatch.cli.app import main\n"
        "try:\n    main(['analyze', *sys.argv[1:]])\n"
        "finally:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *patches], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in json.loads(run.stderr)}
    assert loaded.isdisjoint({"torch", "transformers", "matplotlib", "pyarrow"})


def test_other_architectures_are_refused(patches, make_patch, make_layout, cli, tmp_path):
    other = make_patch(make_layout("gpt2")).save(tmp_path / "other.safetensors")
    run = cli("analyze", *patches, other, "-o", tmp_path / "out")
    assert run.code == 1
    first, second = run.err.splitlines()
    assert first.startswith("error: first and other are for different architectures: model type")
    assert second == "  analyze patches of one architecture at a time"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "colour"], "--by is 'colour'"),
        (["--results", "none.json"], "none.json cannot be read: No such file or directory"),
    ],
)
def test_mistakes(options, message, patches, cli):
    run = cli("analyze", *patches, *options)
    assert (run.code, run.out) == (1, "")
    assert run.err.splitlines()[0] == f"error: {message}"


def test_a_name_cannot_move_the_cursor(make_patch, make_layout, cli, tmp_path, no_figures):
    from dataclasses import replace

    patch = make_patch(make_layout(), kinds=("zero",))
    records = ({"name": "[red]x[/red]\x1b[2J", "categories": ["\x1b]0;t\x07"]},)
    patch = replace(patch, metadata=replace(patch.metadata, datasets=records))
    path = patch.save(tmp_path / "p.safetensors")
    for by in ("category", "dataset"):
        run = cli("analyze", path, "--by", by, "-o", tmp_path / by)
        assert run.code == 0
        assert "\x1b" not in run.out + run.err
        assert b"\x1b" not in (tmp_path / by / "layers.csv").read_bytes()
    assert "[red]x[/red]�[2J" in run.out
