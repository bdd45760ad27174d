"""Users, repos, commits and files: what the test Hub remembers.

File contents live in a folder, addressed by their SHA-256; everything else is in memory. A commit
is a mapping from paths to entries, as a git tree is, and refs point to commits.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

REGULAR_LIMIT = 10_000_000
"""Bytes; a larger file is stored through LFS whatever it is called."""

_LFS_SUFFIXES = "arrow bin gguf h5 npy npz onnx parquet pkl pt pth safetensors tar zip zst"
GITATTRIBUTES = "".join(
    f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LFS_SUFFIXES.split()
).encode()
"""What the Hub puts into a new repo; it decides which files go through LFS."""

CHUNK = 1 << 20
"""Bytes of a content that are in memory at once."""

_NAME = re.compile(r"(?!-|\.)[A-Za-z0-9._-]{1,96}(?<!-|\.)")


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of the program
    """An answer with an error status.

    Args:
        status: HTTP status.
        message: What a client shows.
        code: ``X-Error-Code``, by which the client tells 404s and 403s apart.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class User:
    """An account and its one token; ``role`` is the token's: ``write`` or ``read``."""

    name: str
    token: str
    role: str = "write"
    orgs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A file at a commit. ``oid`` is the git blob's: of the content, or of the LFS pointer."""

    sha256: str
    size: int
    oid: str
    lfs: bool

    @classmethod
    def regular(cls, data: bytes) -> Entry:
        return cls(hashlib.sha256(data).hexdigest(), len(data), _blob_id(data), lfs=False)

    @classmethod
    def pointer(cls, sha256: str, size: int) -> Entry:
        return cls(sha256, size, _blob_id(_pointer(sha256, size)), lfs=True)

    @property
    def pointer_size(self) -> int:
        return len(_pointer(self.sha256, self.size))

    @property
    def xet_hash(self) -> str:
        """A stand-in: the Hub's is a Merkle hash, and the client only hands it back."""
        return hashlib.sha256(b"xet" + self.sha256.encode()).hexdigest()


def _pointer(sha256: str, size: int) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
        sha256.encode(),
        size,
    )


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Commit:
    """One commit; ``tree`` maps paths to files."""

    oid: str
    parent: str | None
    tree: Mapping[str, Entry]
    title: str
    message: str
    author: str
    date: datetime


class Objects:
    """File contents in a folder, by SHA-256."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Store a content and return its SHA-256 and size; nothing stays of one that breaks off."""
        digest, size = hashlib.sha256(), 0
        path = self.folder / f"{secrets.token_hex(8)}.part"
        try:
            with path.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
            path.replace(self.path(digest.hexdigest()))
        finally:
            path.unlink(missing_ok=True)
        return digest.hexdigest(), size

    def path(self, sha256: str) -> Path:
        return self.folder / sha256


def chunks(content: bytes | Path) -> Iterator[bytes]:
    """A content piece by piece."""
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        yield from iter(lambda: file.read(CHUNK), b"")


@dataclass
class Repo:
    """A repo: commits by id, refs by full name, and the LFS objects that were uploaded to it."""

    kind: str
    id: str
    private: bool = False
    gated: str | bool = False
    allowed: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    lfs: dict[str, int] = field(default_factory=dict)
    created: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def ref(self, revision: str) -> str | None:
        """The full name of a branch, tag or pull request."""
        names = (f"refs/heads/{revision}", f"refs/tags/{revision}", revision)
        return next((name for name in names if name in self.refs), None)

    def find(self, revision: str) -> Commit:
        """The commit of a branch, tag, pull request or commit id."""
        oid = revision if revision in self.commits else self.refs.get(self.ref(revision) or "")
        if oid is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def entry(self, commit: Commit, path: str) -> Entry:
        if path not in commit.tree:
            raise Refusal(
                404, "Entry not found", "EntryNotFound", headers={"X-Repo-Commit": commit.oid}
            )
        return commit.tree[path]

    def history(self, commit: Commit) -> Iterator[Commit]:
        """Commits from ``commit`` back to the first one."""
        while True:
            yield commit
            if commit.parent is None:
                return
            commit = self.commits[commit.parent]

    def last_change(self, commit: Commit, path: str) -> Commit:
        """The commit that gave a file, or the files of a folder, their present content."""
        last = commit
        for older in self.history(commit):
            if _below(older.tree, path) != _below(commit.tree, path):
                break
            last = older
        return last

    def commit(
        self, ref: str, tree: Mapping[str, Entry], title: str, message: str, author: str
    ) -> Commit:
        parent = self.refs.get(ref)
        what = repr((self.id, len(self.commits), parent, sorted(tree.items()), title, message))
        commit = Commit(
            hashlib.sha1(what.encode()).hexdigest(),
            parent,
            dict(tree),
            title,
            message,
            author,
            datetime.now(timezone.utc),
        )
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit

    def open_pull_request(self, base: Commit) -> int:
        number = 1 + sum(name.startswith("refs/pr/") for name in self.refs)
        self.refs[f"refs/pr/{number}"] = base.oid
        return number


