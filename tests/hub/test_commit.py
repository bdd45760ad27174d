"""A commit is made once, whatever happens on the way, and every failure says what it is."""

from __future__ import annotations

import errno
import socket

import pytest
from huggingface_hub import constants

from neuropatch import NeuronPatch
from neuropatch.errors import HubError
from neuropatch.hub.branch import Destination
from neuropatch.hub.push import prepare_patch
from neuropatch.patch.format import encode
from neuropatch.patch.patch import PATCH_FILE

CARD = b"---\nlicense: mit\n---\n"


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were waited for, without waiting."""
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


@pytest.fixture
def ada(hub, monkeypatch, waits):
    token = hub.add_user("ada")
    monkeypatch.setenv("HF_TOKEN", token)
    hub.upload("example/tiny", {"README.md": CARD})
    return token


def check_pushed_once(hub, patch, *, commits=2):
    assert len(hub.commits("ada/patch")) == commits
    assert hub.files("ada/patch")[PATCH_FILE] == encode(patch)
    assert NeuronPatch.from_pretrained("ada/patch") == patch


PASSING = [
    {"status": 503, "times": 3},
    {"status": 500},
    {"status": 429, "headers": {"Retry-After": "7"}},
    {"lose_answer": True},
    {"cut_upload": 0.5},
    {"cut_answer": 0.5},
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: "-".join(fault))
@pytest.mark.parametrize(
    "path",
    ["/api/repos/create", "/preupload/", "/objects/batch", "/storage/", "/commit/", "/tree/"],
)
def test_failures_that_pass(path, fault, patch, hub, ada, waits):
    happened = hub.fail(path, **fault)
    patch.push_to_hub("ada/patch")
    assert happened.hits == fault.get("times", 1)
    check_pushed_once(hub, patch)
    if "headers" in fault:
        assert any(wait >= 7 for wait in waits)


def test_a_long_wait_is_announced(patch, hub, ada, waits, caplog):
    hub.fail("/commit/", status=429, headers={"Retry-After": "30"})
    patch.push_to_hub("ada/patch")
    assert 30 in waits
    assert "the Hub takes no requests for 30 seconds: waiting" in caplog.messages


def test_a_wait_that_is_too_long_is_told(patch, hub, ada):
    hub.fail("/commit/", status=429, headers={"Retry-After": "4000"})
    with pytest.raises(HubError, match="no more requests of this account for 4000 seconds"):
        patch.push_to_hub("ada/patch")
    assert len(hub.commits("ada/patch")) == 1
    patch.push_to_hub("ada/patch")
    check_pushed_once(hub, patch)


@pytest.mark.parametrize("path", ["/api/repos/create", "/storage/", "/commit/"])
def test_failures_that_stay(path, patch, hub, ada):
    hub.fail(path, status=503, times=1000)
    with pytest.raises(HubError, match="the Hub answers with 503") as caught:
        patch.push_to_hub("ada/patch")
    assert "push to ada/patch" in caught.value.message
    hub.recover()
    patch.push_to_hub("ada/patch")
    check_pushed_once(hub, patch)


def during(push, action):
    """Let something happen between the first look at the branch and the commit."""
    fill = push.fill

    def filling(commit, progress):
        warnings = fill(commit, progress)
        action()
        return warnings

    push.fill = filling


def test_somebody_else_changes_another_file(patch, hub, ada):
    hub.create("ada/patch")
    push = prepare_patch(patch, Destination("ada/patch"))
    during(push, lambda: hub.upload("ada/patch", {"notes.txt": b"theirs"}))
    assert push.run().made
    check_pushed_once(hub, patch, commits=3)
    assert hub.files("ada/patch")["notes.txt"] == b"theirs"


def test_somebody_else_changes_the_same_file(patch, hub, ada):
    hub.create("ada/patch")
    push = prepare_patch(patch, Destination("ada/patch"))
    during(push, lambda: hub.upload("ada/patch", {PATCH_FILE: b"theirs"}))
    with pytest.raises(HubError, match=f"somebody else changed {PATCH_FILE} meanwhile") as caught:
        push.run()
    assert "push again" in (caught.value.hint or "")
    assert hub.files("ada/patch") == {PATCH_FILE: b"theirs"}
    patch.push_to_hub("ada/patch")
    check_pushed_once(hub, patch, commits=3)


def test_somebody_else_never_stops(patch, hub, ada):
    hub.create("ada/patch")
    push = prepare_patch(patch, Destination("ada/patch"))
    hub.fail("/commit/", status=412, times=1000)
    real, count = push.api.create_commit, iter(range(1000))

    def create_commit(*args, **kwargs):
        hub.upload("ada/patch", {"notes.txt": str(next(count)).encode()})
        return real(*args, **kwargs)

    push.api.create_commit = create_commit
    with pytest.raises(HubError, match="is being changed by somebody else"):
        push.run()
    assert next(count) == 2


def test_the_same_push_twice_at_once(patch, hub, ada):
    hub.create("ada/patch")
    push = prepare_patch(patch, Destination("ada/patch"))
    during(push, lambda: patch.push_to_hub("ada/patch"))
    push.run()
    check_pushed_once(hub, patch)


def test_a_lost_answer_to_a_pull_request(patch, hub, ada):
    hub.create("ada/patch")
    hub.fail("/commit/", lose_answer=True)
    url = patch.push_to_hub("ada/patch", create_pr=True)
    assert url == f"{hub.url}/ada/patch/discussions/1"
    assert len(hub.commits("ada/patch")) == 1
    assert "refs/pr/2" not in hub.repo("ada/patch").refs


def test_a_file_that_the_repo_ignores(patch, hub, ada):
    hub.upload("ada/patch", {".gitignore": b"*.safetensors\n"})
    with pytest.raises(HubError, match=rf"{PATCH_FILE} is missing") as caught:
        patch.push_to_hub("ada/patch")
    assert ".gitignore" in (caught.value.hint or "")


def test_no_token(patch, hub, ada, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="push to ada/patch needs a Hugging Face account") as caught:
        patch.push_to_hub("ada/patch")
    assert "hf auth login" in (caught.value.hint or "")
    assert ("model", "ada/patch") not in hub.store.repos


def test_a_bad_token(patch, hub, ada):
    with pytest.raises(HubError, match="the access token is not valid") as caught:
        patch.push_to_hub("ada/patch", token=ada + "Old")
    assert "Invented" not in str(caught.value)


@pytest.mark.parametrize("there", [False, True])
def test_a_token_that_may_only_read(there, patch, hub, ada):
    if there:
        hub.create("ada/patch")
    reader = hub.add_user("ada", role="read")
    with pytest.raises(HubError, match="the access token does not allow it") as caught:
        patch.push_to_hub("ada/patch", token=reader)
    assert "Invented" not in str(caught.value)


def test_a_private_repo_of_somebody_else_looks_missing(patch, hub, ada):
    hub.create("bob/patch", private=True)
    with pytest.raises(HubError, match="does not allow it"):
        patch.push_to_hub("bob/patch")


def test_a_gated_repo(patch, hub, ada):
    hub.upload("bob/patch", {PATCH_FILE: encode(patch)})
    hub.repo("bob/patch").gated = "manual"
    with pytest.raises(HubError, match="is gated"):
        NeuronPatch.from_pretrained("bob/patch")


def test_a_full_account(patch, hub, monkeypatch, waits):
    hub.upload("example/tiny", {"README.md": CARD})
    token = hub.add_user("ada", storage_limit=100)
    with pytest.raises(HubError, match="storage on the Hub does not allow it") as caught:
        patch.push_to_hub("ada/patch", token=token)
    assert "free some" in (caught.value.hint or "")
    assert len(hub.commits("ada/patch")) == 1


def test_no_network(patch, use_endpoint, waits, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    use_endpoint(f"http://127.0.0.1:{port}")
    with pytest.raises(HubError, match=r"no connection to the Hub \(ConnectError\)"):
        patch.push_to_hub("ada/patch", license="mit")
    # Told at once: the first request of a run is not repeated.
    assert waits == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="offline mode is on"):
        patch.push_to_hub("ada/patch", license="mit")


def test_a_hub_without_xet(patch, hub, ada, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(HubError, match="Xet") as caught:
        patch.push_to_hub("ada/patch")
    assert "HF_HUB_DISABLE_XET=1" in (caught.value.hint or "")
    assert len(hub.commits("ada/patch")) == 1


def test_a_damaged_download(patch, hub, ada):
    patch.push_to_hub("ada/patch")
    entry = hub.repo("ada/patch").find("main").tree[PATCH_FILE]
    stored = hub.store.objects.path(entry.sha256)
    good = stored.read_bytes()
    stored.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(HubError, match=f"{PATCH_FILE} was damaged on the way"):
        NeuronPatch.from_pretrained("ada/patch")
    stored.write_bytes(good)
    assert NeuronPatch.from_pretrained("ada/patch") == patch


def test_a_full_disk(patch, hub, ada, monkeypatch):
    patch.push_to_hub("ada/patch")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(HubError, match="No space left on device") as caught:
        NeuronPatch.from_pretrained("ada/patch")
    assert "HF_HOME" in (caught.value.hint or "")
