"""The Hub as a WSGI application: which function answers a request, for whom, and how.

Paths are matched before their escapes are resolved, as a revision may hold slashes:
``/api/models/ada/model/tree/refs%2Fpr%2F1``.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Request, Response

from .store import Refusal, Repo, Store, User

Handler = Callable[..., Response]


class Hub:
    """The Hub.

    A handler is called with the hub, the request, the user who asks (None without a token) and
    what its path names.

    Args:
        store: What the Hub remembers.
        rules: Method, path and handler of everything that the Hub answers.

    Attributes:
        url: Address of the Hub.
        storage_url: Address of the storage, another origin, which takes and gives the contents of
            large files for signed addresses and knows no tokens.
        page_size: Entries that a listing gives at once.
        xet_hashes: Whether files have the hash without which the client does not try to copy them.
        copies: Whether the Hub can copy large files from one repo to another.
        part_size: Bytes; a larger file is uploaded in parts of that size.
    """

    def __init__(self, store: Store, rules: Iterable[tuple[str, str, Handler]]):
        self.store = store
        self.url = self.storage_url = ""
        self.page_size = 1000
        self.xet_hashes = self.copies = True
        self.part_size = 5_000_000_000
        self._secret = secrets.token_bytes(16)
        self._map = Map(
            [Rule(path, methods=[method], endpoint=handler) for method, path, handler in rules],
            merge_slashes=False,
        )

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        response = self._answer(Request(environ))
        response.headers["X-Request-Id"] = f"Root=1-{secrets.token_hex(12)}"
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        try:
            path = urlsplit(request.environ["RAW_URI"]).path
            handler, values = self._map.bind("hub").match(path, request.method)
            values = {key: unquote(value) for key, value in values.items()}
            if path.startswith("/storage/"):
                self._check_signature(request)
                return handler(self, request, **values)
            user = self._user(request)
            if "namespace" in values:
                repo_id = f"{values.pop('namespace')}/{values.pop('name')}"
                kind = values.pop("kinds", "models").removesuffix("s")
                values["repo"] = self.store.find(kind, repo_id, user)
            return handler(self, request, user, **values)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message, **refusal.headers}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            return answer({"error": refusal.message}, refusal.status, headers)
        except HTTPException as error:
            # Addresses that the Hub does not have, and ranges that a file does not have.
            return error.get_response(request.environ)

    def _user(self, request: Request) -> User | None:
        header = request.headers.get("Authorization")
        if header is None:
            return None
        user = self.store.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def signed(self, path: str, **query: object) -> str:
        """An address of the storage that is good without a token, for one path and query."""
        text = urlencode(query)
        return f"{self.storage_url}{path}?{text}&signature={self._sign(path, text)}"

    def _check_signature(self, request: Request) -> None:
        query, _, signature = request.query_string.decode().rpartition("&signature=")
        if signature != self._sign(request.path, query):
            raise Refusal(403, "The request signature we calculated does not match.")

    def _sign(self, path: str, query: str) -> str:
        return hashlib.sha256(self._secret + f"{path}?{query}".encode()).hexdigest()

    def page(self, request: Request, items: list[Any], size: int) -> Response:
        """One page of a listing, and the address of the next in a ``Link`` header."""
        start = int(request.args.get("cursor", 0))
        headers = {}
        if start + size < len(items):
            query = [pair for pair in request.args.items(multi=True) if pair[0] != "cursor"]
            query.append(("cursor", str(start + size)))
            path = urlsplit(request.environ["RAW_URI"]).path
            headers["Link"] = f'<{self.url}{path}?{urlencode(query)}>; rel="next"'
        return answer(items[start : start + size], headers=headers)

    def address(self, repo: Repo) -> str:
        prefix = "" if repo.kind == "model" else f"{repo.kind}s/"
        return f"{self.url}/{prefix}{repo.id}"


def answer(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer."""
    return Response(json.dumps(content), status, dict(headers or {}), "application/json")


def flag(value: str | None) -> bool:
    """A Boolean of a query or form: the client writes ``true`` or ``True``."""
    return (value or "").lower() in ("true", "1")


def stamp(date: datetime) -> str:
    """A date as the Hub writes it, in UTC with milliseconds."""
    return date.strftime("%Y-%m-%dT%H:%M:%S.") + f"{date.microsecond // 1000:03d}Z"
