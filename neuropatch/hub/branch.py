"""Where a push goes, and what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuropatch.errors import HubError
from neuropatch.hub.client import repeated
from neuropatch.hub.errors import translate_hub_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile


@dataclass(frozen=True)
class Destination:
    """Where a push goes.

    Attributes:
        repo: ``user/name``.
        revision: Branch; None for the default one.
        create_pr: Open a pull request instead of committing to the branch.
        private: Whether a new repo is private; None takes the account's default.
        message: Title of the commit; None for one that says what it is.
    """

    repo: str
    revision: str | None = None
    create_pr: bool = False
    private: bool | None = None
    message: str | None = None

    @property
    def what(self) -> str:
        """The destination, as the subject of a sentence."""
        return f"push to {self.repo}"


@dataclass(frozen=True)
class Branch:
    """A branch at one commit.

    Attributes:
        head: The commit.
        tree: Its files, by path.
    """

    head: str
    tree: Mapping[str, RepoFile]


def find_branch(api: HfApi, to: Destination) -> Branch | None:
    """The branch as it is now, or None if there is no such repo, or none that one may see.

    Raises:
        HubError: If the repo has no such branch, is public and should be private, or cannot be
            read.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    with translate_hub_errors(to.what):
        try:
            info = repeated(lambda: api.model_info(to.repo, revision=to.revision), first=True)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            _check_can_be_new(to)
            return None
        if to.private and not info.private:
            raise HubError(
                f"{to.what}: --private, but the repo is there already and is public",
                hint="make it private in its settings on the Hub, or take another name",
            )
        head = str(info.sha)
        return Branch(head, read_tree(api, to.repo, head))


def read_tree(api: HfApi, repo: str, commit: str) -> dict[str, RepoFile]:
    """The files of a repo at a commit, by path."""
    from huggingface_hub.hf_api import RepoFile

    entries = repeated(lambda: list(api.list_repo_tree(repo, recursive=True, revision=commit)))
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _check_can_be_new(to: Destination) -> None:
    if to.create_pr or to.revision not in (None, "main"):
        wanted = "a pull request" if to.create_pr else f"the branch {to.revision}"
        raise HubError(
            f"{to.what}: there is no such repo for {wanted}, or it is private",
            hint="push without --revision and --create-pr to make it; if it is there, log in with "
            "a token that may read it",
        )
