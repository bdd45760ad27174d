"""Every exception is made the way huggingface_hub makes it, from a response or by its client."""

from __future__ import annotations

import errno

import pytest
from huggingface_hub import errors as hub
from huggingface_hub import parse_hf_uri
from huggingface_hub.utils import hf_raise_for_status, httpx, validate_repo_id

from neuropatch.errors import HubError
from neuropatch.hub.errors import hub_error, redact, translate_hub_errors

URL = "https://huggingface.co/api/models/org/name"
# Invented, and built at run time so that no scanner takes it for a token that leaked.
TOKEN = "hf_" + "Invented" * 4


def response_error(status: int, **options) -> Exception:
    request = httpx.Request("GET", URL, headers={"authorization": f"Bearer {TOKEN}"})
    response = httpx.Response(status, request=request, **options)
    with pytest.raises(hub.HfHubHTTPError) as caught:
        hf_raise_for_status(response)
    return caught.value


def code(status: int, name: str) -> Exception:
    return response_error(status, headers={"X-Error-Code": name})


def raised_by(call, *args) -> Exception:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call(*args)
    return caught.value


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def translated(error: Exception) -> HubError:
    with pytest.raises(HubError) as caught, translate_hub_errors("model org/name"):
        raise error
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


DISABLED = {"X-Error-Message": "Access to this resource is disabled."}


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda: code(403, "GatedRepo"), "is gated", "ask for access"),
        (lambda: code(404, "RepoNotFound"), "was not found on the Hub", "hf auth login"),
        (lambda: response_error(401), "was not found on the Hub", "hf auth login"),
        (lambda: code(404, "RevisionNotFound"), "has no such revision", "branch, tag or commit"),
        (lambda: code(404, "EntryNotFound"), "has no such file", "Files and versions"),
        (lambda: response_error(403, headers=DISABLED), "has been disabled", "page"),
        (
            lambda: response_error(
                401, headers={"X-Error-Message": "Invalid credentials in Authorization header"}
            ),
            "the access token is not valid (the Hub says: Invalid credentials",
            "hf auth login",
        ),
        (lambda: response_error(403), "the access token does not allow it", "permission"),
        (lambda: response_error(429), "too many requests", "wait"),
        (lambda: response_error(503), "the Hub answers with 503", "later"),
        (lambda: response_error(400, json={"error": "odd"}), "400 (the Hub says: odd)", "name"),
        (lambda: hub.OfflineModeIsEnabled("x"), "offline mode is on", "HF_HUB_OFFLINE"),
        (lambda: hub.LocalTokenNotFoundError("x"), "needs a Hugging Face account", "HF_TOKEN"),
        (lambda: hub.OIDCError("x"), "the login to the Hub failed", "hf auth login"),
        (lambda: hub.FileMetadataError("x"), "is not that of a Hub", "HF_ENDPOINT"),
        (lambda: raised_by(validate_repo_id, "a//b"), "not a valid Hub name", "user/name"),
        (lambda: raised_by(parse_hf_uri, "hf://x"), "not a valid hf:// address", "hf://datasets"),
        (lambda: httpx.ConnectError("x"), "no connection to the Hub (ConnectError)", "connection"),
        (lambda: httpx.ReadTimeout("x"), "does not answer in time", "connection"),
        (lambda: httpx.ProxyError("x"), "the proxy refuses", "HTTPS_PROXY"),
        (lambda: httpx.UnsupportedProtocol("x"), "not a valid URL", "HF_ENDPOINT"),
        (lambda: httpx.InvalidURL("x"), "not a valid URL", "HF_ENDPOINT"),
        (lambda: httpx.TooManyRedirects("x"), "failed (TooManyRedirects)", "connection"),
        (lambda: hub.LocalEntryNotFoundError("x"), "is not in the local Hub cache", "HF_HUB"),
        (
            lambda: caused(hub.LocalEntryNotFoundError("x"), hub.OfflineModeIsEnabled("x")),
            "offline mode is on, and it is not in the local cache",
            "HF_HUB_OFFLINE",
        ),
        (
            lambda: caused(hub.RevisionResolutionError("x"), httpx.ConnectError("x")),
            "no connection to the Hub (ConnectError), and it is not in the local cache",
            "connection",
        ),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), "No space left", "HF_HOME"),
    ],
)
def test_each_failure_has_its_line_and_hint(make, message, hint):
    error = translated(make())
    assert error.message.startswith("model org/name ")
    assert message in error.message
    assert hint in (error.hint or "")


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), FileNotFoundError(2, "x")])
def test_other_exceptions_pass_through(error):
    with pytest.raises(type(error)) as caught, translate_hub_errors("model org/name"):
        raise error
    assert caught.value is error
    assert hub_error("model org/name", error) is None


