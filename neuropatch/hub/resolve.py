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

_OTHER_FILES = ["*/*", "consolidated*", "*.bin.index.json"]
"""The same weights in other formats, and everything in subfolders."""


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
        ModelError: If there is no such folder and the name is no Hub id, or the Hub model has no
            safetensors weights.
        HubError: If the Hub refuses, has no such model, or cannot be reached.
    """
    path = _local(name)
    if path.is_dir():
        return ResolvedModel(path, BaseModel(path.resolve().name))
    if path.exists():
        raise ModelError(f"{name} is a file, not a model folder", hint=_instead_of(path))
    match = _hub_id(name)
    if match is None:
        raise ModelError(
            f"there is no folder {name}",
            hint="check the path, or name a Hub model as user/name",
        )
    return _download_model(match["repo"], match["revision"], token)


def _instead_of(path: Path) -> str:
    if path.suffix == ".gguf":
        return "edit the safetensors checkpoint it was made from, then convert the result to GGUF"
    return f"name the folder it is in, {path.parent}"


def _download_model(repo: str, revision: str | None, token: str | bool | None) -> ResolvedModel:
    from huggingface_hub import HfApi

    from neuropatch.hub.errors import translate_hub_errors

    what = f"model {repo} (looked up on the Hub, as there is no local folder of this name)"
    api = HfApi(token=token, library_name="neuropatch")
    with translate_hub_errors(what):
        # Fails at once without a network, where a download retries for half a minute, and falls
        # back to the commit that the cache remembers.
        commit = api.resolve_revision(repo, revision=revision)
        folder = Path(
            api.snapshot_download(
                repo, revision=commit, allow_patterns=_MODEL_FILES, ignore_patterns=_OTHER_FILES
            )
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model {repo} has no safetensors weights on the Hub, at commit {folder.name[:12]}",
            hint="load it with transformers, save it with save_pretrained, and name that folder; "
            "or look for a revision such as refs/pr/1 that has them",
        )
    return ResolvedModel(folder, BaseModel(repo, folder.name))


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
        PatchFormatError: If a local path holds no patch, or there is no file of that name and it
            is no Hub id.
        HubError: If the Hub refuses, has no such patch, or cannot be reached.
    """
    path = _local(name)
    if path.is_dir():
        path = path / PATCH_FILE
        if not path.is_file():
            raise PatchFormatError(
                f"the folder {name} holds no {PATCH_FILE}", hint="name the patch file itself"
            )
    if path.is_file():
        return path
    match = _hub_id(name)
    if match is None or path.suffix == ".safetensors":
        raise PatchFormatError(
            f"there is no patch {name}", hint="check the path, or name a Hub repo as user/name"
        )
    if revision is not None and match["revision"] is not None:
        raise HubError(
            f"two revisions for {match['repo']}: {match['revision']} and {revision}",
            hint="give one of them",
        )
    from huggingface_hub import HfApi

    from neuropatch.hub.errors import translate_hub_errors

    repo = match["repo"]
    api = HfApi(token=token, library_name="neuropatch")
    with translate_hub_errors(f"patch {repo} (looked up on the Hub, as there is no such file)"):
        commit = api.resolve_revision(
            repo,
            revision=revision or match["revision"],
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
    with translate_hub_errors(f"patch {repo}/{PATCH_FILE}"):
        return Path(
            api.hf_hub_download(
                repo,
                PATCH_FILE,
                revision=commit,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
        )


def _hub_id(name: str) -> re.Match[str] | None:
    return _HUB_ID.fullmatch(name)


def _local(name: str) -> Path:
    # Only ~/ is the user's own: expanduser() fails on ~name where there is no such user.
    return Path(name).expanduser() if name.startswith("~/") else Path(name)
