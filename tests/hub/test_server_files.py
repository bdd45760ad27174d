"""Files to and from the test Hub, by the real clients."""

from __future__ import annotations

import hashlib

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    constants,
    get_safetensors_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import get_session

WEIGHTS = bytes(range(256)) * 40
CARD = b"---\nlicense: mit\nlibrary_name: neuropatch\nbase_model: bo/base\ntags: [pii]\n---\nHi\n"
FILES = {"model.safetensors": WEIGHTS, "config.json": b"{}", "a/b.txt": b"xy", "README.md": CARD}


@pytest.fixture
def ada(hub):
    """The client of the user ada, who may write."""
    return HfApi(token=hub.add_user("ada"))


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


class TestDownload:
    def test_small_and_large(self, hub, guest):
        sha = hub.upload("ada/model", FILES)
        small = guest.get_hf_file_metadata(url=hf_hub_url("ada/model", "config.json"))
        assert (small.commit_hash, small.size, len(small.etag)) == (sha, 2, 40)
        large = guest.get_hf_file_metadata(url=hf_hub_url("ada/model", "model.safetensors"))
        assert (large.commit_hash, large.size) == (sha, len(WEIGHTS))
        assert large.etag == hashlib.sha256(WEIGHTS).hexdigest()
        assert large.location.startswith(hub.app.storage_url)

    def test_ranges(self, hub):
        hub.upload("ada/model", FILES)
        for name, data in FILES.items():
            url = hf_hub_url("ada/model", name)
            part = get_session().get(url, headers={"Range": "bytes=1-1"})
            assert (part.status_code, part.content) == (206, data[1:2])
            assert part.headers["Content-Range"] == f"bytes 1-1/{len(data)}"
            part = get_session().get(url, headers={"Range": f"bytes={len(data)}-"})
            assert part.status_code == 416

    def test_storage_gets_no_token_and_needs_a_signature(self, hub, ada):
        hub.create("ada/secret", private=True)
        hub.upload("ada/secret", FILES)
        ada.hf_hub_download("ada/secret", "model.safetensors")
        (request,) = hub.log.find("/storage/")
        assert request.authorization == ""
        forged = f"{hub.app.storage_url}{request.path}?file=x&signature=0"
        assert get_session().get(forged).status_code == 403
        url = hf_hub_url("ada/secret", "model.safetensors")
        headers = {"Authorization": f"Bearer {ada.token}"}
        assert get_session().get(url, headers=headers).content == WEIGHTS

    def test_snapshot_and_offline(self, hub, monkeypatch):
        hub.upload("ada/model", FILES)
        folder = snapshot_download("ada/model", allow_patterns=["*.json", "*.safetensors"])
        assert hub.log.downloads == {
            "ada/model/config.json": 2,
            "ada/model/model.safetensors": 10240,
        }
        hub.log.clear()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert snapshot_download("ada/model", allow_patterns="*.json") == folder
        assert hf_hub_download("ada/model", "config.json").startswith(folder)
        with pytest.raises(hub_errors.LocalEntryNotFoundError):
            hf_hub_download("ada/model", "README.md")
        assert hub.log.requests == []

    def test_card(self, hub, ada):
        hub.upload("ada/model", FILES)
        card = ModelCard.load("ada/model")
        assert card.data.library_name == "neuropatch"
        card.data.license = "apache-2.0"
        card.push_to_hub("ada/model", token=ada.token)
        assert ada.model_info("ada/model").card_data.license == "apache-2.0"


