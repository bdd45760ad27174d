"""Where the bytes of a data set come from: a local file or a file on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from neuropatch.errors import DataError

READABLE_SUFFIXES = (".csv", ".jsonl", ".json", ".parquet", ".txt")

_HUB_SCHEME = "hf://"
# user/name, user/name@revision, user/name:split, user/name@revision:split
_HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[^:@]+))?(:(?P<split>[\w.-]+))?"
)


@dataclass(frozen=True)
class Source:
    """The bytes of one data file and what is known about them.

    Attributes:
        label: The file as the user typed it, for error messages.
        name: A display name for metadata that leaks no folder of the user's machine: the file name
            of a local file, ``hf://datasets/user/name@commit/path`` of a file on the Hub.
        suffix: Lower-case file name suffix, one of :data:`READABLE_SUFFIXES`.
        data: The file's bytes.
        revision: The commit of a file on the Hub, None for a local file.
    """

    label: str
    name: str
    suffix: str
    data: bytes
    revision: str | None

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 digest of the bytes."""
        return hashlib.sha256(self.data).hexdigest()


def read_source(spec: str) -> Source:
    """Read the bytes that a data set argument names.

    Args:
        spec: A path (``~/`` is expanded); ``hf://datasets/user/name[@rev]/path/file.csv``; or
            ``user/name[@rev][:split]`` where no local path of that name exists.

    Returns:
        The bytes with their provenance.

    Raises:
        DataError: The file does not exist, cannot be read, or has a suffix that no reader knows;
            or the Hub data set has no single file for the split.
        HubError: The Hub request failed.
    """
    if spec.startswith(_HUB_SCHEME):
        return _read_hub(spec, None)
    # A shell expands ~ only at the start of a word, so not in `--dataset name=~/file.csv`.
    path = Path(spec).expanduser() if spec.startswith("~/") else Path(spec)
    hub_id = _HUB_ID.fullmatch(spec)
    if hub_id is not None and path.suffix.lower() not in READABLE_SUFFIXES and not path.exists():
        return _read_hub(spec, hub_id)
    return _read_local(spec, path)


def _read_local(spec: str, path: Path) -> Source:
    try:
        if path.is_dir():
            raise DataError(f"{spec} is a folder, not a data file", hint="name one file in it")
        path.stat()
        suffix = readable_suffix(spec, path.name)
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{spec} does not exist",
            hint="check the path; a Hub data set is written user/name or "
            "hf://datasets/user/name/path/file.csv",
        ) from None
    except OSError as error:
        raise DataError(
            f"{spec} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from error
    return Source(spec, path.name, suffix, data, None)


def _read_hub(spec: str, hub_id: re.Match[str] | None) -> Source:
    # The Hub client costs a third of a second to import, and local files do not need it.
    from neuropatch.data.hub import fetch_data_set, fetch_uri

    if hub_id is None:
        fetched = fetch_uri(spec)
    else:
        fetched = fetch_data_set(hub_id["repo"], hub_id["revision"], hub_id["split"])
    suffix = readable_suffix(spec, fetched.path.name)
    return Source(spec, fetched.uri, suffix, fetched.path.read_bytes(), fetched.revision)


def readable_suffix(spec: str, file: str) -> str:
    """Return a file name's suffix in lower case.

    Args:
        spec: The data set as the user typed it, for the message.
        file: A file name.

    Raises:
        DataError: No reader knows the suffix.
    """
    suffix = Path(file).suffix.lower()
    if suffix not in READABLE_SUFFIXES:
        raise DataError(
            f"{spec} has a file type that cannot be read ({suffix or 'no suffix'})",
            hint=f"readable are {', '.join(READABLE_SUFFIXES)}",
        )
    return suffix
