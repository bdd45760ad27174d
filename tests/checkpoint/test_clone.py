from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Event

import pytest

from neuropatch.checkpoint import clone as module
from neuropatch.checkpoint.clone import bytes_to_copy, can_reflink, clone, hard_link, in_hub_cache

DATA = os.urandom(300_001)


def refuse(*_):
    raise OSError(errno.EOPNOTSUPP, "not supported")


def copies_nothing(*_):
    return 0


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("broken", [(), ("copy_file_range",), ("copy_file_range", "sendfile")])
@pytest.mark.parametrize("how", [refuse, copies_nothing])
def test_every_way_copies_all_bytes(source, tmp_path, monkeypatch, broken, how):
    monkeypatch.setattr(module.fcntl, "ioctl", refuse)
    for name in broken:
        monkeypatch.setattr(os, name, how)
    assert clone(source, tmp_path / "copy") == "copied"
    assert (tmp_path / "copy").read_bytes() == DATA


@pytest.fixture
def flushing(monkeypatch):
    """``flushing(sync)``: copies that go on only when the file has been flushed, with ``sync``."""

    def install(sync):
        flushed = Event()
        send = os.copy_file_range

        def noting(file):
            try:
                sync(file)
            finally:
                flushed.set()

        def waiting(*args):
            assert flushed.wait(30)
            return send(*args)

        monkeypatch.setattr(module.fcntl, "ioctl", refuse)
        monkeypatch.setattr(os, "fsync", noting)
        monkeypatch.setattr(os, "copy_file_range", waiting)
        monkeypatch.setattr(module, "_LARGE", len(DATA))

    return install


def test_large_files_are_flushed_while_they_are_copied(source, tmp_path, flushing):
    flushing(os.fsync)
    assert clone(source, tmp_path / "copy") == "copied"
    assert (tmp_path / "copy").read_bytes() == DATA


def test_an_error_of_the_disk_is_not_lost_with_the_flush(source, tmp_path, flushing):
    def failing(_):
        raise OSError(errno.EIO, "disk failed")

    flushing(failing)
    with pytest.raises(OSError, match="disk failed"):
        clone(source, tmp_path / "copy")


@pytest.fixture
def holed(tmp_path):
    """A file of 8 MiB and a few bytes: data in the middle, holes before and behind it."""
    path = tmp_path / "holed"
    with path.open("wb") as file:
        file.seek(4 << 20)
        file.write(DATA)
        file.truncate((8 << 20) + 5)
    return path


@pytest.mark.parametrize("broken", [(), ("copy_file_range",), ("copy_file_range", "sendfile")])
@pytest.mark.parametrize("how", [refuse, copies_nothing])
def test_holes_are_copied_as_what_they_read_as(holed, tmp_path, monkeypatch, broken, how):
    monkeypatch.setattr(module.fcntl, "ioctl", refuse)
    for name in broken:
        monkeypatch.setattr(os, name, how)
    clone(holed, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == holed.read_bytes()


def test_holes_take_no_space_in_a_copy(holed, tmp_path, monkeypatch):
    monkeypatch.setattr(module.fcntl, "ioctl", refuse)
    clone(holed, tmp_path / "copy")
    # Where the file system of the temporary folder has no holes the two are equal.
    taken = [path.stat().st_blocks * 512 for path in (tmp_path / "copy", holed)]
    assert taken[0] <= taken[1] + (64 << 10)
    assert len(DATA) <= bytes_to_copy(holed) <= taken[1] + (64 << 10)


def test_without_word_of_holes_all_is_data(holed, tmp_path, monkeypatch):
    seek = os.lseek

    def no_holes(file, offset, whence):
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EINVAL, "invalid argument")
        return seek(file, offset, whence)

    monkeypatch.setattr(os, "lseek", no_holes)
    assert bytes_to_copy(holed) == holed.stat().st_size
    clone(holed, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == holed.read_bytes()


def test_an_old_python_without_copy_file_range(source, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "copy_file_range")
    clone(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA


def test_reflink_is_tried_first(source, tmp_path, monkeypatch):
    seen = []

    def ioctl(writer, request, reader):
        seen.append(request)
        os.pwrite(writer, os.pread(reader, len(DATA), 0), 0)

    monkeypatch.setattr(module.fcntl, "ioctl", ioctl)
    assert clone(source, tmp_path / "copy") == "reflinked"
    assert seen == [0x40049409]
    assert (tmp_path / "copy").read_bytes() == DATA
    assert can_reflink(source, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "source"]


def test_never_writes_through_what_is_there(source, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "link").symlink_to(victim)
    for name in ("victim", "link"):
        with pytest.raises(FileExistsError):
            clone(source, tmp_path / name)
    assert victim.read_bytes() == b"mine"


def test_a_full_disk_is_not_taken_for_a_missing_feature(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="No space"):
        clone(source, tmp_path / "copy")


def test_private_files_stay_private(source, tmp_path):
    source.chmod(0o400)
    clone(source, tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600


def test_hard_links_on_request(source, tmp_path):
    assert hard_link(source, tmp_path / "second") == "hard-linked"
    assert source.stat().st_nlink == 2


def test_links_and_the_hub_cache_are_never_hard_linked(tmp_path):
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    blob = blobs / "123"
    blob.write_bytes(DATA)
    (tmp_path / "link").symlink_to(blob)
    assert hard_link(tmp_path / "link", tmp_path / "one") in ("copied", "reflinked")
    assert hard_link(blob, tmp_path / "two") in ("copied", "reflinked")
    assert blob.stat().st_nlink == 1
    assert (tmp_path / "one").read_bytes() == DATA


def test_another_disk_means_a_copy(source, tmp_path, monkeypatch):
    def cross(*_, **__):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", cross)
    assert hard_link(source, tmp_path / "copy") in ("copied", "reflinked")


def test_in_hub_cache(tmp_path):
    assert in_hub_cache(Path("/x/models--a--b/snapshots/0/model.safetensors"))
    assert in_hub_cache(Path("/x/models--a--b/blobs/0"))
    assert not in_hub_cache(Path("/x/models--a--b-copy/model.safetensors"))
    assert not in_hub_cache(tmp_path)
