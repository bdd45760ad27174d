"""Publishing: prepared, shown, and then done as one commit.

Preparing checks everything that can be checked without writing: names, the base's licence, the
patches against the model's headers. What would be sent can then be looked at, and sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuropatch.hub.branch import Branch, Destination, find_branch
from neuropatch.hub.card import MARK, CardFacts, make_card
from neuropatch.hub.client import Token, hub_client, repeated
from neuropatch.hub.commit import Commit, PushedFile, Sent, open_branch, total
from neuropatch.hub.digest import Content
from neuropatch.hub.errors import translate_hub_errors
from neuropatch.hub.licence import Terms, base_licence
from neuropatch.hub.names import check_target, is_hub_id
from neuropatch.patch.format import encode
from neuropatch.patch.metadata import BaseModel
from neuropatch.patch.patch import PATCH_FILE, NeuronPatch
from neuropatch.progress import Progress, Silent

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"


@dataclass(frozen=True)
class PushResult:
    """What a push did, or would do.

    Attributes:
        repo: Where to.
        files: Every file, and how it gets there.
        dry_run: Whether nothing was sent.
        commit: The commit; None for a dry run.
        url: Its page, or that of its pull request.
        made: Whether this run made the commit; False where the repo had all of it already.
        notes: Sentences for the user.
        warnings: Sentences that must not be missed.
    """

    repo: str
    files: tuple[PushedFile, ...]
    dry_run: bool
    commit: str | None = None
    url: str | None = None
    made: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def uploaded(self) -> int:
        """Bytes that go over the network from here."""
        return total(self.files, "upload")

    @property
    def copied(self) -> int:
        """Bytes that the Hub copies itself."""
        return total(self.files, "copy")

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON document."""
        return {
            "repo": self.repo,
            "dry_run": self.dry_run,
            "commit": self.commit,
            "url": self.url,
            "made": self.made,
            "bytes_uploaded": self.uploaded,
            "bytes_copied": self.copied,
            "files": [
                {"path": f.path, "bytes": f.size, "way": f.way, "edited": f.edited}
                for f in self.files
            ],
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


@dataclass
class Push:
    """A push that is ready to go.

    Attributes:
        to: Where it goes.
        card: The text of its card.
        planned: Every file but the card, and how it would get there.
        api: The Hub client.
        message: Title of the commit, unless the destination has one.
        fill: Puts the files into the commit, and returns warnings for the user.
        fetch: Gets a file that the Hub turns out not to copy.
        branch: What is there now; None for a repo that is not there.
        notes: Sentences for the user.
    """

    to: Destination
    card: str
    planned: list[PushedFile]
    api: HfApi
    message: str
    fill: Callable[[Commit, Progress], list[str]]
    fetch: Callable[[str], Path] | None = None
    branch: Branch | None = None
    notes: list[str] = field(default_factory=list)

    def preview(self) -> PushResult:
        """What would be sent."""
        own = _own_card(self.api, self.to, self.branch)
        data = self.card.encode()
        there = self.branch.tree.get(CARD) if self.branch else None
        kept = own or (there is not None and Content.of(data).is_in(there))
        card = PushedFile(CARD, there.size if own and there else len(data), "upload")
        files = [*self.planned, replace(card, way="keep") if kept else card]
        return PushResult(
            self.to.repo, _by_path(files), True, notes=(*self.notes, *self._card_note(own))
        )

    def run(self, progress: Progress | None = None) -> PushResult:
        """Send it; a run after one that was interrupted sends what is missing.

        Raises:
            HubError: If the Hub refuses or cannot be reached; nothing is committed then.
        """
        branch = open_branch(self.api, self.to)
        commit = Commit(self.api, self.to, branch)
        own = _own_card(self.api, self.to, branch)
        if not own:
            commit.put({CARD: self.card.encode()})
        warnings = self.fill(commit, progress or Silent())
        sent: Sent = commit.send(self.message, self.fetch)
        return PushResult(
            self.to.repo,
            _by_path(commit.files),
            False,
            sent.oid,
            sent.url,
            sent.made,
            (*self.notes, *self._card_note(own)),
            tuple(warnings),
        )

    def _card_note(self, own: bool) -> tuple[str, ...]:
        return (f"{self.to.repo} has a {CARD} of its own, which is kept",) if own else ()


def prepare_patch(
    patch: NeuronPatch,
    to: Destination,
    *,
    terms: Terms | None = None,
    results: Mapping[str, Any] | None = None,
    token: Token = None,
) -> Push:
    """Get ready to publish a patch with its card.

    Args:
        patch: The patch.
        to: Where to.
        terms: The user's word about the licence.
        results: Results of an evaluation, to be shown on the card; None takes the patch's own.
        token: Hub token; None takes the one that is logged in.

    Raises:
        HubError: If the name is not valid, the licence needs a decision, or the Hub refuses.
    """
    to = replace(to, repo=check_target(to.repo))
    api = hub_client(token)
    base = patch.metadata.base_model
    licence = base_licence(api, base, terms or Terms(), recorded=patch.metadata.license)
    card = make_card(CardFacts(to.repo, "patch", base, licence, ((None, patch),), results))
    branch = find_branch(api, to)
    data = encode(patch)
    there = branch.tree.get(PATCH_FILE) if branch else None
    kept = there is not None and Content.of(data).is_in(there)
    planned = [PushedFile(PATCH_FILE, len(data), "keep" if kept else "upload")]

    def fill_commit(commit: Commit, progress: Progress) -> list[str]:
        progress.start("upload the patch", 1)
        commit.put({PATCH_FILE: data})
        progress.advance()
        return []

    message = f"Upload {PATCH_FILE}"
    return Push(to, card, planned, api, message, fill_commit, branch=branch, notes=base_notes(base))


def _own_card(api: HfApi, to: Destination, branch: Branch | None) -> bool:
    """Whether the repo has a card that somebody wrote."""
    if branch is None or CARD not in branch.tree or branch.tree[CARD].size == 0:
        return False
    with translate_hub_errors(to.what):
        path = repeated(lambda: api.hf_hub_download(to.repo, CARD, revision=branch.head))
    return MARK not in Path(path).read_text("utf-8", "replace")


def base_notes(base: BaseModel) -> list[str]:
    """What a user should know of the base model that a card names."""
    if is_hub_id(base.name):
        return []
    return [f"the card names no base model on the Hub: the base is {base.name or 'not known'}"]


def _by_path(files: Sequence[PushedFile]) -> tuple[PushedFile, ...]:
    return tuple(sorted(files, key=lambda file: file.path))


def push_patch(
    patch: NeuronPatch,
    repo_id: str,
    *,
    commit_message: str | None,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    create_pr: bool,
    license: str | None = None,  # the name of the field in cards
    accept_license: bool = False,
) -> str:
    """Upload a patch file and its card; see :meth:`NeuronPatch.push_to_hub`.

    Raises:
        HubError: If the Hub refuses or cannot be reached, or the licence needs a decision.
    """
    to = Destination(repo_id, revision, create_pr, private, commit_message)
    push = prepare_patch(patch, to, terms=Terms(license, accept_license), token=token)
    return push.run().url or ""
