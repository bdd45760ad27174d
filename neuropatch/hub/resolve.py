"""From what a user typed to files on disk: a local path, or a repo of the Hub at a commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuropatch.errors import HubError, ModelError, PatchFormatError
from neuropatch.hub.names import HubName, parse_hub_name
from neuropatch.patch.metadata import BaseModel
from neuropatch.patch.patch import PATCH_FILE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""Weights, configs and tokenizer; never a pickle."""

OTHER_FILES = ("*/*", "consolidated*", "*.bin.index.json")
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
        name: A folder, or ``user/name[@revision]``, or ``hf://user/name[@revision]``.
        token: Hub token; None takes the one that is logged in, False sends none.

    Raises:
        ModelError: If there is no such folder and the name is no Hub id, or the Hub model has no
            safetensors weights.
        HubError: If the Hub refuses, has no such model, or cannot be reached.
    """
    path = local_path(name)
    if path.is_dir():
        return ResolvedModel(path, BaseModel(path.resolve().name))
    if path.exists():
        raise ModelError(f"{name} is a file, not a model folder", hint=_instead_of(path))
    found = hub_model(name)
    return _download_model(found.repo, found.revision, token)


def hub_model(name: str) -> HubName:
    """The Hub model that a name means, given that there is no folder of that name.

    Raises:
        ModelError: If it is no name of a Hub model.
        HubError: If an ``hf://`` address is malformed.
    """
    found = parse_hub_name(name)
    if found is None:
        raise ModelError(
            f"there is no folder {name}",
            hint="check the path, or name a Hub model as user/name",
        )
    if found.path:
        raise ModelError(
            f"{name} names a file in a repo, not a model", hint=f"name the repo, {found.repo}"
        )
    return found


def _instead_of(path: Path) -> str:
    if path.suffix == ".gguf":
        return "apply, revert and diff take GGUF files; else name the checkpoint it was made from"
    return f"name the folder it is in, {path.parent}"


def _download_model(repo: str, revision: str | None, token: str | bool | None) -> ResolvedModel:
    from neuropatch.hub.client import hub_client, repeated
    from neuropatch.hub.digest import cached_files, check_downloads
    from neuropatch.hub.errors import translate_hub_errors

    what = f"model {repo} (looked up on the Hub, as there is no local folder of this name)"
    api = hub_client(token)
    cached = cached_files(_cache_folder(repo, None))
    with translate_hub_errors(what):
        # Fails at once without a network, where a download retries for half a minute, and falls
        # back to the commit that the cache remembers.
        commit = api.resolve_revision(repo, revision=revision)
        folder = Path(
            repeated(
                lambda: api.snapshot_download(
                    repo,
                    revision=commit,
                    allow_patterns=list(MODEL_FILES),
                    ignore_patterns=list(OTHER_FILES),
                )
            )
        )
    check_downloads(folder.iterdir(), cached, what=f"model {repo}")
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
    """Find a patch file: a file, a folder that holds one, or one on the Hub.

    On the Hub it is ``neuron_patch.safetensors`` of ``user/name[@revision]``, or another file that
    ``hf://user/name[@revision]/path`` names.

    Raises:
        PatchFormatError: If a local path holds no patch, or there is no file of that name and it
            is no Hub id.
        HubError: If the Hub refuses, has no such patch, or cannot be reached.
    """
    path = local_path(name)
    if path.is_dir():
        path = path / PATCH_FILE
        if not path.is_file():
            raise PatchFormatError(
                f"the folder {name} holds no {PATCH_FILE}", hint="name the patch file itself"
            )
    if path.is_file():
        return path
    found = parse_hub_name(name)
    if found is None or (path.suffix == ".safetensors" and not found.path):
        raise PatchFormatError(
            f"there is no patch {name}", hint="check the path, or name a Hub repo as user/name"
        )
    if revision is not None and found.revision is not None:
        raise HubError(
            f"two revisions for {found.repo}: {found.revision} and {revision}",
            hint="give one of them",
        )
    from neuropatch.hub.client import hub_client
    from neuropatch.hub.errors import translate_hub_errors

    api = hub_client(token)
    repo = found.repo
    with translate_hub_errors(f"patch {repo} (looked up on the Hub, as there is no such file)"):
        commit = api.resolve_revision(
            repo,
            revision=revision or found.revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
    return _download_patch(api, repo, found.path or PATCH_FILE, commit, cache_dir, local_files_only)


def _download_patch(
    api: HfApi,
    repo: str,
    file: str,
    commit: str,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> Path:
    from neuropatch.hub.client import repeated
    from neuropatch.hub.digest import cached_files, check_downloads
    from neuropatch.hub.errors import translate_hub_errors

    cached = cached_files(_cache_folder(repo, cache_dir))
    with translate_hub_errors(f"patch {repo}/{file}"):
        path = Path(
            repeated(
                lambda: api.hf_hub_download(
                    repo,
                    file,
                    revision=commit,
                    cache_dir=cache_dir,
                    local_files_only=local_files_only,
                )
            )
        )
    check_downloads([path], cached, what=f"patch {repo}")
    return path


def _cache_folder(repo: str, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import constants

    # The client's own layout, which its cache documentation lays down.
    return Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def is_model_folder(name: str) -> bool:
    """Whether a name is that of a folder which holds a model rather than a patch."""
    path = local_path(name)
    return path.is_dir() and not (path / PATCH_FILE).is_file()


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a name is; None if it is anything else."""
    path = local_path(name)
    return path if path.suffix == ".gguf" and path.is_file() else None


def local_path(name: str) -> Path:
    """The path that a name would be."""
    # Only ~/ is the user's own: expanduser() fails on ~name where there is no such user.
    return Path(name).expanduser() if name.startswith("~/") else Path(name)
