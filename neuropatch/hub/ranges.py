"""The first bytes of files on the Hub, without the files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neuropatch.hub.client import repeated
from neuropatch.storage.safetensors_file import MAX_HEADER_BYTES

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_FIRST = 100_000
"""Bytes of the first request: few safetensors headers are longer."""

_PREFIX = 8


def read_start(api: HfApi, repo: str, path: str, commit: str, *, most: int) -> bytes:
    """The header of a safetensors file on the Hub, its length before it.

    Args:
        api: The Hub client.
        repo: ``user/name``.
        path: The file.
        commit: Its commit.
        most: A header that claims to be longer is not fetched; what there is of it is returned,
            for the reader of headers to refuse.
    """
    start = _read(api, repo, path, commit, _FIRST)
    length = _PREFIX + int.from_bytes(start[:_PREFIX], "little")
    if len(start) < length <= most:
        return _read(api, repo, path, commit, length)
    return start[:length]


def header_bytes(path: Path) -> bytes:
    """The same of a file here."""
    with path.open("rb") as file:
        prefix = file.read(_PREFIX)
        return prefix + file.read(min(int.from_bytes(prefix, "little"), MAX_HEADER_BYTES))


def _read(api: HfApi, repo: str, path: str, commit: str, count: int) -> bytes:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported at run time
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    url = hf_hub_url(repo, path, revision=commit, endpoint=api.endpoint)
    headers = build_hf_headers(token=api.token, library_name=api.library_name)
    headers["range"] = f"bytes=0-{count - 1}"

    def once() -> bytes:
        data = bytearray()
        with get_session().stream("GET", url, headers=headers) as response:
            hf_raise_for_status(response)
            for piece in response.iter_bytes():
                data += piece
                if len(data) >= count:
                    # A server that does not know ranges sends the whole file.
                    break
        return bytes(data[:count])

    # The client's own repeated stream cannot begin again once a part of it has arrived.
    return repeated(once)
