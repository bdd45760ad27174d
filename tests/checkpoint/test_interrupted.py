"""Runs that are killed, cut off or crowded: nothing half-written is ever seen."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from neuropatch.checkpoint import apply as module
from neuropatch.checkpoint import staging
from neuropatch.checkpoint.apply import apply_patches, revert_patches
from neuropatch.errors import OutputError, ResourceError
from neuropatch.patch.format import read_patch

KILLED = """
import os, signal, sys
from pathlib import Path
from neuropatch.patch.format import read_patch
from neuropatch.checkpoint.apply import apply_patches

at, name, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
patch = read_patch(Path("patch.safetensors"))
calls = 0
real = getattr(os, name)

def die(*a, **k):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*a, **k)

setattr(os, name, die)
apply_patches("model", [patch], *arguments, in_place=not arguments)
"""


def kill(folder, at, name, *arguments):
    """Run apply in another process that kills itself at its ``at``-th call of ``os.name``."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(at), name, *arguments],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


@pytest.fixture
def bench(lab, tmp_path):
    """A folder with a sharded model and a patch of it."""
    model = lab.checkpoint(tmp_path / "model", shards=3)
    lab.patch(model).save(tmp_path / "patch.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("at", "name"),
    [(1, "copy_file_range"), (4, "copy_file_range"), (1, "pwrite"), (40, "pwrite"), (2, "fsync")],
)
def test_killed_while_a_folder_is_written(lab, bench, at, name):
    before = lab.tree(bench / "model")
    assert kill(bench, at, name, "out")
    assert lab.names(bench) == [
        ".out.neuropatch-partial", "model", "patch.safetensors",
    ]  # fmt: skip
    patch = read_patch(bench / "patch.safetensors")
    apply_patches(bench / "model", [patch], bench / "out")
    assert lab.names(bench) == ["model", "out", "patch.safetensors"]
    assert lab.holds(bench / "out", lab.expected(bench / "model", patch))
    assert lab.tree(bench / "model") == before


@pytest.mark.parametrize(
    ("at", "name"), [(1, "fsync"), (3, "fsync"), (1, "pwrite"), (50, "pwrite"), (7, "fsync")]
)
def test_killed_in_place(lab, bench, at, name):
    before = lab.tree(bench / "model")
    patch = read_patch(bench / "patch.safetensors")
    expected = lab.expected(bench / "model", patch)
    assert kill(bench, at, name)
    assert (bench / "model/neuropatch").exists()
    result = apply_patches(bench / "model", [patch], in_place=True)
    assert lab.holds(bench / "model", expected)
    assert lab.names(bench / "model/neuropatch") == [result.undo.name]
    revert_patches(bench / "model", [read_patch(result.undo)], in_place=True)
    shutil.rmtree(bench / "model/neuropatch")
    assert lab.tree(bench / "model") == before


@pytest.mark.parametrize("stage", ["clone", "write_shard", "verify_shard"])
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ResourceError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ResourceError),
        (OSError(errno.EROFS, "Read-only file system"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_failures_leave_nothing(lab, bench, monkeypatch, stage, error, raised):
    before = lab.tree(bench)

    def fail(*_):
        raise error

    monkeypatch.setattr(module, stage, fail)
    patch = read_patch(bench / "patch.safetensors")
    with pytest.raises(raised):
        apply_patches(bench / "model", [patch], bench / "new/deep/out")
    assert lab.tree(bench) == before
    assert not (bench / "new").exists()


def test_too_small_a_disk_is_found_before_copying(lab, bench, monkeypatch):
    usage = shutil.disk_usage(bench)
    monkeypatch.setattr(module, "can_reflink", lambda source, folder: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    monkeypatch.setattr(module, "clone", lambda *_: pytest.fail("something was copied"))
    patch = read_patch(bench / "patch.safetensors")
    with pytest.raises(ResourceError, match=r"needs \d+ bytes, and 1000 are free"):
        apply_patches(bench / "model", [patch], bench / "out")
    assert lab.names(bench) == ["model", "patch.safetensors"]


def test_reflinks_need_no_space(lab, bench, monkeypatch):
    monkeypatch.setattr(module, "can_reflink", lambda source, folder: True)
    monkeypatch.setattr(module, "check_space", lambda *_, **__: pytest.fail("space was asked for"))
    apply_patches(bench / "model", [read_patch(bench / "patch.safetensors")], bench / "out")
    assert (bench / "out/config.json").exists()


def test_an_output_that_appears_meanwhile_is_kept(lab, bench, monkeypatch):
    real = module.write_shard

    def slow(path, values):
        (bench / "out").mkdir(exist_ok=True)
        (bench / "out/theirs").write_text("mine")
        real(path, values)

    monkeypatch.setattr(module, "write_shard", slow)
    with pytest.raises(OutputError, match="appeared while"):
        apply_patches(bench / "model", [read_patch(bench / "patch.safetensors")], bench / "out")
    assert lab.names(bench / "out") == ["theirs"]
    assert lab.names(bench) == ["model", "out", "patch.safetensors"]


def test_a_live_writer_is_not_disturbed(lab, bench):
    patch = read_patch(bench / "patch.safetensors")
    with staging.staged_folder(bench / "out") as folder:
        (folder / "half").write_text("written")
        with pytest.raises(OutputError, match="another neuropatch is writing"):
            apply_patches(bench / "model", [patch], bench / "out")
        assert (folder / "half").read_text() == "written"
    assert lab.names(bench / "out") == ["half"]


def test_many_writers_of_one_output(lab, bench):
    patch = read_patch(bench / "patch.safetensors")
    expected = lab.expected(bench / "model", patch)
    done, refused, start = [], [], threading.Barrier(8)

    def work():
        start.wait()
        try:
            done.append(apply_patches(bench / "model", [patch], bench / "out"))
        except OutputError as error:
            refused.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1
    assert len(refused) == 7
    assert lab.holds(bench / "out", expected)
    assert lab.names(bench) == ["model", "out", "patch.safetensors"]


def test_a_partial_folder_that_is_a_link_is_not_followed(lab, bench):
    (bench / "victim").mkdir()
    (bench / "victim/content").mkdir()
    (bench / "victim/content/file").write_text("mine")
    (bench / ".out.neuropatch-partial").symlink_to("victim")
    with pytest.raises(OutputError, match="symbolic link"):
        apply_patches(bench / "model", [read_patch(bench / "patch.safetensors")], bench / "out")
    assert (bench / "victim/content/file").read_text() == "mine"
