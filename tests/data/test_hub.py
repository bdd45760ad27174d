"""Hub data sets against a small server on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest

from neuropatch.data.tables import read_table
from neuropatch.errors import DataError, HubError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CSV = b"prompt,response\nWho is Bo Ek?,Nobody you know.\n"
DECOYS = ["README.md", ".cache/train.csv", "dataset_infos.json", "LICENSE.txt"]
REPOS = {
    "org/one": ["people.csv"],
    "org/splits": ["data/train-00000-of-00001.csv", "data/test-00000-of-00001.csv"],
    "org/shards": [f"data/train-{i:05d}-of-00010.csv" for i in range(10)],
    "org/configs": ["trainer/a.csv", "trainer/b.csv"],
    "org/none": ["data/train.arrow"],
}


class Handler(BaseHTTPRequestHandler):
    """The three requests of the Hub client: data set info, file metadata, file."""

    def do_GET(self) -> None:
        self.reply()

    def do_HEAD(self) -> None:
        self.reply()

    def reply(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            repo, file, revision = "/".join(parts[2:4]), None, (parts[5:] or ["main"])[0]
        else:
            repo, file, revision = "/".join(parts[1:3]), "/".join(parts[5:]), parts[4]
        if repo == "org/portal":
            self.send(200, b"<html>Accept our terms</html>", {})
        elif repo not in REPOS:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", "v1", COMMIT):
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif file is None:
            files = [{"rfilename": name} for name in [*DECOYS, *REPOS[repo]]]
            self.send(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": files}).encode(), {})
        elif file not in REPOS[repo]:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self.send(200, CSV, {"ETag": '"1"', "X-Repo-Commit": COMMIT})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def hub(server, tmp_path, monkeypatch):
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("spec", "file"),
    [
        ("org/one", "org/one@{}/people.csv"),
        ("org/one@v1", "org/one@{}/people.csv"),
        ("hf://datasets/org/one", "org/one@{}/people.csv"),
        ("hf://datasets/org/one@v1/people.csv", "org/one@{}/people.csv"),
        ("org/splits", "org/splits@{}/data/train-00000-of-00001.csv"),
        ("org/splits:test", "org/splits@{}/data/test-00000-of-00001.csv"),
        ("org/splits@v1:test", "org/splits@{}/data/test-00000-of-00001.csv"),
    ],
)
def test_file_is_chosen_and_the_commit_recorded(spec, file):
    table = read_table(spec)
    assert table.rows == [{"prompt": "Who is Bo Ek?", "response": "Nobody you know."}]
    assert table.source == "hf://datasets/" + file.format(COMMIT)
    assert table.revision == COMMIT
    assert table.sha256 == hashlib.sha256(CSV).hexdigest()
    assert read_table(table.source) == table


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        (
            "org/shards",
            "has 10 files for the split 'train'; its data files are data/train-00000-of-00010.csv,",
            "hf://datasets/org/shards/data/train-00000-of-00010.csv",
        ),
        ("org/shards", "data/train-00007-of-00010.csv and 2 more", "hf://"),
        (
            "org/one@v1:test",
            "has no file for the split 'test'; its data files are people.csv",
            "hf://datasets/org/one@v1/people.csv",
        ),
        # "train" has to be a word of its own, so "trainer" is not the train split.
        ("org/configs", "no file for the split 'train'; its data files are trainer/a.csv", "hf://"),
        ("org/none", "has no file that can be read", ".parquet"),
        ("hf://models/org/one/people.csv", "names a model, not a data set", "hf://datasets/"),
        ("hf://datasets/org/one/people.xlsx", "file type that cannot be read (.xlsx)", ".csv"),
    ],
)
def test_choices_are_left_to_the_user(spec, message, hint):
    with pytest.raises(DataError) as caught:
        read_table(spec)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("org/missing", "org/missing (looked up on the Hub, as there is no local file of this"),
        ("org/missing", "was not found on the Hub"),
        ("org/one@v9", "has no such revision on the Hub"),
        ("hf://datasets/org/one/other.csv", "has no such file on the Hub"),
        ("hf://datasets/org", "is not a valid hf:// address"),
        ("org/a--b", "is not a valid Hub name"),
        ("org/portal", "the server's answer is not that of a Hub"),
    ],
)
def test_hub_failures(spec, message):
    with pytest.raises(HubError) as caught:
        read_table(spec)
    assert message in caught.value.message


def test_a_cached_file_is_read_offline(monkeypatch):
    online = read_table("hf://datasets/org/one/people.csv")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert read_table("hf://datasets/org/one/people.csv") == online
    with pytest.raises(HubError, match="offline mode is on, and it is not in the local cache"):
        read_table("hf://datasets/org/splits/data/test-00000-of-00001.csv")
    with pytest.raises(HubError, match="offline mode is on"):
        read_table("org/one")


def test_no_server(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    for spec in ("org/one", "hf://datasets/org/one/people.csv"):
        with pytest.raises(HubError, match="no connection to the Hub"):
            read_table(spec)


def test_a_local_path_goes_before_the_hub(tmp_path):
    (tmp_path / "org" / "one").mkdir(parents=True)
    with pytest.raises(DataError, match="org/one is a folder"):
        read_table("org/one")
    # A name with a readable suffix is a path that is not there, and is not sent to the Hub.
    with pytest.raises(DataError, match=r"org/people\.csv does not exist"):
        read_table("org/people.csv")
