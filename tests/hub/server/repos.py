"""Accounts, and repos as wholes: created, deleted, listed, described."""

from __future__ import annotations

import hashlib
from typing import Any

from werkzeug.wrappers import Request, Response

from . import cards
from .app import Hub, answer, stamp
from .store import Commit, Entry, Refusal, Repo, User

API = "/api/<any(models,datasets):kinds>/<namespace>/<name>"
"""Where a repo's interface is; what all its paths begin with."""


def whoami(hub: Hub, request: Request, user: User | None) -> Response:
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    token = {"displayName": "test", "role": user.role}
    return answer(
        {
            "type": "user",
            "id": _id(user.name),
            "name": user.name,
            "fullname": user.name.title(),
            "orgs": [{"type": "org", "name": org} for org in user.orgs],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def validate_yaml(hub: Hub, request: Request, user: User | None) -> Response:
    errors = cards.errors(request.get_json()["content"])
    messages = [{"message": message} for message in errors]
    return answer({"errors": messages, "warnings": []}, 400 if errors else 200)


def create(hub: Hub, request: Request, user: User | None) -> Response:
    wanted = request.get_json()
    if user is None:
        raise Refusal(401, "Invalid username or password.")
    namespace, kind = wanted.get("organization") or user.name, wanted.get("type") or "model"
    repo_id = f"{namespace}/{wanted['name']}"
    if user.role != "write" or not hub.store.owns(user, namespace):
        raise Refusal(
            403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"'
        )
    with hub.store.lock:
        repo = hub.store.repos.get((kind, repo_id))
        if repo is not None:
            error = f"You already created this {kind} repo"
            return answer({"error": error, "url": hub.address(repo), "name": repo_id}, 409)
        private = wanted.get("visibility") == "private"
        repo = hub.store.create(kind, repo_id, user.name, private=private)
    return answer({"url": hub.address(repo), "name": repo_id, "id": repo_id})


def delete(hub: Hub, request: Request, user: User | None) -> Response:
    wanted = request.get_json()
    kind = wanted.get("type") or "model"
    owner = wanted.get("organization") or (user.name if user else "")
    repo = hub.store.find(kind, f"{owner}/{wanted['name']}", user)
    hub.store.check_write(user, repo.namespace)
    del hub.store.repos[kind, repo.id]
    return answer({})


def settings(hub: Hub, request: Request, user: User | None, repo: Repo) -> Response:
    hub.store.check_write(user, repo.namespace)
    wanted = request.get_json()
    repo.gated = wanted.get("gated", repo.gated)
    if "visibility" in wanted:
        repo.private = wanted["visibility"] == "private"
    return answer({})


def listing(hub: Hub, request: Request, user: User | None, kinds: str) -> Response:
    args = request.args
    tags, keys = set(args.getlist("filter")), set(args.getlist("expand"))
    found = []
    for (kind, repo_id), repo in sorted(hub.store.repos.items()):
        if (
            f"{kind}s" != kinds
            or not hub.store.visible(repo, user)
            or args.get("author") not in (None, repo.namespace)
            or args.get("search", "").lower() not in repo_id.lower()
        ):
            continue
        described = describe(hub, repo, repo.find("main"))
        if tags <= set(described["tags"]):
            found.append(described)
    if args.get("sort") in ("lastModified", "createdAt"):
        found.sort(key=lambda item: item[args["sort"]], reverse=True)
    if not keys:
        # A listing says less of each repo than the repo's own address, unless asked.
        keys = {*described} if found else set()
        keys -= set() if args.get("full") else {"siblings", "sha", "gated", "lastModified"}
        keys -= set() if args.get("full") or args.get("cardData") else {"cardData"}
    items = [{k: v for k, v in item.items() if k in {"id", *keys}} for item in found]
    return hub.page(request, items, min(hub.page_size, int(args.get("limit", hub.page_size))))


def info(
    hub: Hub, request: Request, user: User | None, repo: Repo, revision: str = "main"
) -> Response:
    described = describe(hub, repo, repo.find(revision), blobs=bool(request.args.get("blobs")))
    if keys := set(request.args.getlist("expand")):
        described = {k: v for k, v in described.items() if k in {"id", *keys}}
    return answer(described)


def describe(hub: Hub, repo: Repo, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """What the Hub says of a repo at a commit."""
    card = commit.tree.get("README.md")
    data = cards.metadata(hub.store.read(card).decode()) if card else {}
    return {
        "_id": _id(repo.id),
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.oid,
        "lastModified": stamp(commit.date),
        "createdAt": stamp(repo.created),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": cards.tags(data, commit.tree),
        "library_name": data.get("library_name"),
        "pipeline_tag": data.get("pipeline_tag"),
        "cardData": data,
        "siblings": [
            {"rfilename": path, **(_blob(entry) if blobs else {})}
            for path, entry in sorted(commit.tree.items())
        ],
        "spaces": [],
        "usedStorage": sum(repo.lfs.values()),
    }


def refs(hub: Hub, request: Request, user: User | None, repo: Repo) -> Response:
    def under(prefix: str) -> list[dict[str, str]]:
        return [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
            for ref, oid in sorted(repo.refs.items())
            if ref.startswith(prefix)
        ]

    found = {"branches": under("refs/heads/"), "tags": under("refs/tags/"), "converts": []}
    if request.args.get("include_prs"):
        found["pullRequests"] = under("refs/pr/")
    return answer(found)


def commits(hub: Hub, request: Request, user: User | None, repo: Repo, revision: str) -> Response:
    items = [
        {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author}],
            "date": stamp(commit.date),
        }
        for commit in repo.history(repo.find(revision))
    ]
    return hub.page(request, items, hub.page_size)


def create_branch(
    hub: Hub, request: Request, user: User | None, repo: Repo, branch: str
) -> Response:
    wanted = request.get_json()
    return _point(hub, user, repo, f"refs/heads/{branch}", wanted.get("startingPoint", "main"))


def create_tag(hub: Hub, request: Request, user: User | None, repo: Repo, tag: str) -> Response:
    # The path names what is tagged, and the body the tag.
    return _point(hub, user, repo, f"refs/tags/{request.get_json()['tag']}", tag)


def delete_branch(
    hub: Hub, request: Request, user: User | None, repo: Repo, branch: str
) -> Response:
    return _unpoint(hub, user, repo, f"refs/heads/{branch}")


def delete_tag(hub: Hub, request: Request, user: User | None, repo: Repo, tag: str) -> Response:
    return _unpoint(hub, user, repo, f"refs/tags/{tag}")


def _point(hub: Hub, user: User | None, repo: Repo, ref: str, revision: str) -> Response:
    hub.store.check_write(user, repo.namespace)
    if ref in repo.refs:
        raise Refusal(409, f"Reference {ref} already exists")
    repo.refs[ref] = repo.find(revision).oid
    return answer({})


def _unpoint(hub: Hub, user: User | None, repo: Repo, ref: str) -> Response:
    hub.store.check_write(user, repo.namespace)
    if repo.refs.pop(ref, None) is None:
        raise Refusal(404, f"Reference {ref} does not exist", "RevisionNotFound")
    return answer({})


def _blob(entry: Entry) -> dict[str, Any]:
    found: dict[str, Any] = {"blobId": entry.oid, "size": entry.size}
    if entry.lfs:
        pointer = entry.pointer_size
        found["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": pointer}
    return found


def _id(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()[:24]


RULES = (
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("POST", "/api/repos/create", create),
    ("DELETE", "/api/repos/delete", delete),
    ("GET", "/api/<any(models,datasets):kinds>", listing),
    ("GET", API, info),
    ("GET", f"{API}/revision/<revision>", info),
    ("PUT", f"{API}/settings", settings),
    ("GET", f"{API}/refs", refs),
    ("GET", f"{API}/commits/<revision>", commits),
    ("POST", f"{API}/branch/<branch>", create_branch),
    ("DELETE", f"{API}/branch/<branch>", delete_branch),
    ("POST", f"{API}/tag/<tag>", create_tag),
    ("DELETE", f"{API}/tag/<tag>", delete_tag),
)
