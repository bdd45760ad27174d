"""From names to files: local ones, and those of a Hub."""

from __future__ import annotations

import socket

import pytest

from neuropatch import NeuronPatch
from neuropatch.errors import HubError, ModelError, PatchFormatError
from neuropatch.hub.resolve import resolve_model, resolve_patch
from neuropatch.patch.format import encode
from neuropatch.patch.metadata import BaseModel

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

    def test_weights_and_tokenizer_only(self, fake_hub):
        sha = fake_hub.repo("ada/model").commit({**MODEL, **OTHERS})
        resolved = resolve_model("ada/model")
        assert resolved.base == BaseModel("ada/model", sha)
        assert {p.name: p.read_bytes() for p in resolved.folder.iterdir()} == MODEL
        assert sorted(fake_hub.downloads) == sorted(MODEL)

    def test_revision(self, fake_hub):
        repo = fake_hub.repo("ada/model")
        old = repo.commit(MODEL | {"model.safetensors": b"old"}, "v1")
        repo.commit(MODEL)
        for name in ("ada/model@v1", f"ada/model@{old}"):
            resolved = resolve_model(name)
            assert (resolved.folder / "model.safetensors").read_bytes() == b"old"
            assert resolved.base.revision == old

    def test_second_time_from_the_cache(self, fake_hub):
        fake_hub.repo("ada/model").commit(MODEL)
        first = resolve_model("ada/model")
        fake_hub.requests.clear()
        assert resolve_model("ada/model") == first
        assert fake_hub.downloads == []
        # The Hub is down: what is in the cache still serves.
        fake_hub.fault = 503
        assert resolve_model("ada/model") == first

    def test_pickle_only(self, fake_hub):
        fake_hub.repo("ada/model").commit({"config.json": b"{}", "pytorch_model.bin": b"pickle"})
        with pytest.raises(ModelError, match="has no safetensors weights") as caught:
            resolve_model("ada/model")
        assert "save_pretrained" in (caught.value.hint or "")
        assert fake_hub.downloads == ["config.json"]

    def test_token_is_sent_and_never_said(self, fake_hub, token):
        fake_hub.repo("ada/secret", private=True).commit(MODEL)
        assert resolve_model("ada/secret", token=token).base.name == "ada/secret"
        assert fake_hub.authorizations == {f"Bearer {token}"}
        fake_hub.authorizations.clear()
        with pytest.raises(HubError):
            resolve_model("ada/secret", token=False)
        assert fake_hub.authorizations == {""}

    @pytest.mark.parametrize(
        ("name", "message", "hint"),
        [
            ("ada/nothing", "was not found on the Hub", "hf auth login"),
            ("ada/gated", "is gated", "ask for access"),
            ("ada/private", "was not found on the Hub", "hf auth login"),
            ("ada/model@v9", "no such revision", "branch, tag or commit"),
        ],
    )
    def test_refused(self, name, message, hint, fake_hub):
        fake_hub.repo("ada/model").commit(MODEL)
        fake_hub.repo("ada/gated", gated=True).commit(MODEL)
        fake_hub.repo("ada/private", private=True).commit(MODEL)
        with pytest.raises(HubError, match=message) as caught:
            resolve_model(name)
        assert name.partition("@")[0] in caught.value.message
        assert "no local folder of this name" in caught.value.message
        assert hint in (caught.value.hint or "")

    @pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
    def test_no_token_in_what_a_refusal_says(self, status, fake_hub, token, monkeypatch):
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        fake_hub.fault = status
        with pytest.raises(HubError) as caught:
            resolve_model("ada/model", token=token)
        assert fake_hub.authorizations == {f"Bearer {token}"}
        assert "Invented" not in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_invalid_token(self, fake_hub, token):
        fake_hub.repo("ada/model").commit(MODEL)
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

    def test_by_name_revision_and_commit(self, patch, make_patch, make_layout, fake_hub):
        other = make_patch(make_layout("llama"), seed=1)
        repo = fake_hub.repo("ada/patch")
        sha = repo.commit({"neuron_patch.safetensors": encode(other)}, "v1")
        repo.commit({"neuron_patch.safetensors": encode(patch)})
        assert NeuronPatch.from_pretrained("ada/patch") == patch
        assert NeuronPatch.from_pretrained("ada/patch@v1") == other
        assert NeuronPatch.from_pretrained(f"ada/patch@{sha}") == other
        assert NeuronPatch.from_pretrained("ada/patch", revision="v1") == other
        with pytest.raises(HubError, match="two revisions"):
            NeuronPatch.from_pretrained("ada/patch@v1", revision="main")

    def test_cache_folder_and_no_network(self, patch, fake_hub, tmp_path):
        fake_hub.repo("ada/patch").commit({"neuron_patch.safetensors": encode(patch)})
        cache = tmp_path / "elsewhere"
        assert NeuronPatch.from_pretrained("ada/patch", cache_dir=cache) == patch
        fake_hub.requests.clear()
        again = NeuronPatch.from_pretrained("ada/patch", cache_dir=cache, local_files_only=True)
        assert again == patch
        assert fake_hub.requests == []
        with pytest.raises(HubError, match="cache"):
            NeuronPatch.from_pretrained("ada/patch", local_files_only=True)

    def test_repo_without_patch(self, fake_hub):
        fake_hub.repo("ada/model").commit(MODEL)
        with pytest.raises(HubError, match=r"ada/model/neuron_patch.safetensors has no such file"):
            NeuronPatch.from_pretrained("ada/model")

    def test_missing_repo(self, fake_hub):
        with pytest.raises(HubError, match=r"ada/nothing .*was not found"):
            NeuronPatch.from_pretrained("ada/nothing")
