"""Faults of the test Hub, as the real client meets them."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import httpx

WEIGHTS = bytes(range(256)) * 4000


@pytest.fixture
def ada(hub):
    hub.upload("ada/model", {"config.json": b"{}", "model.safetensors": WEIGHTS})
    return HfApi(token=hub.add_user("ada"))


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Seconds that the client would have waited."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


def push(api: HfApi, data: bytes = b"new" + WEIGHTS, path: str = "new.safetensors", **options):
    return api.create_commit(
        "ada/model", [CommitOperationAdd(path, data)], commit_message="x", **options
    )


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_status_for_the_next_requests(status, hub, ada, waits):
    fault = hub.fail("/preupload/", "POST", status=status, times=2, headers={"Retry-After": "7"})
    push(ada)
    assert waits == [8, 8]
    assert fault.hits == 2
    assert [r.status for r in hub.log.find("/preupload/")] == [status, status, 200]


def test_a_rate_limit(hub, ada, waits):
    headers = {"RateLimit": '"api";r=0;t=3', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    hub.fail("/api/models/ada/model$", status=429, headers=headers)
    with pytest.raises(hub_errors.HfHubHTTPError, match="Retry after 3 seconds"):
        ada.model_info("ada/model")


def test_not_every_request_is_retried(hub, ada, waits):
    for path in ("/commit/", "/whoami-v2", "/repos/create"):
        hub.fail(path, status=503)
    calls = (lambda: push(ada), ada.whoami, lambda: ada.create_repo("ada/x"))
    for call in calls:
        with pytest.raises(hub_errors.HfHubHTTPError, match="an injected fault") as caught:
            call()
        assert caught.value.response.status_code == 503
        call()
    assert len(hub.commits("ada/model")) == 3


def test_only_requests_that_match(hub, ada):
    hub.fail("/resolve/.*json", "HEAD", status=500, skip=1)
    url = hf_hub_url("ada/model", "config.json")
    assert get_hf_file_metadata(url).size == 2
    with pytest.raises(hub_errors.HfHubHTTPError):
        get_hf_file_metadata(url)
    assert get_hf_file_metadata(url).size == 2
    hub.fail("/resolve/", status=500, times=99)
    hub.recover()
    assert get_hf_file_metadata(url).size == 2


def test_conflict(hub, ada):
    hub.fail("/commit/", status=412)
    with pytest.raises(hub_errors.HfHubHTTPError) as caught:
        push(ada)
    assert caught.value.response.status_code == 412
    assert len(hub.commits("ada/model")) == 2


def test_an_upload_that_breaks_is_sent_again(hub, ada, waits):
    hub.fail("/storage/", "PUT", cut_upload=0.5)
    push(ada)
    first, second = hub.log.find("/storage/", "PUT")
    assert (first.received, first.status, first.broken) == (512_001, None, True)
    assert second.received == len(WEIGHTS) + 3
    assert hub.log.lfs_bytes == first.received + second.received
    assert hub.files("ada/model")["new.safetensors"] == b"new" + WEIGHTS
    assert not list(hub.store.objects.folder.glob("*.part"))


def test_uploads_that_never_arrive(hub, ada, waits):
    hub.fail("/storage/", "PUT", cut_upload=0.9, times=99)
    with pytest.raises(RuntimeError, match=r"uploading 'new\.safetensors'") as caught:
        push(ada)
    assert isinstance(caught.value.__cause__, httpx.TransportError)
    assert len(waits) == 5
    hub.log.settle()
    assert not hub.log.find("/commit/")
    assert not list(hub.store.objects.folder.glob("*.part"))


def test_a_download_that_breaks_is_resumed(hub, ada, waits, monkeypatch):
    # What was received of an unfinished piece is lost.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.fail("/storage/", "GET", cut_answer=0.5)
    path = hf_hub_download("ada/model", "model.safetensors")
    assert hub.log.downloads == {"ada/model/model.safetensors": len(WEIGHTS)}
    assert [r.status for r in hub.log.find("/storage/")] == [200, 206]
    with open(path, "rb") as file:  # noqa: PTH123
        assert file.read() == WEIGHTS


def test_downloads_that_never_arrive(hub, ada, waits):
    hub.fail("/storage/", "GET", cut_answer=0, times=99)
    with pytest.raises(httpx.TransportError):
        hf_hub_download("ada/model", "model.safetensors")
    assert hub.log.downloads == {"ada/model/model.safetensors": 0}
    hub.recover()
    assert snapshot_download("ada/model")


def test_a_file_that_is_spoilt(hub, ada):
    hub.spoil("ada/model", "model.safetensors")
    path = hf_hub_download("ada/model", "model.safetensors")
    with open(path, "rb") as file:  # noqa: PTH123
        # The client checks sizes only.
        assert file.read() == WEIGHTS[:-1] + b"\xfe"


def test_a_commit_whose_answer_is_lost(hub, ada):
    hub.fail("/commit/", lose_answer=True)
    with pytest.raises(httpx.RemoteProtocolError):
        push(ada)
    assert hub.files("ada/model")["new.safetensors"] == b"new" + WEIGHTS
    commits = hub.commits("ada/model")
    assert len(commits) == 3
    # What the Hub has is not committed again: the client sees that nothing would change.
    assert push(ada).oid == commits[0].oid
    assert hub.log.uploads == {hashlib.sha256(b"new" + WEIGHTS).hexdigest(): len(WEIGHTS) + 3}


def test_a_commit_that_does_not_arrive(hub, ada):
    hub.fail("/commit/", cut_upload=0)
    with pytest.raises(httpx.TransportError):
        push(ada)
    assert len(hub.commits("ada/model")) == 2


def test_the_hub_makes_empty_commits_if_asked(hub, ada):
    """As the real one does; that none are made is the client's doing."""
    operation = CommitOperationAdd("config.json", b"{}")
    operation._upload_mode, operation._should_ignore = "regular", False
    ada.create_commit("ada/model", [operation], commit_message="x")
    assert len(hub.commits("ada/model")) == 3


