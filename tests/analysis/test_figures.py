"""Figures: complete, the same each time, described, and safe with any name."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from neuropatch.analysis.analysis import analyze
from neuropatch.analysis.figures import render
from neuropatch.analysis.leakage import Measurements, Metric, Point
from neuropatch.analysis.names import shown

NAMES = ("layers", "components", "similarity", "leakage")
HOSTILE = shown("_<script>alert('$x^2$')</script> & =1+1 \x1b[31m")
ODD = (HOSTILE, "b", "名前")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def analysis(unit_patch, weight_patch):
    """``analysis(names)``: patches of every kind, with leakage from 0 to 5,000 neurons."""

    def make(names=("a", "b", "c")):
        patches = {
            name: unit_patch({0: [1, 2 + number % 18]})
            if number % 2
            else weight_patch({(1, "q"): [(0, c) for c in range(12)], (0, "up"): [(1, 1)]})
            for number, name in enumerate(names)
        }
        points = tuple(
            Point(name, count, 1 / (1 + count), 0.0, 1.0)
            for name in names
            for count in (0, 20, 5000)
        )
        measured = Measurements("x", Metric(f"leak {names[0]}", "%"), points)
        return analyze(patches, by="patch", measurements=[measured])

    return make


@pytest.fixture(scope="module")
def files(analysis):
    """The figures of three patches, one of which has a name that means harm."""
    return render(analysis(ODD))


def _texts(svg):
    return [text for text in ElementTree.fromstring(svg).itertext() if text.strip()]


def test_every_figure_is_there_in_both_formats(files):
    assert list(files) == [f"{name}.{suffix}" for name in NAMES for suffix in ("svg", "png")]
    for name, content in files.items():
        assert content.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")


def test_equal_analyses_give_equal_bytes_whatever_the_users_style(analysis, files):
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": "other", "axes.facecolor": "red"}):
        assert render(analysis(ODD)) == files
        assert mpl.rcParams["font.size"] == 20
    assert b"<dc:date>" not in files["layers.svg"]


def test_axes_are_labelled_and_described(files):
    layers = _texts(files["layers.svg"])
    assert "share of a patch's neurons and weights (%)" in layers
    assert "layer (number, from the input)" in layers
    leakage = _texts(files["leakage.svg"])
    assert "edited neurons (number)" in leakage
    assert f"leak {HOSTILE} (%)" in leakage
    assert {"0", "1,000"} <= set(leakage)
    for name in NAMES:
        root = ElementTree.fromstring(files[f"{name}.svg"])
        assert root.get("role") == "img"
        assert root.find(f"{SVG}title").text
        assert len(root.find(f"{SVG}desc").text) > 40
        assert b"Description" in files[f"{name}.png"]


def test_a_description_tells_what_is_largest(unit_patch):
    files = render(analyze({"p": unit_patch({0: [1], 1: [1, 2, 3]})}))
    assert list(files) == ["layers.svg", "layers.png", "components.svg", "components.png"]
    root = ElementTree.fromstring(files["layers.svg"])
    assert "Largest share of each: p: decoder.1 (75.0%)." in root.find(f"{SVG}desc").text


def test_names_are_text_and_nothing_else(files):
    for name in NAMES:
        root = ElementTree.fromstring(files[f"{name}.svg"])
        assert not list(root.iter(f"{SVG}script"))
    # An underscore does not hide it in the legend, and dollars make no formula of it.
    assert HOSTILE in _texts(files["layers.svg"])
    assert "名前" in _texts(files["components.svg"])


def test_many_groups_and_long_names_are_drawn(analysis):
    names = [f"{'a very long name of a patch ' * 2}{n}" for n in range(11)]
    found = analysis(names)
    stacks = replace(found.layers, places=("encoder.0", "decoder.0"))
    texts = _texts(render(replace(found, layers=stacks, leakage=None))["layers.svg"])
    assert {"encoder 0", "decoder 0", "layer (stack and number, from the input)"} <= set(texts)
    assert "mean of 11 groups ± std" in texts
    assert names[0] not in texts


def test_the_tables_are_the_document(analysis):
    found = analysis((HOSTILE, "b", "c"))
    files = found.data_files()
    document = json.loads(files["analysis.json"])
    assert document["counted"] == "neurons and weights"
    assert document["metric"]["unit"] == "%"
    assert [one["total"] for one in document["patches"]] == [2, 2, 2]
    for name in NAMES:
        rows = list(csv.DictReader(io.StringIO(files[f"{name}.csv"].decode())))
        assert len(rows) == len(document[name])
        for row, record in zip(rows, document[name], strict=True):
            assert row == {key: "" if v is None else str(v) for key, v in record.items()}


def test_a_table_runs_no_formula_in_a_spreadsheet(unit_patch):
    found = analyze({"=HYPERLINK(1)": unit_patch({0: [1]})}, by="patch")
    text = found.data_files()["layers.csv"].decode()
    assert "\npatch,'=HYPERLINK(1),decoder.0" in text
    assert json.loads(found.data_files()["analysis.json"])["patches"][0]["name"] == "=HYPERLINK(1)"
