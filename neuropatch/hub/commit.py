"""One commit on the Hub, made once however often it is tried.

The Hub's answer to a commit can be lost after the commit was made: the connection ends, a gateway
times out, or this process is killed. So a commit is never just sent again. First the branch is
read: if it holds every file as it should be, the commit is there; if it has moved in another way,
somebody else was there first. Files are compared by the hashes of their bytes. A second run of the
same push therefore finds its work done, and only uploads what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from neuropatch.errors import HubError
from neuropatch.hub.branch import Branch, Destination, find_branch, read_tree
from neuropatch.hub.client import TRIES, failures, repeated, seconds_to_wait, sleep
from neuropatch.hub.digest import Content
from neuropatch.hub.errors import translate_hub_errors

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, HfApi
    from huggingface_hub.hf_api import CommitInfo, RepoFile

    Operation = CommitOperationAdd | CommitOperationCopy

Way = Literal["upload", "copy", "keep", "delete"]

_CONFLICT = 412
_MOST_PULL_REQUESTS = 10


@dataclass(frozen=True)
class PushedFile:
    """A file of a push, and how it gets to its repo.

    Attributes:
        path: Its path in the repo.
        size: Its size in bytes.
        way: ``upload``, ``copy`` (by the Hub itself, from the base's repo), ``keep`` (the repo has
            it already) or ``delete``.
        edited: Whether patches change it.
    """

    path: str
    size: int
    way: Way
    edited: bool = False


@dataclass(frozen=True)
class Sent:
    """A commit that is on the Hub.

    Attributes:
        oid: The commit.
        url: Its page, or that of its pull request.
        made: Whether this run made it; False where all was there already.
    """

    oid: str
    url: str
    made: bool


class Commit:
    """A commit in the making: files are added, large ones uploaded at once, and then it is sent.

    Args:
        api: The Hub client.
        to: Where it goes.
        branch: What is there now.

    Attributes:
        files: Every file, and how it gets there.
        branch: What is there.
    """

    def __init__(self, api: HfApi, to: Destination, branch: Branch) -> None:
        self.files: list[PushedFile] = []
        self._api = api
        self._to = to
        self.branch = branch
        self._adds: list[CommitOperationAdd] = []
        self._copies: dict[str, tuple[CommitOperationCopy, RepoFile]] = {}
        self._deleted: set[str] = set()
        self._wanted: dict[str, Content] = {}

    def put(self, files: Mapping[str, bytes | Path], *, edited: bool = False) -> None:
        """Add files; those that belong into large file storage are uploaded now.

        When it returns, the files on disk are not needed any more.

        Raises:
            HubError: If the upload fails.
        """
        from huggingface_hub import CommitOperationAdd

        operations = []
        for path, data in files.items():
            content = self._wanted[path] = Content.of(data)
            entry = self.branch.tree.get(path)
            kept = entry is not None and content.is_in(entry)
            way: Way = "keep" if kept else "upload"
            self.files.append(PushedFile(path, content.size, way, edited))
            if not kept:
                operation = CommitOperationAdd(path, data)
                # Known from above: the client need not read the file once more.
                operation.upload_info.sha256 = bytes.fromhex(content.sha256)
                operations.append(operation)
        if operations:
            with translate_hub_errors(self._to.what):
                self._api.preupload_lfs_files(
                    self._to.repo,
                    operations,
                    revision=self._to.revision,
                    create_pr=self._to.create_pr,
                )
        for operation in operations:
            # The client has emptied the operations whose bytes it has uploaded. What is left is
            # small, and becomes part of the commit itself.
            if isinstance(operation.path_or_fileobj, str):
                operation.path_or_fileobj = Path(operation.path_or_fileobj).read_bytes()
        self._adds.extend(operations)

    def copy(self, entry: RepoFile, repo: str, commit: str) -> None:
        """Add a large file that the Hub copies from another repo, or from another commit."""
        from huggingface_hub import CommitOperationCopy

        path = entry.path
        assert entry.lfs is not None, "only files in large file storage are copied"
        content = self._wanted[path] = Content(entry.size, entry.lfs.sha256)
        there = self.branch.tree.get(path)
        if there is not None and content.is_in(there):
            self.files.append(PushedFile(path, entry.size, "keep"))
            return
        other = repo != self._to.repo
        operation = CommitOperationCopy(
            src_path_in_repo=path,
            path_in_repo=path,
            src_revision=commit,
            src_repo_id=repo if other else None,
            src_repo_type="model" if other else None,
        )
        self._copies[path] = operation, entry
        self.files.append(PushedFile(path, entry.size, "copy"))

    def delete(self, path: str) -> None:
        """Remove a file that the branch has."""
        self._deleted.add(path)
        self.files.append(PushedFile(path, self.branch.tree[path].size, "delete"))

    def send(self, message: str, fetch: Callable[[str], Path] | None = None) -> Sent:
        """Make the commit, or find it made, and check what the Hub then holds.

        Args:
            message: Its title, unless the destination has one.
            fetch: Gets a file that the Hub turns out not to copy, for an upload; the file is
                removed afterwards. Needed if there are copies.

        Raises:
            HubError: If it cannot be made, or somebody else changed the same files meanwhile.
        """
        with translate_hub_errors(self._to.what):
            found = self._find()
            if found is None:
                found = self._make(self._to.message or message, fetch)
            self._check(found)
        return found

    def _make(self, message: str, fetch: Callable[[str], Path] | None) -> Sent:
        moved = False
        for number in range(TRIES):
            try:
                return self._create(message)
            except failures() as error:
                if fetch is not None and _cannot_copy(error):
                    self._upload_copies(fetch)
                    continue
                conflict = _status(error) == _CONFLICT
                wait = 0.0 if conflict else seconds_to_wait(error, number)
                if wait is None or number == TRIES - 1:
                    raise
                sleep(wait)
                found, changed = self._reread()
                if found is not None:
                    return found
                if changed and moved:
                    raise HubError(
                        f"{self._to.what} is being changed by somebody else",
                        hint="try again when they are done",
                    ) from error
                moved = moved or changed
            except _copy_failures():
                if fetch is None:
                    raise
                self._upload_copies(fetch)
        raise HubError(
            f"{self._to.what}: the Hub did not take the commit in {TRIES} tries",
            hint="try again later; what was uploaded is kept",
        )

    def _create(self, message: str) -> Sent:
        from huggingface_hub import CommitOperationDelete

        deletes = [CommitOperationDelete(path) for path in sorted(self._deleted)]
        copies = [operation for operation, _ in self._copies.values()]
        info: CommitInfo = self._api.create_commit(
            self._to.repo,
            [*self._adds, *copies, *deletes],
            commit_message=message,
            revision=self._to.revision,
            create_pr=self._to.create_pr,
            parent_commit=self.branch.head,
        )
        return Sent(info.oid, str(info.pr_url or info.commit_url), made=True)

    def _find(self) -> Sent | None:
        """The commit, where it is made already."""
        if self._holds(self.branch.tree):
            url = f"{self._api.endpoint}/{self._to.repo}/commit/{self.branch.head}"
            return Sent(self.branch.head, url, made=False)
        if not self._to.create_pr:
            return None
        refs = repeated(
            lambda: self._api.list_repo_refs(self._to.repo, include_pull_requests=True)
        ).pull_requests
        numbered = sorted((int(ref.ref.rpartition("/")[2]), ref) for ref in refs or ())
        for number, ref in reversed(numbered[-_MOST_PULL_REQUESTS:]):
            if self._holds(read_tree(self._api, self._to.repo, ref.target_commit)):
                url = f"{self._api.endpoint}/{self._to.repo}/discussions/{number}"
                return Sent(ref.target_commit, url, made=False)
        return None

    def _reread(self) -> tuple[Sent | None, bool]:
        """Read the branch again: the commit if it is there, and whether the branch has moved.

        Raises:
            HubError: If somebody else changed a file of this commit.
        """
        before = self.branch
        after = find_branch(self._api, self._to)
        if after is None:
            raise HubError(f"{self._to.what} is gone", hint="somebody has removed it meanwhile")
        self.branch = after
        found = self._find()
        if found is not None:
            # The answer was lost, or another run of the same push was faster.
            return Sent(found.oid, found.url, made=True), True
        for path in [*self._wanted, *self._deleted]:
            old, new = before.tree.get(path), after.tree.get(path)
            if (old and old.blob_id) != (new and new.blob_id):
                raise HubError(
                    f"{self._to.what}: somebody else changed {path} meanwhile; nothing was "
                    "committed",
                    hint="look at their change; if yours is to replace it, push again",
                )
        return None, after.head != before.head

    def _holds(self, tree: Mapping[str, RepoFile]) -> bool:
        """Whether a tree has every file of this commit."""
        wanted = all(
            path in tree and content.is_in(tree[path]) for path, content in self._wanted.items()
        )
        return wanted and self._deleted.isdisjoint(tree)

    def _check(self, sent: Sent) -> None:
        tree = read_tree(self._api, self._to.repo, sent.oid)
        for path, content in self._wanted.items():
            if path not in tree or not content.is_in(tree[path]):
                how = "differs from what was sent" if path in tree else "is missing"
                raise HubError(
                    f"{self._to.what}: in commit {sent.oid[:12]}, {path} {how}",
                    hint="look at the repo's .gitignore, and push again",
                )

    def _upload_copies(self, fetch: Callable[[str], Path]) -> None:
        """Upload what the Hub does not copy, one file on the disk at a time."""
        for path in list(self._copies):
            self._copies.pop(path)
            self.files = [file for file in self.files if file.path != path]
            local = fetch(path)
            self.put({path: local})
            local.unlink()


def open_branch(api: HfApi, to: Destination) -> Branch:
    """The branch that a commit goes to; its repo is created if need be.

    Raises:
        HubError: If the repo cannot be created, or is public and should be private.
    """
    branch = find_branch(api, to)
    if branch is None:
        with translate_hub_errors(to.what):
            repeated(lambda: api.create_repo(to.repo, private=to.private, exist_ok=True))
        branch = find_branch(api, to)
    if branch is None:
        raise HubError(f"{to.what} was created and cannot be seen", hint="try again in a minute")
    return branch


def total(files: Sequence[PushedFile], way: Way) -> int:
    """Bytes of the files that go one way."""
    return sum(file.size for file in files if file.way == way)


def _status(error: Exception) -> int | None:
    from huggingface_hub.errors import HfHubHTTPError

    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _cannot_copy(error: Exception) -> bool:
    """Whether the Hub refuses to copy between two repos, say of different regions."""
    from huggingface_hub.errors import HfHubHTTPError

    return (
        isinstance(error, HfHubHTTPError)
        and error.response.request.url.path.endswith("/lfs-files/duplicate")
        and seconds_to_wait(error, 0) is None
    )


def _copy_failures() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import FileDuplicationError

    return (FileDuplicationError,)
