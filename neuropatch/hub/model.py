"""A model that a variant is made from: a local folder, or a repo of which only headers are read."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from neuropatch.checkpoint.clone import clone
from neuropatch.checkpoint.index import CONFIG, INDEX, Checkpoint
from neuropatch.checkpoint.undo import FOLDER, is_undo_name, undo_files
from neuropatch.errors import ModelError
from neuropatch.hub.branch import read_tree
from neuropatch.hub.client import repeated
from neuropatch.hub.digest import damaged, file_sha256
from neuropatch.hub.errors import translate_hub_errors
from neuropatch.hub.ranges import header_bytes, read_start
from neuropatch.hub.resolve import MODEL_FILES, OTHER_FILES
from neuropatch.patch.metadata import BaseModel
from neuropatch.storage.safetensors_file import MAX_HEADER_BYTES

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

_LEGAL_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
_OF_THE_REPO = (".gitattributes", ".gitignore", "README.md")
"""Files of a repo rather than of the model in it; a variant's repo has its own."""

_PATHS_AT_ONCE = 500
_HEADERS_AT_ONCE = 8


@dataclass(frozen=True)
class CopySource:
    """A file that the Hub can copy itself."""

    repo: str
    commit: str
    entry: RepoFile


class VariantBase(Protocol):
    """What a variant is made from.

    Attributes:
        name: The model, for messages.
        base: How a patch names it.
        checkpoint: Its config and the headers of its weight files; the weights may be elsewhere.
        files: Size in bytes of each file that belongs to it, by path.
        left_out: Paths of files that do not belong to it.
    """

    name: str
    base: BaseModel
    checkpoint: Checkpoint
    files: Mapping[str, int]
    left_out: tuple[str, ...]

    def copyable(self, path: str) -> CopySource | None:
        """Where the Hub can copy a file from."""

    def take(self, path: str, folder: Path) -> Path:
        """Put a file into a folder, where it may be changed; returns where it is."""


@dataclass
class LocalBase:
    """A model in a local folder.

    Attributes:
        origin: Files of the Hub model that it was made from: those whose bytes are the same need
            no upload.
    """

    name: str
    base: BaseModel
    checkpoint: Checkpoint
    files: Mapping[str, int]
    left_out: tuple[str, ...]
    origin: Mapping[str, CopySource] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, origin: Mapping[str, CopySource] | None = None) -> LocalBase:
        """Read the headers of a folder.

        Raises:
            CheckpointError: If it is no checkpoint.
        """
        checkpoint = Checkpoint.open(folder)
        names = [
            path.name if path.is_file() else f"{path.name}/"
            for path in folder.iterdir()
            if path.name != FOLDER
        ]
        names += [f"{FOLDER}/{path.name}" for path in undo_files(folder)]
        kept, left_out = _split(names, checkpoint)
        sizes = {name: (folder / name).stat().st_size for name in kept}
        return cls(str(folder), checkpoint.source, checkpoint, sizes, left_out, origin or {})

    def copyable(self, path: str) -> CopySource | None:
        """The same file of the Hub model that this one was made from."""
        source = self.origin.get(path)
        if source is None or source.entry.size != self.files[path]:
            return None
        assert source.entry.lfs is not None, "only files in large file storage are listed"
        same = file_sha256(self.checkpoint.folder / path) == source.entry.lfs.sha256
        return source if same else None

    def take(self, path: str, folder: Path) -> Path:
        """Clone a file."""
        target = folder / path
        target.parent.mkdir(exist_ok=True)
        clone(self.checkpoint.folder / path, target)
        return target


