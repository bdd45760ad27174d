"""The Hub client, and repeating what it does not repeat itself.

``huggingface_hub`` repeats most of its requests after a failure that may pass. It does not repeat
the creation of a repo or of a commit, the copy between repos, or the first pages of listings, nor
what precedes a download, once a connection breaks; :func:`repeated` does, and is only given calls
that may be made twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from neuropatch.errors import HubError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub import HfApi

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")
Token = str | bool | None

TRIES = 6
FIRST_WAIT = 1.0
LONGEST_WAIT = 8.0

LONG_WAIT = 10.0
"""Seconds from which a wait is announced."""

PATIENCE = 300
"""Seconds that a rate limit is waited for; a longer one is told instead."""

_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})


def hub_client(token: Token = None) -> HfApi:
    """The client that neuropatch names itself with; it honours the HF_* variables."""
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="neuropatch")


def repeated(call: Callable[[], Result], *, first: bool = False) -> Result:
    """Call until it succeeds, or fails in a way that waiting does not cure.

    Args:
        call: What to do; it may be done twice.
        first: It is the first request of a run: a Hub that cannot be reached at all is told at
            once, as the name or the network is most likely wrong.

    Raises:
        Exception: What the last call raised.
    """
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    for number in range(TRIES - 1):
        try:
            return call()
        except failures() as error:
            wait = seconds_to_wait(error, number)
            if wait is None or (first and isinstance(error, httpx.ConnectError)):
                raise
            sleep(wait)
    return call()


def sleep(seconds: float) -> None:
    """Wait, and say so if it takes long."""
    if seconds >= LONG_WAIT:
        _LOG.warning("the Hub takes no requests for %.0f seconds: waiting", seconds)
    time.sleep(seconds)


def failures() -> tuple[type[Exception], ...]:
    """Classes of the failures that :func:`seconds_to_wait` knows."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    return (HfHubHTTPError, httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)


def seconds_to_wait(error: Exception, number: int) -> float | None:
    """How long to wait before the next try.

    Args:
        error: One of :func:`failures`.
        number: How many tries were waited for before.

    Returns:
        Seconds, or None for a failure that does not pass.

    Raises:
        HubError: If the Hub asks for more patience than :data:`PATIENCE`.
    """
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        if error.response.status_code not in _PASSING_STATUS:
            return None
        asked = _asked_wait(error.response.headers)
        if asked is not None and asked > PATIENCE:
            raise HubError(
                f"the Hub takes no more requests of this account for {asked} seconds",
                hint="try again then; what was uploaded is kept",
            ) from error
        if asked is not None:
            return float(asked)
    return min(LONGEST_WAIT, FIRST_WAIT * float(2**number))


def _asked_wait(headers: Mapping[str, str]) -> int | None:
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return int(limit.reset_in_seconds)
    text = headers.get("retry-after", "").strip()
    return int(text) if text.isdigit() else None
