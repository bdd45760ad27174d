"""From what a user typed to files on disk: a local path, or a repo of the Hub at a commit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from neuropatch.errors import HubError, ModelError, PatchFormatError
from neuropatch.patch.metadata import BaseModel
from neuropatch.patch.patch import PATCH_FILE

_HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[^@\s]+))?", re.ASCII
)

_MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
"""Weights, configs and tokenizer; never a pickle."""


@dataclass(frozen=True)
class ResolvedModel:
    """A model on disk.

    Attributes:
        folder: Its folder; for a Hub model a snapshot in the client's cache, not to be written.
        base: How a patch names it: a Hub id and commit, or the name of a local folder.
    """

    folder: Path
    base: BaseModel


def resolve_model(name: str, *, token: str | bool | None = None) -> ResolvedModel:
    """Find a model, downloading it from the Hub if no local folder has that name.

    Args:
        name: A folder, or ``user/name[@revision]``.
        token: Hub token; None takes the one that is logged in, False sends none.

    Raises:
        ModelError: If there is no such folder and the name is no Hub id.
        HubError: If the Hub refuses, has no such model, or cannot be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return ResolvedModel(path, BaseModel(path.resolve().name))
    if path.exists():
        raise ModelError(f"{name} is a file, not a model folder", hint="name the folder it is in")
    match = _hub_id(name)
    if match is None:
        raise ModelError(
            f"there is no folder {name}",
            hint="check the path, or name a Hub model as user/name",
        )
    from huggingface_hub import snapshot_download

    from neuropatch.hub.errors import translate_hub_errors

    with translate_hub_errors(f"model {match['repo']}"):
        folder = snapshot_download(
            match["repo"],
            revision=match["revision"],
            allow_patterns=_MODEL_FILES,
            # Consolidated copies of the same weights in other layouts.
            ignore_patterns=["original/*", "consolidated*", "*/*"],
            token=token,
        )
    return ResolvedModel(Path(folder), BaseModel(match["repo"], Path(folder).name))


def resolve_patch(
    name: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Find a patch file: a file, a folder that holds one, or a Hub repo.

    Raises:
        PatchFormatError: If a local path holds no patch.
        HubError: If the Hub refuses, has no such patch, or cannot be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        path = path / PATCH_FILE
        if not path.is_file():
            raise PatchFormatError(
                f"the folder {name} holds no {PATCH_FILE}", hint="name the patch file itself"
            )
    if path.is_file():
        return path
    match = _hub_id(name)
    if match is None or name.endswith(".safetensors"):
        raise PatchFormatError(
            f"there is no patch {name}", hint="check the path, or name a Hub repo as user/name"
        )
    if revision is not None and match["revision"] is not None:
        raise HubError(
            f"two revisions for {match['repo']}: {match['revision']} and {revision}",
            hint="give one of them",
        )
    from huggingface_hub import hf_hub_download

    from neuropatch.hub.errors import translate_hub_errors

    with translate_hub_errors(f"patch {match['repo']}"):
        return Path(
            hf_hub_download(
                match["repo"],
                PATCH_FILE,
                revision=revision or match["revision"],
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        )


def _hub_id(name: str) -> re.Match[str] | None:
    return _HUB_ID.fullmatch(name)
