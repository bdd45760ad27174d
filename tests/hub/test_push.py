"""Publishing a patch, and reading it back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from neuropatch import NeuronPatch
from neuropatch.errors import HubError
from neuropatch.hub.branch import Destination
from neuropatch.hub.card import MARK
from neuropatch.hub.licence import Terms
from neuropatch.hub.push import prepare_patch
from neuropatch.patch.format import encode
from neuropatch.patch.metadata import BaseModel
from neuropatch.patch.patch import PATCH_FILE

CARD = b"---\nlicense: mit\n---\n# mine\n"


@pytest.fixture
def ada(hub, monkeypatch):
    token = hub.add_user("ada")
    monkeypatch.setenv("HF_TOKEN", token)
    hub.upload("example/tiny", {"README.md": CARD})
    return token


def paths(result):
    return {file.path: file.way for file in result.files}


def test_what_is_pushed_is_what_is_read_back(patch, hub, ada):
    url = patch.push_to_hub("ada/patch")
    head, first = hub.commits("ada/patch")
    assert url == f"{hub.url}/ada/patch/commit/{head.oid}"
    assert (head.parent, head.title) == (first.oid, f"Upload {PATCH_FILE}")
    assert hub.files("ada/patch")[PATCH_FILE] == encode(patch)
    assert NeuronPatch.from_pretrained("ada/patch") == patch
    assert NeuronPatch.from_pretrained("hf://ada/patch@main") == patch
    assert not hub.repo("ada/patch").private
    card = ModelCard.load("ada/patch")
    assert (card.data.base_model, card.data.license) == ("example/tiny", "mit")


def test_again_makes_no_second_commit(patch, hub, ada):
    first = patch.push_to_hub("ada/patch")
    hub.log.clear()
    assert patch.push_to_hub("ada/patch") == first
    assert len(hub.commits("ada/patch")) == 2
    assert not [*hub.log.find(method="PUT"), *hub.log.find(method="POST")]


def test_a_card_of_ours_follows_and_another_is_kept(patch, hub, ada, make_patch, make_layout):
    other = make_patch(make_layout("llama"), seed=1)
    other = replace(other, metadata=other.metadata.with_method("other"))
    patch.push_to_hub("ada/patch")
    other.push_to_hub("ada/patch")
    assert b"`other`" in hub.files("ada/patch")["README.md"]
    hub.upload("ada/patch", {"README.md": b"# mine"})
    push = prepare_patch(patch, Destination("ada/patch"))
    assert paths(push.preview()) == {PATCH_FILE: "upload", "README.md": "keep"}
    assert "README.md of its own, which is kept" in push.run().notes[0]
    assert hub.files("ada/patch") == {PATCH_FILE: encode(patch), "README.md": b"# mine"}


def test_a_branch(patch, hub, ada, make_patch, make_layout):
    other = make_patch(make_layout("llama"), seed=1)
    patch.push_to_hub("ada/patch")
    hub.upload("ada/patch", {}, revision="dev")
    other.push_to_hub("ada/patch", revision="dev", commit_message="another")
    assert NeuronPatch.from_pretrained("ada/patch") == patch
    assert NeuronPatch.from_pretrained("ada/patch@dev") == other
    assert hub.commits("ada/patch", "dev")[0].title == "another"


def test_a_branch_that_is_not_there(patch, hub, ada):
    with pytest.raises(HubError, match="there is no such repo for the branch dev"):
        patch.push_to_hub("ada/patch", revision="dev")
    assert ("model", "ada/patch") not in hub.store.repos
    hub.create("ada/patch")
    with pytest.raises(HubError, match="has no such revision"):
        patch.push_to_hub("ada/patch", revision="dev")
    assert len(hub.commits("ada/patch")) == 1


def test_a_pull_request_is_opened_once(patch, hub, ada, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.add_user("bob"))
    with pytest.raises(HubError, match="no such repo for a pull request"):
        patch.push_to_hub("ada/patch", create_pr=True)
    hub.create("ada/patch")
    url = patch.push_to_hub("ada/patch", create_pr=True)
    assert url == f"{hub.url}/ada/patch/discussions/1"
    assert patch.push_to_hub("ada/patch", create_pr=True) == url
    assert len(hub.commits("ada/patch")) == 1
    assert [ref for ref in hub.repo("ada/patch").refs if "pr" in ref] == ["refs/pr/1"]
    assert NeuronPatch.from_pretrained("ada/patch", revision="refs/pr/1") == patch


def test_private(patch, hub, ada):
    patch.push_to_hub("ada/patch", private=True)
    assert hub.repo("ada/patch").private
    assert NeuronPatch.from_pretrained("ada/patch") == patch
    with pytest.raises(HubError, match="was not found"):
        NeuronPatch.from_pretrained("ada/patch@main", token=False)
    hub.create("ada/public")
    with pytest.raises(HubError, match="is there already and is public"):
        patch.push_to_hub("ada/public", private=True)
    assert len(hub.commits("ada/public")) == 1


def test_a_preview_sends_nothing(patch, hub, ada):
    hub.log.clear()
    result = prepare_patch(patch, Destination("ada/patch")).preview()
    assert paths(result) == {PATCH_FILE: "upload", "README.md": "upload"}
    assert result.uploaded == sum(file.size for file in result.files) > len(encode(patch))
    assert (result.dry_run, result.commit, result.url) == (True, None, None)
    assert all(record.method in ("GET", "HEAD") for record in hub.log.requests)
    assert ("model", "ada/patch") not in hub.store.repos


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("ada/nothing", "the licence of ada/nothing is not known"),
        ("ada/bare", "the licence of ada/bare is not known"),
        ("ada/nd", "forbids to share changed versions"),
        ("ada/gated", "ada/gated is gated"),
        ("folder", "the licence of folder is not known"),
    ],
)
def test_a_licence_that_needs_a_decision(base, message, patch, hub, ada):
    hub.upload("ada/nd", {"README.md": b"---\nlicense: cc-by-nd-4.0\n---\n"})
    hub.create("ada/bare")
    hub.create("ada/gated", gated=True)
    patch = replace(patch, metadata=replace(patch.metadata, base_model=BaseModel(base)))
    with pytest.raises(HubError, match=message):
        patch.push_to_hub("ada/patch")
    assert ("model", "ada/patch") not in hub.store.repos
    patch.push_to_hub("ada/patch", accept_license=True)
    assert NeuronPatch.from_pretrained("ada/patch") == patch


def test_a_licence_that_the_user_or_the_patch_names(patch, hub, ada):
    local = replace(patch, metadata=replace(patch.metadata, base_model=BaseModel("folder")))
    local.push_to_hub("ada/one", license="MIT")
    assert ModelCard.load("ada/one").data.license == "mit"
    recorded = replace(local, metadata=replace(local.metadata, license="apache-2.0"))
    push = prepare_patch(recorded, Destination("ada/two"), terms=Terms())
    assert push.notes == ["the card names no base model on the Hub: the base is folder"]
    push.run()
    card = ModelCard.load("ada/two")
    assert card.data.license == "apache-2.0"
    assert card.data.base_model is None
    assert MARK in card.text


@pytest.mark.parametrize("name", ["patch", "ada/a--b", "ada/patch@dev"])
def test_names_are_checked_first(name, patch, hub, ada):
    hub.log.clear()
    with pytest.raises(HubError, match=name):
        patch.push_to_hub(name)
    assert hub.log.requests == []
