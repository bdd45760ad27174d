"""A small Hub on the loopback interface, for the real client: models, commits, gates and tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

# Invented, and built at run time so that no scanner takes it for a token that leaked.
TOKEN = "hf_" + "Invented" * 4


@dataclass
class Repo:
    """Commits, oldest first, and the names of some."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        sha = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        return sha

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


@dataclass
class FakeHub:
    """The Hub's state, what clients asked of it, and a status that it answers with instead."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    authorizations: set[str] = field(default_factory=set)
    fault: int | None = None

    def repo(self, name: str, **options: bool) -> Repo:
        return self.repos.setdefault(name, Repo(**options))

    @property
    def downloads(self) -> list[str]:
        """Files that were fetched, by their paths in their repos."""
        return [
            line.split("/", 5)[5] for line in self.requests if re.match(r"GET /\w+/\w+/res", line)
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        authorization = self.headers.get("authorization", "")
        self.hub.authorizations.add(authorization)
        if self.hub.fault is not None:
            return self._send(self.hub.fault, {"error": f"no: {authorization}"})
        if authorization not in ("", f"Bearer {TOKEN}"):
            message = f"Invalid credentials in Authorization header: {authorization}"
            return self._send(401, {}, {"X-Error-Message": message})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        match = re.fullmatch(
            r"/(?:api/models/)?([\w-]+/[\w.-]+)"
            r"(?:/(revision|tree|resolve|preupload|commit)/([^/]+)(?:/(.*))?)?",
            path,
        )
        if match is None:
            return self._send(404, {"error": "no such address"})
        return self._repo(*match.groups(), body)

    def _repo(
        self, name: str, what: str | None, revision: str | None, file: str | None, body: bytes
    ) -> None:
        repo = self.hub.repos.get(name)
        known = "authorization" in self.headers
        if repo is None or (repo.private and not known):
            return self._send(404 if known else 401, {}, {"X-Error-Code": "RepoNotFound"})
        if what in ("preupload", "commit"):
            if not known:
                return self._send(401, {"error": "log in"})
            return self._upload(repo, name, what, revision or "main", body)
        sha = repo.find(revision or "main")
        if sha is None:
            return self._send(404, {}, {"X-Error-Code": "RevisionNotFound"})
        files = repo.commits[sha]
        if what == "tree":
            return self._send(
                200,
                [
                    {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}
                    for path, data in files.items()
                ],
            )
        if what == "resolve":
            if repo.gated:
                return self._send(403, {}, {"X-Error-Code": "GatedRepo"})
            if file not in files:
                return self._send(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
            headers = {"X-Repo-Commit": sha, "ETag": f'"{_oid(files[file])}"'}
            return self._send(200, files[file], headers)
        siblings = [{"rfilename": path} for path in files]
        return self._send(200, {"id": name, "sha": sha, "siblings": siblings})

    def _create(self, wanted: dict[str, str]) -> None:
        if "authorization" not in self.headers:
            return self._send(401, {"error": "log in"})
        name = f"{wanted.get('organization') or 'ada'}/{wanted['name']}"
        status = 409 if name in self.hub.repos else 200
        repo = self.hub.repo(name, private=wanted.get("visibility") == "private")
        if not repo.commits:
            repo.commit({".gitattributes": b""})
        return self._send(status, {"url": f"{self.hub.url}/{name}", "name": name})

    def _upload(self, repo: Repo, name: str, what: str, revision: str, body: bytes) -> None:
        base = repo.find(revision)
        if base is None:
            return self._send(404, {}, {"X-Error-Code": "RevisionNotFound"})
        if what == "preupload":
            files = json.loads(body)["files"]
            modes = [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self._send(200, {"files": modes})
        lines = [json.loads(line) for line in body.splitlines()]
        added = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        sha = repo.commit({**repo.commits[base], **added}, revision)
        url = f"{self.hub.url}/{name}/commit/{sha}"
        return self._send(200, {"success": True, "commitUrl": url, "commitOid": sha})

    def _send(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def token() -> str:
    return TOKEN


@pytest.fixture
def use_endpoint(monkeypatch, tmp_path):
    """``use_endpoint(url)``: the Hub client asks this address, with an empty cache and no token."""

    def use(url: str) -> None:
        # The client reads these variables when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            monkeypatch.delenv(variable, raising=False)

    return use


@pytest.fixture
def fake_hub(use_endpoint) -> Iterator[FakeHub]:
    """The Hub that the client asks."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    use_endpoint(hub.url)
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def patch(make_patch, make_layout):
    return make_patch(make_layout("llama"))
