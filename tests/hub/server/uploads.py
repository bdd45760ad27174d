"""Files on their way into a repo: upload modes, LFS, copies between repos, commits."""

from __future__ import annotations

import base64
import fnmatch
import json
from typing import Any

from werkzeug.wrappers import Request, Response

from . import cards
from .app import Hub, answer, flag
from .repos import API
from .store import CHUNK, Entry, Refusal, Repo, User, chunks

_GIT = "<namespace>/<name>.git/info/lfs/objects"


def preupload(hub: Hub, request: Request, user: User | None, repo: Repo, revision: str) -> Response:
    """Which files go through LFS, which are ignored, and what the repo has at their paths."""
    pull_request = flag(request.args.get("create_pr"))
    hub.store.check_write(user, repo.namespace, pull_request=pull_request)
    commit = repo.find(revision)
    wanted = request.get_json()
    there = commit.tree.get(".gitignore")
    patterns = wanted.get("gitIgnore") or (hub.store.read(there).decode() if there else "")
    files = []
    for file in wanted["files"]:
        sample = base64.b64decode(file["sample"])
        mode = hub.store.upload_mode(commit, file["path"], file["size"], sample)
        known = commit.tree.get(file["path"])
        ignored = _ignored(file["path"], patterns)
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": ignored})
        if known is not None:
            files[-1]["oid"] = known.sha256 if known.lfs else known.oid
    return answer({"files": files})


def _ignored(path: str, patterns: str) -> bool:
    """Whether a ``.gitignore`` names a file or one of its folders; without the finer points."""
    names = {*path.split("/"), path}
    rules = [line.strip("/ ") for line in patterns.splitlines() if not line.startswith("#")]
    return any(fnmatch.fnmatchcase(name, rule) for name in names for rule in rules)


def lfs_batch(hub: Hub, request: Request, user: User | None, repo: Repo) -> Response:
    """Where to upload which contents; nothing to do for those that the repo has."""
    # Those who may not write may still open a pull request, and upload files for it.
    hub.store.check_write(user, repo.namespace, pull_request=True)
    wanted = request.get_json(force=True)
    missing = {o["oid"]: o["size"] for o in wanted["objects"] if o["oid"] not in repo.lfs}
    hub.store.check_space(repo.namespace, sum(missing.values()))
    token = request.headers["Authorization"]
    objects = []
    for known in wanted["objects"]:
        sha256, size = known["oid"], known["size"]
        item: dict[str, Any] = {"oid": sha256, "size": size}
        if sha256 in missing:
            verify = f"{hub.address(repo)}.git/info/lfs/objects/verify"
            item["actions"] = {
                "upload": _upload_action(hub, repo, sha256, size),
                "verify": {"href": verify, "header": {"Authorization": token}},
            }
        objects.append(item)
    return answer({"transfer": "basic", "objects": objects})