def _below(tree: Mapping[str, Entry], path: str) -> dict[str, Entry]:
    return {p: entry for p, entry in tree.items() if p == path or p.startswith(f"{path}/")}


class Store:
    """All accounts and repos, and who may do what.

    Attributes:
        lock: Held while refs change, so that of two commits on one parent one is refused.
        limits: Bytes that a namespace may store; no limit where none is set.
    """

    def __init__(self, root: Path):
        self.objects = Objects(root / "objects")
        self.users: dict[str, User] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.limits: dict[str, int] = {}
        self.lock = threading.RLock()

    def read(self, entry: Entry) -> bytes:
        return self.objects.path(entry.sha256).read_bytes()

    def upload_mode(self, commit: Commit, path: str, size: int, sample: bytes) -> str:
        """``lfs`` or ``regular``: by size, by what is in it, or by ``.gitattributes``."""
        if size > REGULAR_LIMIT or b"\0" in sample:
            return "lfs"
        attributes = commit.tree.get(".gitattributes")
        for line in self.read(attributes).decode().splitlines() if attributes else ():
            pattern, *settings = line.split() or [""]
            name = path if "/" in pattern else path.rpartition("/")[2]
            if "filter=lfs" in settings and fnmatch.fnmatchcase(name, pattern):
                return "lfs"
        return "regular"

    def create(self, kind: str, repo_id: str, author: str, **options: bool | str) -> Repo:
        check_name(repo_id)
        with self.lock:
            repo = self.repos[kind, repo_id] = Repo(kind, repo_id, **options)
            self.objects.add([GITATTRIBUTES])
            tree = {".gitattributes": Entry.regular(GITATTRIBUTES)}
            repo.commit("refs/heads/main", tree, "initial commit", "", author)
        return repo

    def find(self, kind: str, repo_id: str, user: User | None) -> Repo:
        """A repo that a user may see. One that may not be seen looks like one that is not there."""
        repo = self.repos.get((kind, repo_id))
        if repo is None or not self.visible(repo, user):
            if user is None:
                raise Refusal(401, "Invalid username or password.", "RepoNotFound")
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return repo

    def visible(self, repo: Repo, user: User | None) -> bool:
        return not repo.private or self.owns(user, repo.namespace)

    def owns(self, user: User | None, namespace: str) -> bool:
        return user is not None and namespace in (user.name, *user.orgs)

    def check_download(self, repo: Repo, user: User | None) -> None:
        """Gated repos show their names and sizes to everybody, and their files to some."""
        if not repo.gated or self.owns(user, repo.namespace):
            return
        if user is None:
            raise Refusal(
                401,
                f"Access to {repo.kind} {repo.id} is restricted. You must have access to it and be "
                "authenticated to access it. Please log in.",
                "GatedRepo",
            )
        if user.name not in repo.allowed:
            raise Refusal(
                403,
                f"Access to {repo.kind} {repo.id} is restricted and you are not in the authorized "
                "list. Visit its page to ask for access.",
                "GatedRepo",
            )

    def check_write(self, user: User | None, namespace: str, *, pull_request: bool = False) -> User:
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user.role != "write":
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        if not self.owns(user, namespace) and not pull_request:
            raise Refusal(
                403,
                "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request",
            )
        return user

    def check_space(self, namespace: str, size: int) -> None:
        """Refuse ``size`` more bytes where the account's storage would overflow."""
        limit = self.limits.get(namespace)
        if limit is not None and self.used(namespace) + size > limit:
            raise Refusal(
                403, "Storage limit reached, please upgrade your plan to increase your limit."
            )

    def used(self, namespace: str) -> int:
        """Bytes stored: every version of every file."""
        total = 0
        for repo in self.repos.values():
            if repo.namespace == namespace:
                entries = {e for commit in repo.commits.values() for e in commit.tree.values()}
                total += sum(repo.lfs.values()) + sum(e.size for e in entries if not e.lfs)
        return total


def check_name(repo_id: str) -> None:
    """Refuse what the Hub refuses as a repo's name."""
    parts = repo_id.split("/")
    if (
        len(parts) != 2
        or not all(_NAME.fullmatch(part) for part in parts)
        or "--" in repo_id
        or ".." in repo_id
        or repo_id.endswith((".git", ".ipynb"))
    ):
        raise Refusal(400, f"Invalid repo name: {repo_id}")
