"""Hugging Face Hub failures as one line and a hint.

``huggingface_hub`` raises some twenty exception classes for what can go wrong on the way to a file,
with messages of several lines. :func:`translate_hub_errors` turns every one that a user can meet
into :class:`neuropatch.errors.HubError`. The table below is the only place that knows them.

No message ever carries an access token: our sentences are made of our own words, and whatever a
server sends along is redacted first.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    DeviceCodeError,
    DisabledRepoError,
    EntryNotFoundError,
    FileDuplicationError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HfUriError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    OIDCError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

# The Hub client's own HTTP library (httpx2 in huggingface_hub 2.x), under the name that it exports
# for programs built on it: whichever release is installed, these are the classes that it raises.
# The name is exported at run time only, which a type checker does not see.
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from neuropatch.errors import HubError

__all__ = ["hub_error", "redact", "translate_hub_errors"]

_SERVER_MESSAGE_LIMIT = 200
_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS})

_SECRETS = (
    (re.compile(r"hf_[A-Za-z0-9]{4,}"), "hf_***"),
    (re.compile(r"(?i)\b(bearer\s+|authorization\s*[:=]\s*)\S+"), r"\1***"),
    (re.compile(r"://[^/@\s]+@"), "://***@"),
)

_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

_QUOTA = re.compile(r"(?i)\b(quota|storage limit|storage.{0,20}exceed|payment required)")
_CARD = "Invalid metadata in README.md"
_BATCH = "LFS batch API returned errors"
_CONFLICT = "could not be committed: somebody else has committed meanwhile"

_LOGIN = "run `hf auth login`, or set HF_TOKEN"
_CONNECTION = "check the connection and try again, or use a local copy"

_Description = tuple[str, str]


@contextmanager
def translate_hub_errors(what: str) -> Iterator[None]:
    """Turn Hub exceptions that leave the ``with`` block into :class:`HubError`.

    Exceptions that do not come from the Hub pass through unchanged, except for a full or read-only
    disk, where the Hub cache is the place that could not be written.

    Args:
        what: What was asked for, as the subject of a sentence: ``"model org/name"``.

    Raises:
        HubError: One line that begins with ``what``, and a hint. The Hub's exception is its cause.

    Example:
        >>> with translate_hub_errors("model org/name"):
        ...     path = hf_hub_download("org/name", "config.json")  # doctest: +SKIP
    """
    try:
        yield
    except tuple(kind for kind, _ in _RULES) as error:
        translated = hub_error(what, error)
        if translated is None:
            raise
        raise translated from error


def hub_error(what: str, error: BaseException) -> HubError | None:
    """Describe one exception of the Hub client.

    Args:
        what: What was asked for, as the subject of a sentence.
        error: Any exception.

    Returns:
        The error to raise, or None when ``error`` does not come from the Hub client.
    """
    for kind, describe in _RULES:
        if isinstance(error, kind):
            described = describe(error)
            if described is not None:
                message, hint = described
                return HubError(redact(f"{what} {message}"), hint=redact(hint))
    return None


def redact(text: str, *secrets: str) -> str:
    """Return ``text`` on one line, with credentials masked.

    Args:
        text: Any text, such as what a server said.
        secrets: Values to mask beside those of the token variables and what looks like a token.
    """
    # A mirror may use tokens of another form than hf_..., so known ones are masked by value. The
    # Hub client is not asked for its token: that may start a login over the network.
    known = (os.environ.get(variable, "") for variable in _TOKEN_VARIABLES)
    for secret in (*secrets, *known):
        if secret:
            text = text.replace(secret, "***")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def _gated(error: GatedRepoError) -> _Description:
    return (
        "is gated, and this account has no access to it",
        f"ask for access on its page on the Hub, then {_LOGIN}",
    )


def _repository(error: RepositoryNotFoundError) -> _Description:
    return (
        "was not found on the Hub",
        f"check the spelling; if it is private, {_LOGIN} with a token that may read it",
    )


def _disabled(error: DisabledRepoError) -> _Description:
    return "has been disabled on the Hub", "its page on the Hub says why; use another one"


def _revision(error: RevisionNotFoundError) -> _Description:
    return (
        "has no such revision on the Hub",
        "name a branch, tag or commit of its page under Files and versions",
    )


def _local_entry(error: LocalEntryNotFoundError | RevisionResolutionError) -> _Description:
    # The Hub client raises these when it could neither ask the Hub nor find the file in its cache.
    # Why it could not ask is in the cause, and that is what a user can do something about.
    reason = hub_error("", error.__cause__) if error.__cause__ is not None else None
    if reason is None:
        return (
            "is not in the local Hub cache",
            "unset HF_HUB_OFFLINE to download it, or use a local copy",
        )
    return f"{reason.message}, and it is not in the local cache", reason.hint or _CONNECTION


def _entry(error: EntryNotFoundError) -> _Description:
    return "has no such file on the Hub", "check the path under Files and versions on its page"


def _offline(error: OfflineModeIsEnabled) -> _Description:
    return (
        "cannot be reached: offline mode is on",
        "unset HF_HUB_OFFLINE, or use a local copy",
    )


def _no_token(error: LocalTokenNotFoundError) -> _Description:
    return "needs a Hugging Face account", _LOGIN


def _login_failed(error: OIDCError | DeviceCodeError) -> _Description:
    return "cannot be reached: the login to the Hub failed", _LOGIN


def _bad_id(error: HFValidationError) -> _Description:
    return f"is not a valid Hub name: {error}", "Hub names are written user/name"


def _bad_uri(error: HfUriError) -> _Description:
    return f"is not a valid hf:// address: {error.msg}", "write hf://datasets/user/name/path/file"


def _metadata(error: FileMetadataError) -> _Description:
    return (
        "could not be reached: the server's answer is not that of a Hub",
        "check HF_ENDPOINT, proxies and firewalls",
    )


def _http_status(error: HfHubHTTPError) -> _Description:
    status = error.response.status_code
    sent = error.response.request.headers.get("authorization", "").removeprefix("Bearer ")
    said = redact(error.server_message or "", sent)
    detail = f" (the Hub says: {said[:_SERVER_MESSAGE_LIMIT]})" if said else ""
    if status == 401 and not sent:
        return f"needs a Hugging Face account, and no access token was sent{detail}", _LOGIN
    if status in (402, 413, 507) or _QUOTA.search(said):
        return (
            f"was refused: the account's storage on the Hub does not allow it{detail}",
            "free some of it, or ask for more, in the settings of the account",
        )
    if status == 412:
        return f"{_CONFLICT}{detail}", "look at their change, and push again"
    if status == 401:
        return f"was refused: the access token is not valid{detail}", f"{_LOGIN} with a valid token"
    if status == 403:
        return (
            f"was refused: the access token does not allow it{detail}",
            f"{_LOGIN} with a token that has the permission",
        )
    if status == 429:
        return f"was refused: too many requests{detail}", "wait a few minutes and try again"
    if status >= 500:
        return f"could not be reached: the Hub answers with {status}{detail}", "try again later"
    return f"failed: the Hub answers with {status}{detail}", "check the name and the revision"


def _proxy(error: httpx.ProxyError) -> _Description:
    return "cannot be reached: the proxy refuses the connection", "check HTTPS_PROXY and HTTP_PROXY"


def _timeout(error: httpx.TimeoutException) -> _Description:
    return "cannot be reached: the Hub does not answer in time", _CONNECTION


def _address(error: Exception) -> _Description:
    return "cannot be reached: the Hub's address is not a valid URL", "check HF_ENDPOINT"


def _transport(error: httpx.TransportError) -> _Description:
    return f"cannot be reached: no connection to the Hub ({type(error).__name__})", _CONNECTION


def _other_http(error: httpx.HTTPError) -> _Description:
    return f"cannot be reached: the request failed ({type(error).__name__})", _CONNECTION


def _uploading(error: RuntimeError) -> _Description | None:
    # The client wraps what ends an upload, and says no more than the file's name.
    if error.__cause__ is None or not str(error).startswith("Error while uploading"):
        return None
    reason = hub_error("", error.__cause__)
    if reason is None:
        return None
    said = redact(str(error)).removesuffix(" to the Hub.").removeprefix("Error while uploading ")
    return f"{reason.message} (while uploading {said})", reason.hint or _CONNECTION


def _value(error: ValueError) -> _Description | None:
    """What the client says in a plain ValueError: about a card, or about an upload."""
    text = redact(str(error))
    if text.startswith(_CARD):
        said = text.removeprefix(_CARD).strip(". :")[:_SERVER_MESSAGE_LIMIT]
        return (
            f"was refused: the metadata of README.md are not valid (the Hub says: {said})",
            "correct the block between the lines --- at its top",
        )
    if not text.startswith(_BATCH):
        return None
    detail = f" (the Hub says: {text.removeprefix(_BATCH).strip(': ')[:_SERVER_MESSAGE_LIMIT]})"
    if _QUOTA.search(text):
        return (
            f"was refused: the account's storage on the Hub does not allow it{detail}",
            "free some of it, or ask for more, in the settings of the account",
        )
    return f"was refused: the Hub does not take a file{detail}", "try again later"


def _copying(error: FileDuplicationError) -> _Description:
    return "was refused: the Hub cannot copy files between the two repos", "try again later"


def _xet(error: ConnectionError) -> _Description:
    return (
        "cannot be reached: the connection for large files (Xet) failed",
        "check the connection; if this Hub or proxy offers no Xet, set HF_HUB_DISABLE_XET=1",
    )


def _disk(error: OSError) -> _Description | None:
    if error.errno not in _DISK_ERRNOS:
        return None
    return (
        f"could not be stored: {error.strerror}",
        "the Hub cache needs free space and write permission; HF_HOME moves it, and TMPDIR what is "
        "only needed for a push",
    )


# Read from the top: a subclass stands before its base (GatedRepoError is a RepositoryNotFoundError,
# LocalEntryNotFoundError an EntryNotFoundError and an OSError, HfHubHTTPError an OSError).
_RULES: tuple[tuple[type[BaseException], Callable[..., _Description | None]], ...] = (
    (GatedRepoError, _gated),
    (RepositoryNotFoundError, _repository),
    (DisabledRepoError, _disabled),
    (RevisionNotFoundError, _revision),
    (LocalEntryNotFoundError, _local_entry),
    (RevisionResolutionError, _local_entry),
    (EntryNotFoundError, _entry),
    (OfflineModeIsEnabled, _offline),
    (LocalTokenNotFoundError, _no_token),
    (OIDCError, _login_failed),
    (DeviceCodeError, _login_failed),
    (HFValidationError, _bad_id),
    (HfUriError, _bad_uri),
    (FileMetadataError, _metadata),
    (HfHubHTTPError, _http_status),
    (httpx.ProxyError, _proxy),
    (httpx.TimeoutException, _timeout),
    (httpx.UnsupportedProtocol, _address),
    (httpx.InvalidURL, _address),
    (httpx.TransportError, _transport),
    (httpx.HTTPError, _other_http),
    (FileDuplicationError, _copying),
    (RuntimeError, _uploading),
    (ConnectionError, _xet),
    (OSError, _disk),
    (ValueError, _value),
)
