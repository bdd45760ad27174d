"""Writing files atomically."""

import os
import stat

import pytest

from neuropatch.errors import OutputError
from neuropatch.storage.files import atomic_write


def _names(folder):
    return [path.name for path in folder.iterdir()]


def test_writes_what_it_is_given(tmp_path):
    path = tmp_path / "new" / "folder" / "file.bin"
    atomic_write(path, [b"ab", memoryview(b"cd"), b""])
    assert path.read_bytes() == b"abcd"
    assert _names(path.parent) == ["file.bin"]


def test_replaces_what_is_there(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"a longer old content")
    atomic_write(path, [b"new"])
    assert path.read_bytes() == b"new"


def test_an_open_reader_keeps_the_old_content(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        atomic_write(path, [b"new"])
        assert reader.read() == b"old"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    def parts():
        yield b"half"
        raise error

    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        atomic_write(path, parts())
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["file.bin"]


def test_a_failure_to_rename_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(PermissionError):
        atomic_write(tmp_path / "file.bin", [b"new"])
    assert _names(tmp_path) == []


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        atomic_write(tmp_path, [b""])


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_decides_who_may_read(tmp_path, umask):
    old = os.umask(umask)
    try:
        atomic_write(tmp_path / "file.bin", [b"new"])
        assert os.umask(umask) == umask
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file.bin").stat().st_mode) == 0o666 & ~umask
