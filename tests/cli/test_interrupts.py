"""Ctrl-C, SIGTERM, closed pipes: nothing half-written, and runs that go on where they were."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")]


@pytest.fixture
def signalled(monkeypatch):
    """``signalled(module, name, number)``: a function sends this process a signal when called."""

    def arrange(module, name, number):
        original = getattr(module, name)

        def send(*args, **kwargs):
            result = original(*args, **kwargs)
            os.kill(os.getpid(), number)
            return result

        monkeypatch.setattr(module, name, send)

    return arrange


@pytest.mark.parametrize(("number", "code", "said"), SIGNALS)
@pytest.mark.parametrize("step", ["clone", "write_shard", "verify_shard"])
def test_apply_to_a_folder(number, code, said, step, cli, model, patch_file, signalled, tmp_path):
    from neuropatch.checkpoint import apply

    signalled(apply, step, number)
    run = cli("apply", model, patch_file, "-o", tmp_path / "new" / "out")
    assert (run.code, run.out) == (code, "")
    assert run.err == f"error: {said}; nothing half-written was left\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize(("number", "code", "said"), SIGNALS)
def test_apply_in_place(number, code, said, cli, model, patch_file, signalled, tmp_path, snapshot):
    from neuropatch.checkpoint import journal

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    before = snapshot(folder)
    signalled(journal, "verify_shard", number)
    run = cli("apply", folder, patch_file, "--in-place")
    assert run.code == code
    assert said in run.err
    assert snapshot(folder) == before


@pytest.mark.parametrize(("number", "code", "said"), SIGNALS)
def test_localize_leaves_nothing(number, code, said, cli, localizing, model, signalled, tmp_path):
    from neuropatch.attribution import run as scoring

    signalled(scoring, "packed_losses", number)
    run = cli(*localizing(model, tmp_path / "p.safetensors"))
    assert (run.code, run.out) == (code, "")
    assert said in run.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code", "said"), SIGNALS)
def test_localize_goes_on(number, code, said, cli, localizing, model, monkeypatch, tmp_path):
    from neuropatch.attribution import run as scoring

    calls, stop_at = [], [0]
    original = scoring.packed_losses

    def count(*args):
        calls.append(1)
        if len(calls) == stop_at[0]:
            os.kill(os.getpid(), number)
        return original(*args)

    monkeypatch.setattr(scoring, "packed_losses", count)
    options = ["--batch-tokens", "64"]
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    assert cli(*localizing(model, whole, *options)).code == 0
    total = len(calls)

    calls.clear()
    stop_at[0] = total // 2
    run = cli(*localizing(model, cut, *options, "--resume"))
    assert run.code == code
    assert "the same command goes on from there" in run.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.resume", "whole.safetensors"]
    # The batch in work was finished, and no other one begun.
    assert len(calls) == total // 2

    assert cli(*localizing(model, cut, *options, "--resume")).code == 0
    assert len(calls) == total
    assert cut.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "cut.resume").exists()


def test_state_of_another_run_is_refused(cli, localizing, model, signalled, monkeypatch, tmp_path):
    from neuropatch.attribution import run as scoring

    output = tmp_path / "p.safetensors"
    with monkeypatch.context() as patched:
        original = scoring.packed_losses

        def send(*args):
            os.kill(os.getpid(), signal.SIGINT)
            return original(*args)

        patched.setattr(scoring, "packed_losses", send)
        assert cli(*localizing(model, output, "--resume")).code == 130
    run = cli(*localizing(model, output, "--resume", "--seed", "9", "-q"))
    assert run.code == 1
    assert "p.resume holds the state of a run with another model, data or options" in run.err
    assert not output.exists()


def test_a_process_that_gets_ctrl_c(process, localizing, model, tmp_path):
    run = process(*localizing(model, tmp_path / "p.safetensors", "--batch-tokens", "16"))
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith("privacy: 0 of"):
            break
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, "")
    assert err.endswith("error: interrupted; nothing half-written was left\n")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_no_error(process, patch_file):
    run = process("inspect", patch_file, "--json")
    assert run.stdout is not None
    run.stdout.close()
    assert run.stderr is not None
    assert run.stderr.read() == ""
    assert run.wait() == 0


def test_a_full_stdout_is_an_error(process, patch_file):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        run = subprocess.run(
            [sys.executable, "-m", "neuropatch", "inspect", str(patch_file)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert "No space left on device" in run.stderr
    assert run.stderr.count("\n") == 2