def test_delay(hub, ada, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.fail("/resolve/", "GET", delay=0.5)
    assert hf_hub_download("ada/model", "config.json")
    assert len(hub.log.find("/resolve/", "GET")) == 2


def test_a_client_that_is_killed(hub, tmp_path):
    token = hub.add_user("ada")
    hub.create("ada/model")
    code = """if True:
        from huggingface_hub import CommitOperationAdd, HfApi
        files = [CommitOperationAdd(f"{n}.bin", bytes([n]) * 1000) for n in range(2)]
        HfApi().create_commit("ada/model", files, commit_message="x", num_threads=1)
    """
    environment = hub.environment(tmp_path / "home", token)
    hub.fail("/storage/", "PUT", skip=1, delay=60)
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    hub.log.wait("/storage/", "PUT", done=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(hub.commits("ada/model")) == 1
    hub.recover()
    hub.log.clear()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert hub.log.lfs_bytes <= 1000
    assert hub.files("ada/model") == {f"{n}.bin": bytes([n]) * 1000 for n in range(2)}
    assert len(hub.commits("ada/model")) == 2


def test_a_client_that_insists_on_xet(hub, tmp_path):
    hub.create("ada/model")
    code = """if True:
        from huggingface_hub import CommitOperationAdd, HfApi
        files = [CommitOperationAdd("m.bin", bytes(1000))]
        try:
            HfApi().create_commit("ada/model", files, commit_message="x")
        except ConnectionError as error:
            print(type(error).__name__)
    """
    environment = hub.environment(tmp_path / "home", hub.add_user("ada"))
    del environment["HF_HUB_DISABLE_XET"]
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "ConnectionError\n"
    assert hub.log.find("/xet-write-token/")[0].status == 404
    assert hub.files("ada/model") == {}


def test_of_two_commits_on_one_parent_one_is_refused(hub, ada):
    parent = hub.commits("ada/model")[0].oid

    def attempt(number: int) -> int:
        try:
            push(ada, b"%d" % number, f"{number}.txt", parent_commit=parent)
        except hub_errors.HfHubHTTPError as error:
            return error.response.status_code
        return 200

    with ThreadPoolExecutor(8) as pool:
        outcomes = sorted(pool.map(attempt, range(8)))
    assert outcomes == [200] + [412] * 7
    assert len(hub.commits("ada/model")) == 3
