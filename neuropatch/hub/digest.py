"""What a file holds, as git and the Hub name it, and whether a download arrived whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuropatch.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

_CHUNK = 1 << 20

_LARGEST_BLOB = 20 << 20
"""The Hub keeps larger files in LFS only, where their SHA-256 names them."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Content:
    """The bytes of a file, without the bytes.

    Attributes:
        size: Their number.
        sha256: Their SHA-256, which LFS names them by.
        blob: Their git object id; None for a file too large for git on the Hub.
    """

    size: int
    sha256: str
    blob: str | None = None

    @classmethod
    def of(cls, data: bytes | Path) -> Content:
        """Read bytes or a file."""
        if isinstance(data, Path):
            size = data.stat().st_size
            if size > _LARGEST_BLOB:
                return cls(size, file_sha256(data))
            data = data.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
        return cls(len(data), hashlib.sha256(data).hexdigest(), blob.hexdigest())

    def is_in(self, entry: RepoFile) -> bool:
        """Whether a file of a repo has these bytes."""
        if entry.lfs is not None:
            return entry.lfs.sha256 == self.sha256
        return entry.blob_id == self.blob


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def cached_files(folder: Path) -> frozenset[Path]:
    """Files below a repo's folder in the Hub cache, which a download need not check again."""
    return frozenset(path for path in folder.rglob("*") if not path.is_symlink())


def check_downloads(paths: Iterable[Path], cached: frozenset[Path], *, what: str) -> None:
    """Check that files which were downloaded just now have the bytes that the Hub named.

    The Hub's client compares sizes only. It keeps a large file in the cache under the SHA-256 that
    the Hub gave for it, so that the file's own name tells what it has to hold. Small files, which
    git keeps, have no such name.

    Args:
        paths: Files of a snapshot.
        cached: Files that were in the cache before, see :func:`cached_files`.
        what: What was downloaded, for the message.

    Raises:
        HubError: If a file differs. It is removed, so that the next run downloads it again.
    """
    for path in paths:
        real = path.resolve()
        if real in cached or not _SHA256.fullmatch(real.name):
            continue
        if file_sha256(real) != real.name:
            real.unlink()
            path.unlink(missing_ok=True)
            raise damaged(what, path.name)


def damaged(what: str, name: str) -> HubError:
    """The error for a download whose checksum is wrong."""
    return HubError(
        f"{what}: {name} was damaged on the way, its SHA-256 is not the one on the Hub",
        hint="run it again to download it again; if it stays so, check proxies and mirrors",
    )
