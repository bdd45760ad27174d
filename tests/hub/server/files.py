"""Files of a repo at a revision: listed, described, downloaded."""

from __future__ import annotations

import hashlib
from typing import Any

from werkzeug.wrappers import Request, Response
from werkzeug.wsgi import wrap_file

from .app import Hub, answer, flag, stamp
from .repos import API
from .store import Commit, Entry, Refusal, Repo, User

_RESOLVE = "<namespace>/<name>/resolve/<revision>/<path:path>"
_EXPANDED_PAGE = 50
_CHUNK = 1 << 18


def tree(
    hub: Hub, request: Request, user: User | None, repo: Repo, revision: str, path: str = ""
) -> Response:
    commit = repo.find(revision)
    prefix = f"{path}/" if path else ""
    inside = {p: entry for p, entry in commit.tree.items() if p.startswith(prefix)}
    if path and not inside:
        raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
    expand, recursive = (flag(request.args.get(key)) for key in ("expand", "recursive"))
    listed: dict[str, dict[str, Any]] = {}
    for file, entry in inside.items():
        parts = file[len(prefix) :].split("/")
        folders = [prefix + "/".join(parts[:depth]) for depth in range(1, len(parts))]
        for folder in folders if recursive else folders[:1]:
            listed[folder] = _folder(repo, commit, folder, expand)
        if recursive or not folders:
            listed[file] = _file(repo, commit, file, entry, expand)
    size = min(_EXPANDED_PAGE, hub.page_size) if expand else hub.page_size
    return hub.page(request, [listed[name] for name in sorted(listed)], size)


def paths_info(
    hub: Hub, request: Request, user: User | None, repo: Repo, revision: str
) -> Response:
    commit = repo.find(revision)
    expand = flag(request.form.get("expand"))
    found = []
    for path in (path.rstrip("/") for path in request.form.getlist("paths")):
        entry = commit.tree.get(path)
        if entry is not None:
            item = _file(repo, commit, path, entry, expand)
            if hub.xet_hashes and entry.lfs:
                # Here alone, where the client needs it to copy: in a tree listing, a client that
                # has Xet would take it as an invitation to download through Xet.
                item["xetHash"] = entry.xet_hash
            found.append(item)
        elif any(name.startswith(f"{path}/") for name in commit.tree):
            found.append(_folder(repo, commit, path, expand))
    return answer(found)


def _file(repo: Repo, commit: Commit, path: str, entry: Entry, expand: bool) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "file", "path": path, "oid": entry.oid, "size": entry.size}
    if entry.lfs:
        pointer = entry.pointer_size
        item["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": pointer}
    return item | (_last_commit(repo, commit, path) if expand else {})


def _folder(repo: Repo, commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    entries = sorted((p, e.oid) for p, e in commit.tree.items() if p.startswith(f"{path}/"))
    oid = hashlib.sha1(repr(entries).encode()).hexdigest()
    item = {"type": "directory", "path": path, "oid": oid, "size": 0}
    return item | (_last_commit(repo, commit, path) if expand else {})


def _last_commit(repo: Repo, commit: Commit, path: str) -> dict[str, Any]:
    last = repo.last_change(commit, path)
    return {"lastCommit": {"id": last.oid, "title": last.title, "date": stamp(last.date)}}


def resolve(
    hub: Hub, request: Request, user: User | None, repo: Repo, revision: str, path: str
) -> Response:
    """A file: a small one itself, a large one as the storage's address for it."""
    hub.store.check_download(repo, user)
    commit = repo.find(revision)
    entry = repo.entry(commit, path)
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{entry.oid}"'}
    if not entry.lfs:
        return _content(hub, request, entry, f"{repo.id}/{path}", headers)
    headers["X-Linked-Size"] = str(entry.size)
    headers["X-Linked-Etag"] = f'"{entry.sha256}"'
    headers["Location"] = hub.signed(f"/storage/{entry.sha256}", file=f"{repo.id}/{path}")
    return Response(status=302, headers=headers)


def stored(hub: Hub, request: Request, sha256: str) -> Response:
    entry = Entry.pointer(sha256, hub.store.objects.path(sha256).stat().st_size)
    return _content(hub, request, entry, request.args["file"], {"ETag": f'"{sha256}"'})


def _content(
    hub: Hub, request: Request, entry: Entry, name: str, headers: dict[str, str]
) -> Response:
    if request.method == "GET":
        record = request.environ["hub.record"]
        record.kind, record.file = "download", name
    file = hub.store.objects.path(entry.sha256).open("rb")
    chunks = wrap_file(request.environ, file, _CHUNK)
    response = Response(chunks, 200, headers, direct_passthrough=True)
    response.content_length = entry.size
    # Answers a Range header with 206 and the part, or 416.
    return response.make_conditional(request, accept_ranges=True, complete_length=entry.size)


RULES = (
    ("GET", f"{API}/tree/<revision>", tree),
    ("GET", f"{API}/tree/<revision>/<path:path>", tree),
    ("POST", f"{API}/paths-info/<revision>", paths_info),
    ("GET", f"/{_RESOLVE}", resolve),
    ("GET", f"/<any(datasets):kinds>/{_RESOLVE}", resolve),
    ("GET", "/storage/<sha256>", stored),
)