@dataclass
class HubBase:
    """A model on the Hub, of which config, index and headers are here only.

    The weight files in its folder are as long as the real ones and hold nothing but the header,
    which takes no space on the disk. So the checkpoint is read and checked like any other.
    """

    name: str
    base: BaseModel
    checkpoint: Checkpoint
    files: Mapping[str, int]
    left_out: tuple[str, ...]
    api: HfApi
    commit: str
    tree: Mapping[str, RepoFile]
    sources: Mapping[str, CopySource]

    @classmethod
    def open(cls, api: HfApi, repo: str, revision: str | None, folder: Path) -> HubBase:
        """Read a model's headers, with ranges of a few hundred kilobytes at most.

        Args:
            api: The Hub client.
            repo: ``user/name``.
            revision: Branch, tag or commit.
            folder: An empty folder for config, index and headers.

        Raises:
            HubError: If the Hub refuses, or cannot be reached.
            ModelError: If the repo holds no safetensors model.
            CheckpointError: If its files do not belong together.
        """
        what = f"model {repo}"
        with translate_hub_errors(f"{what} (looked up on the Hub, as there is no local folder)"):
            commit = api.resolve_revision(repo, revision=revision).resolved
            tree = read_tree(api, repo, commit)
        weights = [path for path in tree if "/" not in path and path.endswith(".safetensors")]
        if CONFIG not in tree or not weights:
            raise ModelError(
                f"{what} has no safetensors weights with a {CONFIG} on the Hub, at commit "
                f"{commit[:12]}",
                hint="name the repo of a transformers model, or a revision that has them",
            )
        with translate_hub_errors(what):
            for path in (CONFIG, INDEX):
                if path in tree:
                    _download(api, repo, path, commit, folder)

            def stub(path: str) -> None:
                here = _cached(repo, path, commit)
                if here is not None:
                    head = header_bytes(here)
                else:
                    head = read_start(api, repo, path, commit, most=MAX_HEADER_BYTES)
                with (folder / path).open("wb") as file:
                    file.write(head)
                    file.truncate(tree[path].size)

            with ThreadPoolExecutor(_HEADERS_AT_ONCE) as pool:
                list(pool.map(stub, [path for path in weights if _is_plain(path)]))
        checkpoint = Checkpoint.open(folder)
        kept, left_out = _split(tree, checkpoint)
        sizes = {path: tree[path].size for path in kept}
        base = BaseModel(repo, commit)
        sources = copy_sources(api, repo, commit, kept)
        return cls(repo, base, checkpoint, sizes, left_out, api, commit, tree, sources)

    def copyable(self, path: str) -> CopySource | None:
        """The file itself, where it is in large file storage."""
        return self.sources.get(path)

    def take(self, path: str, folder: Path) -> Path:
        """Download a file and check its bytes, or take it from the cache."""
        target = folder / path
        # A header that stands for the file would be taken for a download that was cut off.
        target.unlink(missing_ok=True)
        if path in (CONFIG, INDEX):
            clone(self.checkpoint.folder / path, target)
            return target
        entry = self.tree[path]
        here = _cached(self.base.name or "", path, self.commit)
        if here is not None:
            clone(here, target)
            return target
        with translate_hub_errors(f"model {self.name}"):
            _download(self.api, self.base.name or "", path, self.commit, folder)
        if entry.lfs is not None and file_sha256(target) != entry.lfs.sha256:
            target.unlink()
            raise damaged(f"model {self.name}", path)
        return target


def _download(api: HfApi, repo: str, path: str, commit: str, folder: Path) -> None:
    repeated(lambda: api.hf_hub_download(repo, path, revision=commit, local_dir=folder))


def _cached(repo: str, path: str, commit: str) -> Path | None:
    """A file of a commit in the Hub cache."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, path, revision=commit)
    return Path(found) if isinstance(found, str) else None


def copy_sources(api: HfApi, repo: str, commit: str, paths: Iterable[str]) -> dict[str, CopySource]:
    """Which of some files the Hub can copy from a repo: those in its present large file storage."""
    from huggingface_hub.hf_api import RepoFile

    names = list(paths)
    found = {}
    for start in range(0, len(names), _PATHS_AT_ONCE):
        some = names[start : start + _PATHS_AT_ONCE]
        with translate_hub_errors(f"model {repo}"):
            entries = repeated(lambda: api.get_paths_info(repo, some, revision=commit))  # noqa: B023
        for entry in entries:
            if isinstance(entry, RepoFile) and entry.lfs is not None and entry.xet_hash:
                found[entry.path] = CopySource(repo, commit, entry)
    return found


def _split(paths: Iterable[str], checkpoint: Checkpoint) -> tuple[list[str], tuple[str, ...]]:
    """Paths that belong to a model, and those that do not."""
    kept, left_out = [], []
    for path in sorted(paths):
        folder, _, name = path.rpartition("/")
        if folder:
            belongs = folder == FOLDER and is_undo_name(name)
        elif name.endswith(".safetensors"):
            belongs = name in checkpoint.headers
        else:
            belongs = _matches(name, (*MODEL_FILES, *_LEGAL_FILES)) and (
                name == INDEX or not (_matches(name, OTHER_FILES) or name.endswith(".index.json"))
            )
        if belongs:
            kept.append(path)
        elif path not in _OF_THE_REPO:
            left_out.append(path)
    return kept, tuple(left_out)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_plain(name: str) -> bool:
    """Whether a file name from the Hub stays in its folder."""
    return name == Path(name).name and "\\" not in name
