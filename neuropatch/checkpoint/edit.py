"""Writing values into shards, flushed to disk and read back."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from neuropatch.checkpoint.location import Location
from neuropatch.checkpoint.values import Index
from neuropatch.errors import OutputError
from neuropatch.storage.dtypes import Array, bits

Values = tuple[Location, Index, Array]
"""A tensor, sorted positions in it ``[n]``, and the weights to write there ``[n]``."""


def write_shard(path: Path, values: Iterable[Values]) -> None:
    """Write values into one shard; returns when they are on the disk.

    Links are not followed, so that a write never reaches a file outside the folder.

    Raises:
        OSError: If the shard is a symbolic link, or cannot be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for location, offsets, new in values:
            location.write_stored(descriptor, offsets, location.encode(new, offsets))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify_shard(path: Path, values: Iterable[Values]) -> None:
    """Read values of one shard back.

    Raises:
        OutputError: If a value is not the one that was written.
    """
    with path.open("rb") as file:
        for location, offsets, new in values:
            found = location.read_stored(file.fileno(), offsets)
            if not np.array_equal(bits(found), bits(location.encode(new, offsets))):
                raise OutputError(
                    f"{path}: values of '{location.info.name}' read back differ from those written",
                    hint="another program writes to the file, or the disk is failing",
                )
