"""Publishing a patch, and reading it back."""

from __future__ import annotations

import pytest

from neuropatch import NeuronPatch
from neuropatch.errors import HubError
from neuropatch.patch.format import encode


def test_what_is_pushed_is_what_is_read_back(patch, fake_hub, token):
    url = patch.push_to_hub("ada/patch", token=token)
    repo = fake_hub.repos["ada/patch"]
    sha = repo.refs["main"]
    assert url == f"{fake_hub.url}/ada/patch/commit/{sha}"
    assert repo.commits[sha]["neuron_patch.safetensors"] == encode(patch)
    assert NeuronPatch.from_pretrained("ada/patch") == patch
    assert not repo.private


def test_a_repo_that_is_there_and_a_branch(patch, fake_hub, token, make_patch, make_layout):
    other = make_patch(make_layout("llama"), seed=1)
    repo = fake_hub.repo("ada/patch")
    repo.commit({"README.md": b"mine"})
    repo.commit({"README.md": b"mine"}, "dev")
    patch.push_to_hub("ada/patch", token=token, commit_message="first")
    other.push_to_hub("ada/patch", token=token, revision="dev")
    assert NeuronPatch.from_pretrained("ada/patch") == patch
    assert NeuronPatch.from_pretrained("ada/patch@dev") == other
    assert repo.commits[repo.refs["main"]]["README.md"] == b"mine"


def test_private(patch, fake_hub, token):
    patch.push_to_hub("ada/patch", token=token, private=True)
    assert fake_hub.repos["ada/patch"].private
    assert NeuronPatch.from_pretrained("ada/patch", token=token) == patch
    with pytest.raises(HubError, match="was not found"):
        NeuronPatch.from_pretrained("ada/patch@main", token=False)


def test_without_a_token(patch, fake_hub):
    with pytest.raises(HubError, match="patch repo ada/patch") as caught:
        patch.push_to_hub("ada/patch")
    assert "hf auth login" in (caught.value.hint or "")
    assert fake_hub.repos == {}


@pytest.mark.parametrize("status", [401, 403, 500])
def test_no_token_in_what_a_refusal_says(status, patch, fake_hub, token, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    fake_hub.fault = status
    with pytest.raises(HubError) as caught:
        patch.push_to_hub("ada/patch", token=token)
    assert "Invented" not in str(caught.value)


def test_a_branch_that_is_not_there(patch, fake_hub, token):
    fake_hub.repo("ada/patch").commit({})
    with pytest.raises(HubError, match="no such revision"):
        patch.push_to_hub("ada/patch", token=token, revision="dev")
