"""How errors leave: one line, a hint, an exit code, and never a token."""

from __future__ import annotations

import errno

import pytest

from neuropatch.cli.errors import describe, report
from neuropatch.errors import NeuropatchError, UsageError

# Invented, and built at run time so that no scanner takes it for a token that leaked.
TOKEN = "hf_" + "Invented" * 4


@pytest.mark.parametrize(
    ("error", "message", "hint", "code"),
    [
        (NeuropatchError("it broke", hint="mend it"), "it broke", "mend it", 1),
        (UsageError("no"), "no", None, 1),
        (KeyboardInterrupt(), "interrupted; nothing half-written was left", None, 130),
        (OSError(errno.ENOSPC, "No space left", "/x/y"), "/x/y: No space left", "free", 1),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission", "check", 1),
        (MemoryError(), "out of memory", "lower --batch-tokens", 1),
        (KeyError("x"), "KeyError: 'x'", "this is a defect of neuropatch", 1),
    ],
)
def test_table(error, message, hint, code):
    said, advice, number = describe(error)
    assert said.startswith(message)
    assert (advice or "").startswith(hint or "")
    assert number == code


def test_one_line_and_one_hint(capsys):
    assert report(NeuropatchError("first\nsecond\x1b[31m", hint="a\nb")) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: first second\ufffd[31m\n  a b\n"


def test_debug_shows_a_traceback_without_tokens(monkeypatch, capsys):
    monkeypatch.setenv("NEUROPATCH_DEBUG", "1")
    monkeypatch.setenv("HF_TOKEN", "secret-of-a-mirror")
    with pytest.raises(ValueError, match="sent") as caught:
        raise ValueError(f"sent {TOKEN} and secret-of-a-mirror")
    assert report(caught.value) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith("  File ")
    assert lines[-2].startswith("error: ValueError: sent ")
    text = "\n".join(lines)
    assert "Invented" not in text
    assert "secret-of-a-mirror" not in text


def test_no_traceback_without_debug(cli, tmp_path):
    run = cli("inspect", tmp_path / "no.safetensors")
    assert run.code == 1
    assert "Traceback" not in run.err
