"""From names to files: local ones, and those of a Hub."""

from __future__ import annotations

import socket

import pytest
from huggingface_hub import constants

from neuropatch import NeuronPatch
from neuropatch.errors import HubError, ModelError, PatchFormatError
from neuropatch.hub.client import hub_client
from neuropatch.hub.ranges import read_start
from neuropatch.hub.resolve import resolve_model, resolve_patch
from neuropatch.patch.format import encode
from neuropatch.patch.metadata import BaseModel
from neuropatch.patch.patch import PATCH_FILE

MODEL = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b'{"version": "1.0"}',
    "merges.txt": b"a b",
    "chat_template.jinja": b"x",
}
OTHERS = {
    "pytorch_model.bin": b"pickle",
    "pytorch_model.bin.index.json": b"{}",
    "consolidated.safetensors": b"again",
    "original/consolidated.00.pth": b"pickle",
    "onnx/config.json": b"{}",
    "model.gguf": b"gguf",
    "training_args.bin": b"pickle",
    "README.md": b"card",
    "modeling_evil.py": b"code",
}


class TestModel:
    def test_local_folder(self, tmp_path):
        resolved = resolve_model(str(tmp_path))
        assert (resolved.folder, resolved.base) == (tmp_path, BaseModel(tmp_path.name))

    def test_home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "model").mkdir()
        assert resolve_model("~/model").folder == tmp_path / "model"

    @pytest.mark.parametrize("name", ["no/such/folder", "~nobody/model", "model", "a/b/", "/a/b"])
    def test_nothing_of_that_name(self, name):
        with pytest.raises(ModelError, match="there is no folder") as caught:
            resolve_model(name)
        assert "user/name" in (caught.value.hint or "")

    def test_weights_and_tokenizer_only(self, hub):
        sha = hub.upload("ada/model", {**MODEL, **OTHERS})
        resolved = resolve_model("ada/model")
        assert resolved.base == BaseModel("ada/model", sha)
        assert {p.name: p.read_bytes() for p in resolved.folder.iterdir()} == MODEL
        assert set(hub.log.downloads) == {f"ada/model/{path}" for path in MODEL}

    def test_revision(self, hub):
        old = hub.upload("ada/model", MODEL | {"model.safetensors": b"old"}, revision="v1")
        hub.upload("ada/model", MODEL)
        for name in ("ada/model@v1", f"ada/model@{old}"):
            resolved = resolve_model(name)
            assert (resolved.folder / "model.safetensors").read_bytes() == b"old"
            assert resolved.base.revision == old

    def test_second_time_from_the_cache(self, hub):
        hub.upload("ada/model", MODEL)
        first = resolve_model("ada/model")
        hub.log.clear()
        assert resolve_model("ada/model") == first
        assert hub.log.downloads == {}
        # The Hub is down: what is in the cache still serves.
        hub.fail(status=503, times=99)
        assert resolve_model("ada/model") == first

    def test_pickle_only(self, hub):
        hub.upload("ada/model", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
        with pytest.raises(ModelError, match="has no safetensors weights") as caught:
            resolve_model("ada/model")
        assert "save_pretrained" in (caught.value.hint or "")
        assert set(hub.log.downloads) == {"ada/model/config.json"}

    def test_token_is_sent_to_the_hub_alone(self, hub, token):
        hub.add_user("ada", token)
        hub.create("ada/secret", private=True)
        hub.upload("ada/secret", MODEL)
        assert resolve_model("ada/secret", token=token).base.name == "ada/secret"
        storage = hub.log.find("/storage/")
        assert {r.authorization for r in storage} == {""}
        others = [r for r in hub.log.requests if r not in storage]
        assert {r.authorization for r in others} == {f"Bearer {token}"}
        hub.log.clear()
        with pytest.raises(HubError):
            resolve_model("ada/secret", token=False)
        assert {r.authorization for r in hub.log.requests} == {""}

    @pytest.mark.parametrize(
        ("name", "message", "hint"),
        [
            ("ada/nothing", "was not found on the Hub", "hf auth login"),
            ("ada/gated", "is gated", "ask for access"),
            ("ada/private", "was not found on the Hub", "hf auth login"),
            ("ada/model@v9", "no such revision", "branch, tag or commit"),
        ],
    )
    def test_refused(self, name, message, hint, hub):
        hub.create("ada/gated", gated=True)
        hub.create("ada/private", private=True)
        for repo in ("ada/model", "ada/gated", "ada/private"):
            hub.upload(repo, MODEL)
        with pytest.raises(HubError, match=message) as caught:
            resolve_model(name)
        assert name.partition("@")[0] in caught.value.message
        assert "no local folder of this name" in caught.value.message
        assert hint in (caught.value.hint or "")

    @pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
    def test_no_token_in_what_a_refusal_says(self, status, hub, token, monkeypatch):
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        hub.fail(status=status, times=99, message=f"no: Bearer {token}")
        with pytest.raises(HubError) as caught:
            resolve_model("ada/model", token=token)
        assert {r.authorization for r in hub.log.requests} == {f"Bearer {token}"}
        assert "Invented" not in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_invalid_token(self, hub, token):
        hub.upload("ada/model", MODEL)
        with pytest.raises(HubError, match="token is not valid") as caught:
            resolve_model("ada/model", token=token + "Old")
        assert "Invented" not in str(caught.value)

    def test_no_network(self, use_endpoint):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        use_endpoint(f"http://127.0.0.1:{port}")
        with pytest.raises(HubError, match="no connection to the Hub") as caught:
            resolve_model("ada/model")
        assert "local copy" in (caught.value.hint or "")


class TestPatch:
    def test_file_and_folder(self, patch, tmp_path):
        path = patch.save_pretrained(tmp_path)
        assert resolve_patch(str(path)) == path
        assert resolve_patch(str(tmp_path)) == path

    def test_folder_without_patch(self, tmp_path):
        with pytest.raises(PatchFormatError, match=r"holds no neuron_patch\.safetensors"):
            resolve_patch(str(tmp_path))

    @pytest.mark.parametrize("name", ["no.safetensors", "a/no.safetensors", "a/b/c"])
    def test_nothing_of_that_name(self, name):
        with pytest.raises(PatchFormatError, match="there is no patch"):
            resolve_patch(name)

    def test_by_name_revision_and_commit(self, patch, make_patch, make_layout, hub):
        other = make_patch(make_layout("llama"), seed=1)
        sha = hub.upload("ada/patch", {PATCH_FILE: encode(other)}, revision="v1")
        hub.upload("ada/patch", {PATCH_FILE: encode(patch)})
        assert NeuronPatch.from_pretrained("ada/patch") == patch
        assert NeuronPatch.from_pretrained("ada/patch@v1") == other
        assert NeuronPatch.from_pretrained(f"ada/patch@{sha}") == other
        assert NeuronPatch.from_pretrained("ada/patch", revision="v1") == other
        with pytest.raises(HubError, match="two revisions"):
            NeuronPatch.from_pretrained("ada/patch@v1", revision="main")

    def test_cache_folder_and_no_network(self, patch, hub, tmp_path):
        hub.upload("ada/patch", {PATCH_FILE: encode(patch)})
        cache = tmp_path / "elsewhere"
        assert NeuronPatch.from_pretrained("ada/patch", cache_dir=cache) == patch
        hub.log.clear()
        again = NeuronPatch.from_pretrained("ada/patch", cache_dir=cache, local_files_only=True)
        assert again == patch
        assert hub.log.requests == []
        with pytest.raises(HubError, match="cache"):
            NeuronPatch.from_pretrained("ada/patch", local_files_only=True)

    def test_repo_without_patch(self, hub):
        hub.upload("ada/model", MODEL)
        with pytest.raises(HubError, match=r"ada/model/neuron_patch.safetensors has no such file"):
            NeuronPatch.from_pretrained("ada/model")

    def test_missing_repo(self, hub):
        with pytest.raises(HubError, match=r"ada/nothing .*was not found"):
            NeuronPatch.from_pretrained("ada/nothing")


class TestDownloads:
    """Against the test Hub, which keeps large files as the Hub does."""

    def test_pinned_and_checked_once(self, hub, make_patch, make_layout):
        files = {**MODEL, "model.safetensors": b"\0" * 200}
        sha = hub.upload("ada/model", files)
        for name in ("ada/model", "hf://ada/model", "hf://models/ada/model@main"):
            resolved = resolve_model(name)
            assert resolved.base == BaseModel("ada/model", sha)
            assert {p.name: p.read_bytes() for p in resolved.folder.iterdir()} == files
        assert sum(hub.log.downloads.values()) == sum(map(len, files.values()))

    def test_a_damaged_file_is_refused_and_fetched_again(self, hub):
        hub.upload("ada/model", MODEL)
        entry = hub.repo("ada/model").find("main").tree["model.safetensors"]
        stored = hub.store.objects.path(entry.sha256)
        stored.write_bytes(b"weightz")
        with pytest.raises(HubError, match=r"model\.safetensors was damaged on the way"):
            resolve_model("ada/model")
        stored.write_bytes(MODEL["model.safetensors"])
        folder = resolve_model("ada/model").folder
        assert (folder / "model.safetensors").read_bytes() == b"weights"

    def test_what_is_cached_is_not_checked_again(self, hub):
        hub.upload("ada/model", MODEL)
        path = resolve_model("ada/model").folder / "model.safetensors"
        path.resolve().write_bytes(b"mine...")
        assert (resolve_model("ada/model").folder / path.name).read_bytes() == b"mine..."

    @pytest.mark.parametrize("fault", [{"cut_answer": 0.5}, {"lose_answer": True}, {"status": 503}])
    @pytest.mark.parametrize("path", ["/storage/", "/resolve/", "/tree/"])
    def test_failures_that_pass(self, path, fault, hub, monkeypatch):
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        hub.upload("ada/model", MODEL)
        happened = hub.fail(path, **fault)
        folder = resolve_model("ada/model").folder
        assert happened.hits == 1
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == MODEL

    def test_offline(self, hub, monkeypatch):
        sha = hub.upload("ada/model", MODEL)
        folder = resolve_model("ada/model").folder
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub.log.clear()
        for name in ("ada/model", "hf://ada/model", f"ada/model@{sha}"):
            assert resolve_model(name).folder == folder
        with pytest.raises(HubError, match="offline mode is on"):
            resolve_model("ada/other")
        assert hub.log.requests == []

    def test_gated(self, hub):
        hub.upload("ada/model", MODEL)
        hub.repo("ada/model").gated = "manual"
        bob = hub.add_user("bob")
        with pytest.raises(HubError, match="is gated"):
            resolve_model("ada/model", token=bob)
        hub.allow("ada/model", "bob")
        assert resolve_model("ada/model", token=bob).base.name == "ada/model"

    def test_a_patch_that_is_a_file_of_a_repo(self, hub, patch):
        sha = hub.upload("ada/model", {"neuropatch/undo-0001.safetensors": encode(patch)})
        for revision in ("", "@main", f"@{sha}"):
            name = f"hf://ada/model{revision}/neuropatch/undo-0001.safetensors"
            assert NeuronPatch.from_pretrained(name) == patch
        with pytest.raises(ModelError, match="names a file in a repo"):
            resolve_model("hf://ada/model/neuropatch/undo-0001.safetensors")
        with pytest.raises(HubError, match="names no model repo"):
            resolve_patch("hf://datasets/ada/rows")

    def test_starts_of_files(self, hub):
        header = b"x" * 150_000
        big = len(header).to_bytes(8, "little") + header + b"data" * 100
        hub.upload("ada/model", {"big.safetensors": big, "lie.safetensors": b"\xff" * 500})
        api = hub_client()
        start = read_start(api, "ada/model", "big.safetensors", "main", most=1_000_000)
        assert start == big[: 8 + len(header)]
        lie = read_start(api, "ada/model", "lie.safetensors", "main", most=1_000_000)
        assert lie == b"\xff" * 500
