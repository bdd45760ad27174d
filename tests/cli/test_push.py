"""Pushes that the command line refuses before it asks the Hub."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["--push", "ada/x", "-o", "out"], "--push sends the result to the Hub only", "drop -o"),
        (["--push", "ada/x", "--in-place"], "--push sends the result", "--in-place"),
        (["--push", "ada/x", "--hard-link"], "--push sends the result", "--hard-link"),
        (["--push", "x"], "'x' is not the name of a Hub repo", "user/name"),
        (["--push", "ada/x@dev"], "names its branch otherwise", "--revision"),
        (["-o", "out", "--private"], "--private is for a push", "--push"),
        (["-o", "out", "--create-pr"], "--create-pr is for a push", "--push"),
        (["-o", "out", "--revision", "dev"], "--revision is for a push", "--push"),
        (["-o", "out", "--commit-message", "x"], "--commit-message is for a push", "--push"),
        (["-o", "out", "--license", "mit"], "--license is for a push", "--push"),
        (["-o", "out", "--accept-license"], "--accept-license is for a push", "--push"),
        (["--push", "ada/x", "--results", "none.json"], "none.json cannot be read", "evaluate -o"),
        (["--push", "ada/x", "--license", "a b"], "is not the id of a licence", "apache-2.0"),
        (["--push", "ada/x", "--license", "mit"], "offline mode is on", "HF_HUB_OFFLINE"),
    ],
)
def test_apply(options, message, hint, cli, model, patch_file):
    run = cli("apply", model, patch_file, *options)
    assert (run.code, run.out) == (1, "")
    error, advice = run.err.splitlines()[-2:]
    assert message in error
    assert hint in advice


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--patch", "p"], "are for models"),
        (["--base-model", "ada/model"], "are for models"),
        (["--license", "mit"], "offline mode is on"),
        ([], "the licence of"),
    ],
)
def test_push_a_patch(options, message, cli, patch_file):
    run = cli("push", patch_file, "ada/patch", *options)
    assert (run.code, run.out) == (1, "")
    assert message in run.err


def test_push_nothing(cli, tmp_path):
    for source in (tmp_path / "none.safetensors", tmp_path):
        run = cli("push", source, "ada/patch", "--license", "mit")
        assert (run.code, run.out) == (1, "")
        assert str(source) in run.err


def test_results_that_are_none(cli, patch_file, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"format": "else"}))
    run = cli("push", patch_file, "ada/patch", "--results", path)
    assert run.code == 1
    assert "holds no results" in run.err


def test_list_of_no_user(cli):
    run = cli("list", "ada/patch")
    assert (run.code, run.out) == (1, "")
    assert "not the name of a user" in run.err
