"""The running test Hub: two servers on the loopback interface, and what tests say to them."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from . import files, repos, uploads
from .app import Hub
from .faults import Fault, Faults, Layer, Log
from .store import Commit, Entry, Repo, Store, User, chunks


class FakeHub:
    """A Hub that runs while its ``with`` block does.

    Args:
        root: Folder for the contents of files.
        port: Port of the Hub; 0 takes a free one.

    Attributes:
        url: Its address, ``http://127.0.0.1:port``.
        app: The application, whose ``page_size``, ``part_size``, ``xet_hashes`` and ``copies`` may
            be set.
        store: What it remembers.
        log: Every request since the start or the last ``log.clear()``.

    Example:
        >>> with FakeHub(tmp_path) as hub:                                     # doctest: +SKIP
        ...     ada = hub.add_user("ada")
        ...     hub.create("ada/model")
        ...     commit = hub.upload("ada/model", {"config.json": b"{}"})
        ...     hub.fail("/commit/", status=503, times=2)
    """

    def __init__(self, root: Path, *, port: int = 0):
        self.store = Store(root)
        self.app = Hub(self.store, (*repos.RULES, *files.RULES, *uploads.RULES))
        self.log = Log()
        self._faults = Faults()
        self._layer = Layer(self.app, self._faults, self.log)
        self._port = port
        self._running: list[tuple[BaseWSGIServer, threading.Thread]] = []

    def __enter__(self) -> FakeHub:
        # Two origins, as on the Hub: the client sends its token to the first only.
        self.app.url = self._start(self._port)
        self.app.storage_url = self._start(0)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._layer.stopping.set()
        for server, thread in self._running:
            server.shutdown()
            server.server_close()
            thread.join()
        self._running.clear()

    def _start(self, port: int) -> str:
        server = make_server("127.0.0.1", port, self._layer, threaded=True, request_handler=_Silent)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        self._running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    @property
    def url(self) -> str:
        return self.app.url

    # Accounts and repos

    def add_user(
        self,
        name: str,
        token: str | None = None,
        role: str = "write",
        *,
        orgs: tuple[str, ...] = (),
        storage_limit: int | None = None,
    ) -> str:
        """Add an account, or another token of one, and return the token.

        Args:
            name: The account, which is a namespace for repos.
            token: Its token; None makes one up.
            role: The token's role: ``write`` or ``read``.
            orgs: Namespaces beside its own.
            storage_limit: Bytes that it may store.
        """
        # Made at run time, so that no scanner takes it for a token that leaked.
        token = token or "hf_" + f"Invented{len(self.store.users)}{name.title()}" * 2
        self.store.users[token] = User(name, token, role, orgs)
        if storage_limit is not None:
            self.store.limits[name] = storage_limit
        return token

    def create(
        self,
        repo_id: str,
        *,
        private: bool = False,
        gated: str | bool = False,
        kind: str = "model",
    ) -> Repo:
        """Add a repo with its initial commit; ``gated`` is False, ``auto`` or ``manual``."""
        options = {"private": private, "gated": "auto" if gated is True else gated}
        return self.store.create(kind, repo_id, repo_id.split("/")[0], **options)

    def repo(self, repo_id: str, *, kind: str = "model") -> Repo:
        return self.store.repos[kind, repo_id]

    def allow(self, repo_id: str, user: str) -> None:
        """Let a user download from a gated repo."""
        self.repo(repo_id).allowed.add(user)

    def upload(
        self,
        repo_id: str,
        contents: Mapping[str, bytes | Path | None],
        *,
        revision: str = "main",
        message: str = "Upload",
        kind: str = "model",
    ) -> str:
        """Commit files as their owner would, creating repo and branch where there are none.

        Args:
            repo_id: The repo.
            contents: Files by their paths in the repo; None deletes one.
            revision: Branch.
            message: The commit's title.
            kind: ``model`` or ``dataset``.

        Returns:
            The commit's id.
        """
        if (kind, repo_id) not in self.store.repos:
            self.create(repo_id, kind=kind)
        repo = self.repo(repo_id, kind=kind)
        with self.store.lock:
            ref = f"refs/heads/{revision}"
            repo.refs.setdefault(ref, repo.find("main").oid)
            parent = repo.find(revision)
            tree = dict(parent.tree)
            for path, content in contents.items():
                if content is None:
                    del tree[path]
                else:
                    tree[path] = self._entry(repo, parent, path, content)
            return repo.commit(ref, tree, message, "", repo.namespace).oid

    def _entry(self, repo: Repo, parent: Commit, path: str, content: bytes | Path) -> Entry:
        sha256, size = self.store.objects.add(chunks(content))
        sample = next(chunks(content), b"")[:512]
        if size and self.store.upload_mode(parent, path, size, sample) == "lfs":
            repo.lfs[sha256] = size
            return Entry.pointer(sha256, size)
        return Entry.regular(self.store.objects.path(sha256).read_bytes())

    def files(
        self, repo_id: str, revision: str = "main", *, kind: str = "model"
    ) -> dict[str, bytes]:
        """All files at a revision, but for ``.gitattributes``, which every repo has."""
        tree = self.repo(repo_id, kind=kind).find(revision).tree
        return {
            path: self.store.read(entry)
            for path, entry in sorted(tree.items())
            if path != ".gitattributes"
        }

    def spoil(self, repo_id: str, path: str) -> None:
        """Change a byte of a stored file, which the Hub goes on to give for the old one."""
        stored = self.store.objects.path(self.repo(repo_id).find("main").tree[path].sha256)
        data = bytearray(stored.read_bytes())
        data[-1] ^= 1
        stored.write_bytes(data)

    def commits(self, repo_id: str, revision: str = "main", *, kind: str = "model") -> list[Commit]:
        """The commits up to a revision, newest first; the last is the repo's initial one."""
        repo = self.repo(repo_id, kind=kind)
        return list(repo.history(repo.find(revision)))

    def tag(self, repo_id: str, name: str, revision: str = "main") -> None:
        repo = self.repo(repo_id)
        repo.refs[f"refs/tags/{name}"] = repo.find(revision).oid

    # Faults and clients

    def fail(self, path: str = "", method: str | None = None, **fault: Any) -> Fault:
        """Let something happen to the next requests to ``path``; see :class:`.faults.Fault`."""
        added = Fault(path=path, method=method, **fault)
        self._faults.waiting.append(added)
        return added

    def recover(self) -> None:
        """Forget all faults that have not happened."""
        self._faults.waiting.clear()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Environment for a client in another process: this Hub, a cache of its own, no Xet."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not re.match(r"HF_|HUGGING|(https?|all)_proxy", name, re.IGNORECASE)
        }
        return {
            **clean,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            **({"HF_TOKEN": token} if token else {}),
        }


class _Silent(WSGIRequestHandler):
    """Prints errors of the server itself only; requests are in the log."""

    def log_request(self, *args: object) -> None:
        pass