def _upload_action(hub: Hub, repo: Repo, sha256: str, size: int) -> dict[str, Any]:
    path = f"/storage/{sha256}"
    where = {"kind": repo.kind, "repo": repo.id, "size": size}
    if size <= hub.part_size:
        return {"href": hub.signed(path, **where)}
    parts = range(1, -(-size // hub.part_size) + 1)
    header = {str(number): hub.signed(f"{path}/{number}", **where) for number in parts}
    header["chunk_size"] = str(hub.part_size)
    return {"href": hub.signed(f"{path}/complete", **where), "header": header}


def put(hub: Hub, request: Request, sha256: str) -> Response:
    """A content, which has to be the one that it was announced as."""
    received = _receive(hub, request, sha256)
    return _keep(hub, request, sha256, *received)


def put_part(hub: Hub, request: Request, sha256: str, number: str) -> Response:
    part, _ = _receive(hub, request, sha256)
    return Response(status=200, headers={"ETag": f'"{part}"'})


def complete(hub: Hub, request: Request, sha256: str) -> Response:
    """Put parts together, in order."""
    parts = sorted(request.get_json(force=True)["parts"], key=lambda part: part["partNumber"])
    paths = [hub.store.objects.path(part["etag"].strip('"')) for part in parts]
    whole = hub.store.objects.add(chunk for path in paths for chunk in chunks(path))
    return _keep(hub, request, sha256, *whole)


def _receive(hub: Hub, request: Request, sha256: str) -> tuple[str, int]:
    record = request.environ["hub.record"]
    record.kind, record.file = "lfs", sha256
    return hub.store.objects.add(iter(lambda: request.stream.read(CHUNK), b""))


def _keep(hub: Hub, request: Request, sha256: str, found: str, size: int) -> Response:
    if (found, size) != (sha256, int(request.args["size"])):
        raise Refusal(400, "The Content-SHA256 you specified did not match what we received.")
    repo = hub.store.repos.get((request.args["kind"], request.args["repo"]))
    if repo is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    repo.lfs[sha256] = size
    return Response(status=200, headers={"ETag": f'"{sha256}"'})


def verify(hub: Hub, request: Request, user: User | None, repo: Repo) -> Response:
    hub.store.check_write(user, repo.namespace, pull_request=True)
    wanted = request.get_json(force=True)
    if repo.lfs.get(wanted["oid"]) != wanted["size"]:
        raise Refusal(404, f"Object {wanted['oid']} was not uploaded")
    return answer({})


def duplicate(hub: Hub, request: Request, user: User | None, repo: Repo) -> Response:
    """Give large files of this repo to another one, without their passing through the client."""
    hub.store.check_download(repo, user)
    wanted = request.get_json()
    target = hub.store.find(wanted["target"]["type"], wanted["target"]["name"], user)
    hub.store.check_write(user, target.namespace, pull_request=True)
    entries = {e.sha256: e for commit in repo.commits.values() for e in commit.tree.values()}
    failed = []
    for file in wanted["files"]:
        entry = entries.get(file["sha256"])
        if not hub.copies or entry is None or entry.xet_hash != file["xetHash"]:
            failed.append({"sha256": file["sha256"], "error": "File not found in source repo"})
            continue
        if entry.sha256 not in target.lfs:
            hub.store.check_space(target.namespace, entry.size)
            target.lfs[entry.sha256] = entry.size
    return answer({"failed": failed})


def commit(hub: Hub, request: Request, user: User | None, repo: Repo, revision: str) -> Response:
    """All operations or none, on the parent that the client knows if it names one."""
    pull_request = flag(request.args.get("create_pr"))
    user = hub.store.check_write(user, repo.namespace, pull_request=pull_request)
    header, *operations = [json.loads(line) for line in request.get_data().splitlines()]
    with hub.store.lock:
        parent = repo.find(revision)
        ref = repo.ref(revision)
        if ref is None or ref.startswith("refs/tags/"):
            raise Refusal(400, f"{revision} is not a branch")
        known = header["value"].get("parentCommit")
        if known not in (None, parent.oid):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(parent.tree)
        for operation in operations:
            _apply(hub, request, repo, tree, operation["key"], operation["value"])
        made = {}
        if pull_request:
            number = repo.open_pull_request(parent)
            ref = f"refs/pr/{number}"
            made["pullRequestUrl"] = f"{hub.address(repo)}/discussions/{number}"
        summary, description = (header["value"].get(key, "") for key in ("summary", "description"))
        new = repo.commit(ref, tree, summary, description, user.name)
    url = f"{hub.address(repo)}/commit/{new.oid}"
    return answer(
        {"success": True, "commitOid": new.oid, "commitUrl": url, "hookOutput": "", **made}
    )


def _apply(
    hub: Hub, request: Request, repo: Repo, tree: dict[str, Entry], key: str, value: dict[str, Any]
) -> None:
    path = value["path"]
    if path.startswith("/") or {"", ".", "..", ".git"} & set(path.rstrip("/").split("/")):
        raise Refusal(400, f"Invalid path: {path}")
    if key == "file":
        data = base64.b64decode(value["content"])
        request.environ["hub.record"].regular += len(data)
        if path == "README.md" and (errors := cards.errors(data.decode())):
            raise Refusal(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
        hub.store.check_space(repo.namespace, len(data))
        hub.store.objects.add([data])
        tree[path] = Entry.regular(data)
    elif key == "lfsFile":
        size = repo.lfs.get(value["oid"])
        if size is None or value.get("size", size) != size:
            raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
        tree[path] = Entry.pointer(value["oid"], size)
    elif key == "deletedFile":
        if path not in tree:
            raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        del tree[path]
    elif key == "deletedFolder":
        inside = [name for name in tree if name.startswith(f"{path.rstrip('/')}/")]
        if not inside:
            raise Refusal(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
        for name in inside:
            del tree[name]
    else:
        raise Refusal(400, f"Unknown operation: {key}")


RULES = (
    ("POST", f"{API}/preupload/<revision>", preupload),
    ("POST", f"{API}/commit/<revision>", commit),
    ("POST", f"{API}/lfs-files/duplicate", duplicate),
    ("POST", f"/{_GIT}/batch", lfs_batch),
    ("POST", f"/{_GIT}/verify", verify),
    ("POST", f"/<any(datasets):kinds>/{_GIT}/batch", lfs_batch),
    ("POST", f"/<any(datasets):kinds>/{_GIT}/verify", verify),
    ("PUT", "/storage/<sha256>", put),
    ("PUT", "/storage/<sha256>/<number>", put_part),
    ("POST", "/storage/<sha256>/complete", complete),
)
