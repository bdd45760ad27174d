"""Accounts, repos and rights of the test Hub, asked by the real client."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub import errors as hub_errors

WEIGHTS = bytes(range(256)) * 40
CARD = b"---\nlicense: mit\nlibrary_name: neuropatch\nbase_model: bo/base\ntags: [pii]\n---\nHi\n"
FILES = {
    "model.safetensors": WEIGHTS,
    "config.json": b"{}",
    "a/b/c.txt": b"deep",
    "README.md": CARD,
}


@pytest.fixture
def ada(hub):
    """The client of the user ada, who may write."""
    return HfApi(token=hub.add_user("ada"))


@pytest.fixture
def bo(hub):
    """The client of another user."""
    return HfApi(token=hub.add_user("bo"))


@pytest.fixture
def guest(hub):
    """A client without a token."""
    return HfApi(token=False)


def add(path: str, data: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, data)


def refused(kind: type[Exception], call, *args, **kwargs) -> tuple[int, str]:
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    return caught.value.response.status_code, caught.value.server_message or ""


class TestAccounts:
    def test_whoami(self, hub, ada):
        hub.add_user("cy", "hf_other", "read", orgs=("lab",))
        assert ada.whoami()["name"] == "ada"
        cy = ada.whoami(token="hf_other")
        assert (cy["name"], cy["auth"]["accessToken"]["role"]) == ("cy", "read")
        assert [org["name"] for org in cy["orgs"]] == ["lab"]

    def test_bad_token(self, hub, ada):
        hub.upload("ada/model", FILES)
        with pytest.raises(hub_errors.HfHubHTTPError, match="Invalid user token"):
            ada.whoami(token="hf_bad")
        with pytest.raises(hub_errors.HfHubHTTPError) as caught:
            ada.model_info("ada/model", token="hf_bad")
        assert caught.value.server_message == "Invalid credentials in Authorization header"
        assert not isinstance(caught.value, hub_errors.RepositoryNotFoundError)


class TestRepos:
    def test_create_and_delete(self, hub, ada):
        url = ada.create_repo("ada/model", private=True)
        assert (url, url.repo_id) == (f"{hub.url}/ada/model", "ada/model")
        assert ada.create_repo("ada/model", exist_ok=True) == url
        assert refused(hub_errors.HfHubHTTPError, ada.create_repo, "ada/model")[0] == 409
        assert ada.model_info("ada/model").private
        assert [c.title for c in ada.list_repo_commits("ada/model")] == ["initial commit"]
        ada.delete_repo("ada/model")
        assert not ada.repo_exists("ada/model")
        ada.delete_repo("ada/model", missing_ok=True)

    def test_own_name_is_the_default_namespace(self, ada):
        assert ada.create_repo("model").repo_id == "ada/model"

    def test_dataset(self, hub, ada):
        assert ada.create_repo("ada/data", repo_type="dataset").repo_type == "dataset"
        ada.upload_file(
            path_or_fileobj=b"PAR1" + WEIGHTS,
            path_in_repo="x.parquet",
            repo_id="ada/data",
            repo_type="dataset",
        )
        path = hf_hub_download("ada/data", "x.parquet", repo_type="dataset")
        assert open(path, "rb").read() == b"PAR1" + WEIGHTS  # noqa: PTH123, SIM115
        assert not ada.repo_exists("ada/data")

    @pytest.mark.parametrize("name", ["lab/model", "ada/x"])
    def test_who_may_create(self, name, hub, ada, guest):
        hub.add_user("ada", "hf_read", "read")
        hub.add_user("ada", "hf_lab", orgs=("lab",))
        call = ada.create_repo
        assert refused(hub_errors.HfHubHTTPError, call, name, token="hf_read")[0] == 403
        assert refused(hub_errors.HfHubHTTPError, guest.create_repo, name)[0] == 401
        assert call(name, token="hf_lab").repo_id == name

    @pytest.mark.parametrize("name", ["ada/.x", "ada/x.ipynb", "ada/-x"])
    def test_names(self, name, ada, monkeypatch):
        # The client refuses some names itself, and would ask the Hub about the rest.
        monkeypatch.setattr("huggingface_hub.utils._validators.validate_repo_id", lambda name: None)
        assert refused(hub_errors.BadRequestError, ada.create_repo, name)[0] == 400

    def test_info(self, hub, ada):
        sha = hub.upload("ada/model", FILES)
        info = ada.model_info("ada/model", files_metadata=True)
        assert (info.id, info.author, info.sha) == ("ada/model", "ada", sha)
        assert (info.private, info.gated) == (False, False)
        assert info.card_data.license == "mit"
        assert {"neuropatch", "pii", "license:mit", "base_model:bo/base"} <= set(info.tags)
        weights = {file.rfilename: file for file in info.siblings}["model.safetensors"]
        assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
        assert weights.size == len(WEIGHTS)
        assert info.last_modified >= info.created_at
        part = ada.model_info("ada/model", expand=["gated"])
        assert (part.id, part.gated, part.sha) == ("ada/model", False, None)

    def test_list(self, hub, ada, guest):
        for number in range(5):
            hub.upload(f"ada/patch-{number}", {"README.md": CARD})
        hub.create("ada/other")
        hub.create("ada/secret", private=True)
        time.sleep(0.002)  # the Hub tells times in milliseconds
        hub.create("bo/model")
        hub.app.page_size = 2
        patches = [f"ada/patch-{number}" for number in range(5)]
        assert [m.id for m in guest.list_models(author="ada")] == ["ada/other", *patches]
        assert [m.id for m in ada.list_models(author="ada")][-1] == "ada/secret"
        assert [m.id for m in guest.list_models(filter="neuropatch")] == patches
        assert [m.id for m in guest.list_models(search="BO/")] == ["bo/model"]
        assert [m.id for m in guest.list_models(author="ada", limit=3)][-1] == "ada/patch-1"
        assert next(iter(guest.list_models(filter="pii", cardData=True))).card_data.license == "mit"
        newest = next(iter(guest.list_models(sort="created_at", expand=["createdAt"])))
        assert newest.id == "bo/model"

    def test_branches_tags_and_revisions(self, hub, ada):
        first = hub.upload("ada/model", FILES)
        ada.create_tag("ada/model", tag="v1")
        ada.create_branch("ada/model", branch="feature/x")
        second = hub.upload("ada/model", {"config.json": b"{1}"}, revision="feature/x")
        refs = ada.list_repo_refs("ada/model", include_pull_requests=True)
        assert {b.name: b.target_commit for b in refs.branches} == {
            "main": first,
            "feature/x": second,
        }
        assert [(t.name, t.target_commit) for t in refs.tags] == [("v1", first)]
        for revision, sha in [("main", first), ("v1", first), ("feature/x", second)]:
            assert ada.model_info("ada/model", revision=revision).sha == sha
            assert ada.resolve_revision("ada/model", revision=revision).resolved == sha
        assert ada.model_info("ada/model", revision=second).sha == second
        assert ada.list_repo_files("ada/model", revision="feature/x")
        ada.delete_branch("ada/model", branch="feature/x")
        with pytest.raises(hub_errors.RevisionNotFoundError):
            ada.model_info("ada/model", revision="feature/x")
        call = ada.create_tag
        assert refused(hub_errors.HfHubHTTPError, call, "ada/model", tag="v1")[0] == 409


class TestTree:
    def test_pages_and_folders(self, hub, ada):
        hub.upload("ada/model", FILES | {f"shard-{n}.txt": b"x" for n in range(9)})
        hub.app.page_size = 4
        hub.log.clear()
        listed = {item.path: item for item in ada.list_repo_tree("ada/model", recursive=True)}
        assert len(hub.log.find("/tree/")) == 4
        assert set(listed) == {*hub.files("ada/model"), ".gitattributes", "a", "a/b"}
        assert listed["config.json"].blob_id == "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # git
        assert listed["model.safetensors"].lfs.size == len(WEIGHTS)
        flat = {item.path for item in ada.list_repo_tree("ada/model")}
        assert "a" in flat
        assert "a/b" not in flat
        assert [i.path for i in ada.list_repo_tree("ada/model", "a")] == ["a/b"]
        with pytest.raises(hub_errors.RemoteEntryNotFoundError):
            list(ada.list_repo_tree("ada/model", "nowhere"))

    def test_last_commits(self, hub, ada):
        first = hub.upload("ada/model", FILES, message="one")
        second = hub.upload("ada/model", {"config.json": b"{2}"}, message="two")
        tree = ada.list_repo_tree("ada/model", recursive=True, expand=True)
        last = {item.path: item.last_commit for item in tree}
        assert (last["a"].oid, last["README.md"].title) == (first, "one")
        assert (last["config.json"].oid, last["config.json"].title) == (second, "two")

    def test_paths_info(self, hub, ada):
        hub.upload("ada/model", FILES)
        found = ada.get_paths_info("ada/model", ["model.safetensors", "a/b", "nothing"])
        assert [item.path for item in found] == ["model.safetensors", "a/b"]
        assert found[0].xet_hash

    def test_commits(self, hub, ada):
        shas = [hub.upload("ada/model", {"x": b"%d" % n}, message=f"n{n}") for n in range(3)]
        hub.app.page_size = 2
        listed = ada.list_repo_commits("ada/model")
        assert [c.commit_id for c in listed] == [*shas[::-1], hub.commits("ada/model")[-1].oid]
        assert listed[0].title == "n2"


class TestAccess:
    def test_private(self, hub, ada, bo, guest):
        hub.create("ada/secret", private=True)
        hub.upload("ada/secret", FILES)
        assert ada.model_info("ada/secret").private
        for who, status in ((bo, 404), (guest, 401)):
            for name in ("ada/secret", "ada/nothing"):
                # What is private looks like what is not there.
                call = who.model_info
                assert refused(hub_errors.RepositoryNotFoundError, call, name)[0] == status
                with pytest.raises(hub_errors.RepositoryNotFoundError):
                    who.hf_hub_download(name, "config.json")
        assert ada.hf_hub_download("ada/secret", "config.json")

    def test_gated(self, hub, ada, bo, guest):
        hub.create("ada/gated", gated=True)
        hub.upload("ada/gated", FILES)
        assert guest.model_info("ada/gated").gated == "auto"
        assert "config.json" in guest.list_repo_files("ada/gated")
        for who, status in ((bo, 403), (guest, 401)):
            url = hf_hub_url("ada/gated", "config.json")
            call = who.get_hf_file_metadata
            assert refused(hub_errors.GatedRepoError, call, url=url)[0] == status
            with pytest.raises(hub_errors.GatedRepoError):
                who.hf_hub_download("ada/gated", "config.json")
        hub.allow("ada/gated", "bo")
        assert bo.hf_hub_download("ada/gated", "config.json")
        assert ada.hf_hub_download("ada/gated", "config.json")

    def test_settings(self, hub, ada, bo):
        hub.create("ada/model")
        ada.update_repo_settings("ada/model", private=True, gated="manual")
        assert (hub.repo("ada/model").private, hub.repo("ada/model").gated) == (True, "manual")
        with pytest.raises(hub_errors.RepositoryNotFoundError):
            bo.update_repo_settings("ada/model", private=False)

    def test_missing(self, hub, guest):
        sha = hub.upload("ada/model", FILES)
        with pytest.raises(hub_errors.RevisionNotFoundError):
            guest.hf_hub_download("ada/model", "config.json", revision="v9")
        with pytest.raises(hub_errors.RemoteEntryNotFoundError) as caught:
            guest.hf_hub_download("ada/model", "nothing.json")
        assert caught.value.response.headers["X-Repo-Commit"] == sha
        # The client remembers that there is no such file.
        assert try_to_load_from_cache("ada/model", "nothing.json") is not None

    def test_who_may_commit(self, hub, ada, bo, guest):
        hub.upload("ada/model", FILES)
        hub.add_user("ada", "hf_read", "read")
        options = {"commit_message": "x", "repo_id": "ada/model"}

        def commit(who, **more):
            return who.create_commit(operations=[add("x", b"x")], **options, **more)

        status, said = refused(hub_errors.HfHubHTTPError, commit, ada, token="hf_read")
        assert (status, "write token" in said) == (403, True)
        assert refused(hub_errors.HfHubHTTPError, commit, guest)[0] == 401
        status, said = refused(hub_errors.HfHubHTTPError, commit, bo)
        assert (status, "create_pr=1" in said) == (403, True)
        assert "x" not in hub.files("ada/model")
        made = commit(bo, create_pr=True)
        assert (made.pr_num, made.pr_url) == (1, f"{hub.url}/ada/model/discussions/1")
        assert "x" not in hub.files("ada/model")
        assert hub.files("ada/model", "refs/pr/1")["x"] == b"x"
        assert ada.list_repo_refs("ada/model", include_pull_requests=True).pull_requests


def test_other_processes(hub, tmp_path):
    hub.create("ada/secret", private=True)
    hub.upload("ada/secret", FILES)
    code = "import huggingface_hub as h; print(h.hf_hub_download('ada/secret', 'config.json'))"
    environment = hub.environment(tmp_path / "home", hub.add_user("ada"))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(tmp_path / "home"))


def test_by_hand(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    root = __file__.rsplit("/tests/", 1)[0]
    command = [sys.executable, "-m", "tests.hub.server", "--port", "0", "--serve"]
    with subprocess.Popen(
        [*command, f"ada/base={tmp_path / 'model'}"], cwd=root, stdout=subprocess.PIPE, text=True
    ) as process:
        exports = dict(item.split("=") for item in process.stdout.readline().split()[1:])
        api = HfApi(endpoint=exports["HF_ENDPOINT"], token=exports["HF_TOKEN"])
        assert api.whoami()["name"] == "ada"
        assert "config.json" in api.list_repo_files("ada/base")
        process.terminate()