class TestUpload:
    def test_small_and_large(self, hub, ada):
        hub.create("ada/model")
        big = b"x" * 10_000_001
        files = {**FILES, "tokenizer.json": big, "empty.safetensors": b"", "raw": b"\0"}
        made = ada.create_commit(
            "ada/model",
            [add(path, data) for path, data in files.items()],
            commit_message="all",
            commit_description="of them",
        )
        assert made.commit_url == f"{hub.url}/ada/model/commit/{made.oid}"
        assert hub.files("ada/model") == files
        newest = hub.commits("ada/model")[0]
        assert (newest.oid, newest.title, newest.message) == (made.oid, "all", "of them")
        assert newest.author == "ada"
        large = {path for path, entry in newest.tree.items() if entry.lfs}
        assert large == {"model.safetensors", "tokenizer.json", "raw"}
        assert hub.log.lfs_bytes == len(WEIGHTS) + len(big) + 1
        assert hub.log.regular_bytes == sum(len(files[p]) for p in files if p not in large)
        assert hub.log.uploads[hashlib.sha256(big).hexdigest()] == len(big)

    def test_what_the_hub_has_is_not_sent_again(self, hub, ada):
        sha = hub.upload("ada/model", FILES)
        again = ada.create_commit(
            "ada/model", [add(p, data) for p, data in FILES.items()], commit_message="again"
        )
        # The client makes no empty commit.
        assert again.oid == sha
        assert hub.log.lfs_bytes == hub.log.regular_bytes == 0
        ada.create_commit("ada/model", [add("copy.bin", WEIGHTS)], commit_message="same content")
        assert hub.log.lfs_bytes == 0
        assert hub.files("ada/model")["copy.bin"] == WEIGHTS

    def test_parts(self, hub, ada):
        hub.create("ada/model")
        hub.app.part_size = 3000
        ada.create_commit("ada/model", [add("m.bin", WEIGHTS)], commit_message="x")
        assert len(hub.log.find("/storage/", "PUT")) == 4
        assert hub.log.lfs_bytes == len(WEIGHTS)
        assert hub.files("ada/model") == {"m.bin": WEIGHTS}

    def test_delete(self, hub, ada):
        hub.upload("ada/model", FILES)
        gone = [CommitOperationDelete("config.json"), CommitOperationDelete("a/")]
        ada.create_commit("ada/model", gone, commit_message="x")
        assert set(hub.files("ada/model")) == {"model.safetensors", "README.md"}
        with pytest.raises(
            hub_errors.RemoteEntryNotFoundError, match="with this name doesn't exist"
        ):
            ada.delete_file("config.json", "ada/model")

    def test_ignored(self, hub, ada):
        hub.upload("ada/model", {".gitignore": b"*.bin\n# *.txt\nlogs/\n"})
        names = ("m.bin", "n.txt", "logs/1.txt")
        operations = [add(path, WEIGHTS) for path in names]
        ada.create_commit("ada/model", operations, commit_message="x")
        assert set(hub.files("ada/model")) == {".gitignore", "n.txt"}
        assert hub.log.lfs_bytes == len(WEIGHTS)

    def test_parent_commit(self, hub, ada):
        old = hub.upload("ada/model", FILES)
        new = hub.upload("ada/model", {"x": b"theirs"})
        options = {"repo_id": "ada/model", "commit_message": "x", "parent_commit": old}
        call = ada.create_commit
        status, said = refused(
            hub_errors.HfHubHTTPError, call, operations=[add("x", b"mine")], **options
        )
        assert (status, "since" in said) == (412, True)
        assert hub.commits("ada/model")[0].oid == new
        made = call(operations=[add("x", b"mine")], **options | {"parent_commit": new})
        assert hub.commits("ada/model")[1].oid == new
        assert hub.commits("ada/model")[0].oid == made.oid

    def test_copies(self, hub, ada):
        base = hub.upload("bo/base", FILES)
        hub.upload("bo/base", {"model.safetensors": b"newer", "config.json": None})
        hub.create("ada/variant")
        source = {"src_repo_id": "bo/base", "src_repo_type": "model", "src_revision": base}
        copies = [CommitOperationCopy(path, path, **source) for path in FILES]
        ada.create_commit("ada/variant", copies, commit_message="x")
        assert hub.files("ada/variant") == FILES
        assert hub.log.lfs_bytes == 0
        inside = CommitOperationCopy("model.safetensors", "again.safetensors")
        ada.create_commit("ada/variant", [inside], commit_message="x")
        assert hub.files("ada/variant")["again.safetensors"] == WEIGHTS

    def test_no_copies(self, hub, ada):
        hub.upload("bo/base", FILES)
        hub.create("ada/variant")
        name = "model.safetensors"
        copy = CommitOperationCopy(name, name, src_repo_id="bo/base", src_repo_type="model")
        hub.app.copies = False
        with pytest.raises(hub_errors.FileDuplicationError):
            ada.create_commit("ada/variant", [copy], commit_message="x")
        hub.app.xet_hashes = False
        with pytest.raises(ValueError, match="no xet hash"):
            ada.create_commit("ada/variant", [copy], commit_message="x")
        assert hub.files("ada/variant") == {}

    def test_copy_from_gated(self, hub, ada):
        hub.create("bo/base", gated="manual")
        hub.upload("bo/base", FILES)
        hub.create("ada/variant")
        name = "model.safetensors"
        copy = CommitOperationCopy(name, name, src_repo_id="bo/base", src_repo_type="model")
        with pytest.raises(hub_errors.GatedRepoError):
            ada.create_commit("ada/variant", [copy], commit_message="x")

    def test_storage_limit(self, hub):
        ada = HfApi(token=hub.add_user("ada", storage_limit=len(WEIGHTS) + 1000))
        hub.create("ada/model")
        ada.create_commit("ada/model", [add("m.bin", WEIGHTS)], commit_message="x")
        for path in ("m2.bin", "m.txt"):
            operations = [add(path, WEIGHTS[1:].replace(b"\0", b"x"))]
            status, said = refused(
                hub_errors.HfHubHTTPError,
                ada.create_commit,
                "ada/model",
                operations,
                commit_message="x",
            )
            assert (status, "Storage limit" in said) == (403, True)
        assert list(hub.files("ada/model")) == ["m.bin"]

    @pytest.mark.parametrize(
        ("card", "message"),
        [
            (b"---\ntags: [a\n---\n", "not valid"),
            (b"---\nbase_model: /home/ada/model\n---\n", "base_model"),
            (b"---\nbase_model_relation: edited\n---\n", "base_model_relation"),
            (b"---\nlicense: 5\n---\n", "license"),
        ],
    )
    def test_invalid_card(self, card, message, hub, ada):
        hub.create("ada/model")
        with pytest.raises(ValueError, match=message):
            ada.create_commit("ada/model", [add("README.md", card)], commit_message="x")

    def test_a_content_that_is_not_what_was_announced(self, hub, ada):
        hub.create("ada/model")
        operation = add("m.bin", WEIGHTS)
        operation.path_or_fileobj = b"\1" + WEIGHTS[1:]
        with pytest.raises(RuntimeError, match=r"uploading 'm\.bin'"):
            ada.create_commit("ada/model", [operation], commit_message="x")
        assert hub.files("ada/model") == {}

    def test_branch_that_is_not_there(self, hub, ada):
        hub.create("ada/model")
        with pytest.raises(hub_errors.RevisionNotFoundError):
            ada.create_commit("ada/model", [add("x", b"x")], commit_message="x", revision="dev")

    def test_folder(self, hub, ada, tmp_path):
        for path, data in FILES.items():
            (tmp_path / "f" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "f" / path).write_bytes(data)
        hub.create("ada/model")
        ada.upload_folder(repo_id="ada/model", folder_path=tmp_path / "f")
        assert hub.files("ada/model") == FILES


class TestTransformers:
    def test_a_model_goes_up_and_comes_down(self, hub, ada, make_model, monkeypatch):
        import torch
        from transformers import AutoModelForCausalLM

        model = make_model("llama")
        model.push_to_hub("ada/tiny", token=ada.token, max_shard_size="4KB")
        assert "model.safetensors.index.json" in hub.files("ada/tiny")
        hub.log.clear()
        again = AutoModelForCausalLM.from_pretrained("ada/tiny")
        assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))
        assert {r.status for r in hub.log.find("/storage/")} == {200}
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub.log.clear()
        AutoModelForCausalLM.from_pretrained("ada/tiny")
        assert hub.log.requests == []

    def test_headers_alone(self, hub, ada, make_model):
        model = make_model("llama")
        model.push_to_hub("ada/tiny", token=ada.token)
        hub.log.clear()
        header = get_safetensors_metadata("ada/tiny")
        assert set(header.weight_map) <= set(model.state_dict())
