"""Data files on the Hugging Face Hub: which file of a data set, at which commit."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, parse_hf_uri

from neuropatch.data.sources import readable_suffix
from neuropatch.errors import DataError, HubError
from neuropatch.hub.errors import translate_hub_errors

# A .txt file in a data set repository is as often a licence or a list of files as it is a corpus,
# so it is read only where it is named with hf://.
_SPLIT_SUFFIXES = (".csv", ".jsonl", ".json", ".parquet")
_NOT_DATA = frozenset({"dataset_info.json", "dataset_infos.json"})
_DEFAULT_SPLIT = "train"
_MOST_CANDIDATES = 8


@dataclass(frozen=True)
class HubFile:
    """A data file in the local Hub cache.

    Attributes:
        path: Where the file lies in the cache.
        uri: ``hf://datasets/user/name@commit/path``, which names the same bytes for ever.
        revision: The commit that the file was resolved to.
    """

    path: Path
    uri: str
    revision: str


def fetch_uri(uri: str) -> HubFile:
    """Download the file that an ``hf://`` address names, or take it from the cache.

    Args:
        uri: ``hf://datasets/user/name[@revision]/path/file``. Without a path the file of the train
            split is taken, as :func:`fetch_data_set` does.

    Raises:
        DataError: The address is not that of a data set, its files leave a choice, or no reader
            knows the file's suffix.
        HubError: The address is malformed, or the request failed.
    """
    with translate_hub_errors(uri):
        parsed = parse_hf_uri(uri)
    if parsed.type != "dataset":
        raise DataError(
            f"{uri} names a {parsed.type}, not a data set",
            hint="write hf://datasets/user/name/path/file.csv",
        )
    if not parsed.path_in_repo:
        return fetch_data_set(parsed.id, parsed.revision, None)
    readable_suffix(uri, parsed.path_in_repo)
    with translate_hub_errors(uri):
        # Fails at once without a network, where a download retries for half a minute, and falls
        # back to the commit that the cache remembers.
        commit = HfApi().resolve_revision(parsed.id, repo_type="dataset", revision=parsed.revision)
    return _download(uri, parsed.id, parsed.path_in_repo, commit)


def fetch_data_set(repo: str, revision: str | None, split: str | None) -> HubFile:
    """Download the one file that holds a split of a data set.

    Args:
        repo: ``user/name`` on the Hub.
        revision: Branch, tag or commit; None for the default branch.
        split: The split to take; None takes ``train``, or the only data file where there is one.

    Raises:
        DataError: No file or more than one holds the split; the message lists the files.
        HubError: The request failed.
    """
    what = f"data set {repo} (looked up on the Hub, as there is no local file of this name)"
    try:
        with translate_hub_errors(what):
            info = HfApi().dataset_info(repo, revision=revision)
    except json.JSONDecodeError as error:
        raise HubError(
            f"{what} could not be fetched: the server's answer is not that of a Hub",
            hint="check HF_ENDPOINT, proxies and firewalls",
        ) from error
    files = sorted(sibling.rfilename for sibling in info.siblings or [])
    return _download(what, repo, _split_file(repo, revision, files, split), info.sha)


def _split_file(repo: str, revision: str | None, files: list[str], split: str | None) -> str:
    candidates = [file for file in files if _is_data_file(file)]
    if not candidates:
        raise DataError(
            f"data set {repo} has no file that can be read",
            hint=f"readable are {', '.join(_SPLIT_SUFFIXES)}; convert it, or look for a "
            "refs/convert/parquet revision",
        )
    wanted = split or _DEFAULT_SPLIT
    # The split's name as a word of its own in the path: data/train-00000-of-00001.parquet.
    word = re.compile(rf"(?:^|[^a-z0-9]){re.escape(wanted.lower())}(?:[^a-z0-9]|$)")
    matching = [file for file in candidates if word.search(file.lower())]
    if len(matching) == 1:
        return matching[0]
    if not matching and split is None and len(candidates) == 1:
        return candidates[0]
    at = f"@{revision}" if revision else ""
    shown = matching or candidates
    listed = ", ".join(shown[:_MOST_CANDIDATES])
    if len(shown) > _MOST_CANDIDATES:
        listed += f" and {len(shown) - _MOST_CANDIDATES} more"
    count = f"{len(matching)} files" if matching else "no file"
    raise DataError(
        f"data set {repo} has {count} for the split {wanted!r}; its data files are {listed}",
        hint=f"name one file: hf://datasets/{repo}{at}/{shown[0]}",
    )


def _is_data_file(file: str) -> bool:
    path = Path(file)
    hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in _SPLIT_SUFFIXES and path.name not in _NOT_DATA and not hidden


def _download(what: str, repo: str, file: str, revision: str | None) -> HubFile:
    with translate_hub_errors(what):
        cached = HfApi().hf_hub_download(repo, file, repo_type="dataset", revision=revision)
    local = Path(cached)
    # The cache lays files out as snapshots/<commit>/<path in the repository>, which says exactly
    # which commit the bytes are of.
    commit = local.parents[file.count("/")].name
    return HubFile(local, f"hf://datasets/{repo}@{commit}/{file}", commit)
