"""Data on stdout, the rest on stderr."""

from __future__ import annotations

import json

import pytest

from neuropatch.cli import output
from neuropatch.cli.output import Output
from neuropatch.cli.views import histogram


def test_control_characters_are_shown_not_obeyed(capsys):
    out = Output()
    out.note("\x1b[2Jnote")
    out.warn("bell\a")
    output.print_lines(["a\u202eb", "tab\t."])
    printed = capsys.readouterr()
    assert printed.out == "a\ufffdb\ntab\ufffd.\n"
    assert printed.err == "\ufffd[2Jnote\nwarning: bell\ufffd\n"


def test_json_of_a_name_that_is_not_utf8(capsys):
    Output(json=True).result({"name": "a\udcffé"}, lambda: None)
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"name": "a\udcffé"}
    assert "é" in printed


def test_quiet_without_essence_prints_the_text(capsys):
    Output(quiet=True).result({}, lambda: print("text"))
    assert capsys.readouterr().out == "text\n"


def test_warnings_are_never_quiet(capsys):
    out = Output(quiet=True)
    out.note("unheard")
    out.warn("heard")
    assert capsys.readouterr().err == "warning: heard\n"


def test_progress_in_a_log(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    with Output().progress() as progress:
        progress.start("privacy", 100)
        for _ in range(10):
            now[0] += 10.0
            progress.advance(10)
        progress.start("general", 5)
    assert capsys.readouterr().err.splitlines() == [
        "privacy: 0 of 100",
        "privacy: 30 of 100",
        "privacy: 60 of 100",
        "privacy: 90 of 100",
        "general: 0 of 5",
    ]


def test_a_task_that_comes_back_is_told_once_in_a_log(capsys):
    with Output().progress() as progress:
        for _ in range(3):
            progress.start("forget", 8)
            progress.start("general", 5)
    assert capsys.readouterr().err.splitlines() == ["forget: 0 of 8", "general: 0 of 5"]


def test_progress_in_a_log_tells_where_a_task_stands(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    with Output().progress() as progress:
        progress.start("gates", 9)
        progress.tell("leakage 40%")
        for _ in range(2):
            now[0] += 40.0
            progress.advance()
        progress.start("fewer gates", 2)
        now[0] += 40.0
        progress.advance()
    assert capsys.readouterr().err.splitlines() == [
        "gates: 0 of 9",
        "gates: 1 of 9, leakage 40%",
        "gates: 2 of 9, leakage 40%",
        "fewer gates: 0 of 2",
        "fewer gates: 1 of 2",
    ]


def test_quiet_progress_is_silent(capsys):
    with Output(quiet=True).progress() as progress:
        progress.start("privacy", 1)
        progress.advance()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("counts", [{}, {"a": 0}, {"a": 0, "bb": 1, "c": 1000}])
def test_histogram(counts):
    lines = histogram(counts)
    assert len(lines) == len(counts)
    for line, count in zip(lines, counts.values(), strict=True):
        # A count that is not 0 is never drawn as nothing.
        assert line.rstrip().endswith(f"{count:,}") == (count == 0)
