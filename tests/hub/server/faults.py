"""Faults to inject, and the log of what was asked: a WSGI layer around the Hub.

Faults work on the connection itself, so a client meets them as it meets those of a network.
"""

from __future__ import annotations

import io
import json
import re
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from werkzeug.wrappers import Response


@dataclass
class Fault:
    """What happens to the next ``times`` requests that match, after ``skip`` were let through.

    Attributes:
        path: Regular expression searched in the request's path.
        status: Answer with this status instead of doing what was asked.
        headers: Headers of that answer, such as ``Retry-After``.
        message: What that answer says.
        delay: Wait so many seconds first.
        cut_upload: Break the connection after this fraction of the request's body.
        cut_answer: Break the connection after this fraction of the answer's body.
        lose_answer: Do what was asked, then break the connection without an answer.
        hits: Requests that met the fault.
    """

    path: str = ""
    method: str | None = None
    times: int = 1
    skip: int = 0
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "an injected fault"
    delay: float = 0
    cut_upload: float | None = None
    cut_answer: float | None = None
    lose_answer: bool = False
    hits: int = 0

    def matches(self, method: str, path: str) -> bool:
        return self.method in (None, method) and re.search(self.path, path) is not None


class Faults:
    """The faults that wait for their requests, in the order in which they were set."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []
        self._lock = threading.Lock()

    def take(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.waiting:
                if not fault.matches(method, path):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.hits += 1
                if fault.hits >= fault.times:
                    self.waiting.remove(fault)
                return fault
        return None


@dataclass
class Record:
    """One request. ``received`` and ``sent`` count bytes of the bodies.

    Attributes:
        kind: ``api``, ``lfs`` (an upload of file content to the storage) or ``download``.
        file: What was downloaded, as ``user/name/path``, or the SHA-256 of what was uploaded.
        regular: Bytes of file contents inside a commit.
        status: What was answered; None before that, and where the connection was broken first.
        broken: Whether a fault broke the connection.
        done: Whether the Hub is through with the request.
    """

    method: str
    path: str
    query: str
    authorization: str
    kind: str = "api"
    file: str = ""
    status: int | None = None
    received: int = 0
    sent: int = 0
    regular: int = 0
    broken: bool = False
    done: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Log:
    """Every request, oldest first."""

    def __init__(self) -> None:
        self.requests: list[Record] = []
        self._changed = threading.Condition()

    def add(self, record: Record) -> None:
        with self._changed:
            self.requests.append(record)
            self._changed.notify_all()

    def finish(self, record: Record) -> None:
        with self._changed:
            record.done = True
            self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self.requests.clear()

    def find(self, path: str = "", method: str | None = None) -> list[Record]:
        """Requests whose path holds a match of the regular expression ``path``."""
        return [
            record
            for record in list(self.requests)
            if method in (None, record.method) and re.search(path, record.path)
        ]

    def wait(
        self, path: str = "", method: str | None = None, *, done: bool = False, timeout: float = 30
    ) -> Record:
        """Block until a matching request has arrived (or is done), and return it."""

        def first() -> Record | None:
            return next((r for r in self.find(path, method) if r.done or not done), None)

        with self._changed:
            found = self._changed.wait_for(first, timeout)
        if found is None:
            raise TimeoutError(f"no {method or 'request'} for {path} within {timeout} s")
        return found

    def settle(self, timeout: float = 30) -> None:
        """Block until the Hub is through with every request: a client may leave before that."""

        def settled() -> bool:
            return all(record.done for record in self.requests)

        with self._changed:
            if not self._changed.wait_for(settled, timeout):
                raise TimeoutError(f"a request is not done within {timeout} s")

    @property
    def lfs_bytes(self) -> int:
        """Bytes uploaded to the storage, broken uploads included."""
        return sum(record.received for record in self.requests if record.kind == "lfs")

    @property
    def regular_bytes(self) -> int:
        """Bytes of files that were uploaded inside commits."""
        return sum(record.regular for record in self.requests)

    @property
    def uploads(self) -> dict[str, int]:
        """Bytes uploaded to the storage, by the SHA-256 of the files."""
        return self._by_file("lfs", "received")

    @property
    def downloads(self) -> dict[str, int]:
        """Bytes of contents that were downloaded, by ``user/name/path``."""
        return self._by_file("download", "sent")

    def _by_file(self, kind: str, count: str) -> dict[str, int]:
        total: dict[str, int] = defaultdict(int)
        for record in self.requests:
            if record.kind == kind:
                total[record.file] += getattr(record, count)
        return dict(total)


class Layer:
    """The WSGI layer: logs each request and lets its fault happen.

    Attributes:
        stopping: Set when the server stops, so that no delay outlives it.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], faults: Faults, log: Log):
        self.app, self.faults, self.log = app, faults, log
        self.stopping = threading.Event()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterator[bytes]:
        record = Record(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"].encode("latin1").decode(),
            environ["QUERY_STRING"],
            environ.get("HTTP_AUTHORIZATION", ""),
        )
        environ["hub.record"] = record
        fault = self.faults.take(record.method, record.path) or Fault()
        if fault.delay and record.method == "POST":
            # Who waits for the request to end its client takes it to have come in whole.
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
        self.log.add(record)
        try:
            yield from self._answer(environ, start_response, record, fault)
        finally:
            self.log.finish(record)

    def _answer(
        self,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
        record: Record,
        fault: Fault,
    ) -> Iterator[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            record.status = None if record.broken else int(status.split()[0])
            lengths.extend(int(v) for name, v in headers if name.lower() == "content-length")
            return start_response(status, headers, *exc_info)

        lengths: list[int] = []
        self.stopping.wait(fault.delay)
        app = self.app
        if fault.status is not None:
            app = _refusal(fault.status, fault.message, fault.headers)
        limit = None
        if fault.cut_upload is not None:
            limit = int(fault.cut_upload * int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = _Body(environ, record, limit)
        if limit == 0:
            _hang_up(environ)
        answer = app(environ, (lambda *args: None) if fault.lose_answer else start)
        try:
            if fault.lose_answer:
                _hang_up(environ)
            limit = None
            if fault.cut_answer is not None:
                limit = int(fault.cut_answer * sum(lengths))
            for chunk in answer:
                part = chunk if limit is None else chunk[: limit - record.sent]
                record.sent += len(part)
                yield part
                if limit is not None and record.sent >= limit:
                    _hang_up(environ)
            if limit is not None:
                _hang_up(environ)
        finally:
            if hasattr(answer, "close"):
                answer.close()


class _Body(io.RawIOBase):
    """A request's body that counts what is read of it, and breaks off after ``limit`` bytes."""

    def __init__(self, environ: dict[str, Any], record: Record, limit: int | None):
        self.environ, self.record, self.limit = environ, record, limit
        self.source = environ["wsgi.input"]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        room = len(buffer)
        if self.limit is not None:
            room = min(room, self.limit - self.record.received)
            if room <= 0:
                _hang_up(self.environ)
        data = self.source.read(room)
        buffer[: len(data)] = data
        self.record.received += len(data)
        return len(data)


def _refusal(status: int, message: str, headers: Mapping[str, str]) -> Response:
    body = json.dumps({"error": message})
    return Response(body, status, {"X-Error-Message": message, **headers}, "application/json")


def _hang_up(environ: dict[str, Any]) -> None:
    """Break the connection, as a network does: werkzeug then drops the request in silence."""
    environ["hub.record"].broken = True
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("an injected fault")