def test_nothing_raised_nothing_translated():
    with translate_hub_errors("model org/name"):
        pass


def test_no_token_in_a_message(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "mirror-secret-1")
    said = f"bad {TOKEN}, mirror-secret-1 and Bearer abc.def at https://me:pw@mirror.org/x"
    error = translated(response_error(403, json={"error": said}))
    assert "bad hf_***" in error.message or "bad ***" in error.message
    for secret in (TOKEN, "Invented", "mirror-secret-1", "abc.def", "me:pw"):
        assert secret not in str(error)


def test_the_token_that_was_sent_is_masked_whatever_its_form():
    request = httpx.Request("GET", URL, headers={"authorization": "Bearer odd-form"})
    response = httpx.Response(403, request=request, json={"error": "no odd-form here"})
    error = hub.HfHubHTTPError("x", response=response, server_message="no odd-form here")
    assert translated(error).message.endswith("(the Hub says: no *** here)")


def test_long_answers_are_cut():
    error = translated(response_error(500, json={"error": "x" * 5000}))
    assert len(error.message) < 400


def test_redact_leaves_other_text_alone():
    text = "model org/name at https://huggingface.co has 3 tokens"
    assert redact(text) == text


def uploading(cause: Exception) -> Exception:
    return caused(RuntimeError("Error while uploading 'a.safetensors' to the Hub."), cause)


@pytest.mark.parametrize(
    ("make", "message", "hint"),
    [
        (lambda: response_error(412), "somebody else has committed meanwhile", "push again"),
        (lambda: response_error(402), "storage on the Hub does not allow it", "free some"),
        (lambda: response_error(413), "storage on the Hub does not allow it", "free some"),
        (
            lambda: response_error(403, json={"error": "Private storage limit reached"}),
            "storage on the Hub does not allow it (the Hub says: Private storage limit",
            "free some",
        ),
        (
            lambda: uploading(response_error(403)),
            "does not allow it (while uploading 'a.safetensors')",
            "permission",
        ),
        (
            lambda: uploading(httpx.ConnectError("x")),
            "no connection to the Hub (ConnectError) (while uploading 'a.safetensors')",
            "connection",
        ),
        (
            lambda: ValueError("LFS batch API returned errors:\nfile with OID x: `quota exceeded`"),
            "storage on the Hub does not allow it",
            "free some",
        ),
        (
            lambda: ValueError("LFS batch API returned errors:\nfile with OID x: `no`"),
            "the Hub does not take a file",
            "later",
        ),
        (
            lambda: ValueError("Invalid metadata in README.md.\n- Error: odd"),
            "README.md are not valid (the Hub says: - Error: odd)",
            "correct",
        ),
        (lambda: hub.FileDuplicationError("x"), "cannot copy files between", "later"),
        (lambda: ConnectionError("x"), "large files (Xet) failed", "HF_HUB_DISABLE_XET=1"),
    ],
)
def test_each_failure_of_a_push(make, message, hint):
    error = translated(make())
    assert message in error.message
    assert hint in (error.hint or "")


@pytest.mark.parametrize("error", [RuntimeError("x"), uploading(KeyError("x"))])
def test_what_only_looks_like_an_upload_passes_through(error):
    assert hub_error("model org/name", error) is None


def test_an_account_is_needed_where_no_token_was_sent():
    request = httpx.Request("POST", "https://huggingface.co/api/repos/create")
    with pytest.raises(hub.HfHubHTTPError) as caught:
        hf_raise_for_status(httpx.Response(401, request=request))
    error = translated(caught.value)
    assert "needs a Hugging Face account" in error.message
    assert "hf auth login" in (error.hint or "")
