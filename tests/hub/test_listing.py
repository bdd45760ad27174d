"""What a user has published."""

from __future__ import annotations

import pytest

from neuropatch.errors import HubError
from neuropatch.hub.listing import list_published

BASE = {"README.md": b"---\nlicense: mit\n---\n"}


def test_patches_of_a_user(hub, patch, monkeypatch):
    ada = hub.add_user("ada")
    hub.upload("example/tiny", BASE)
    hub.upload("ada/model", BASE)
    hub.upload("ada/variant", {"README.md": b"---\ntags: [neuropatch-model]\n---\n"})
    patch.push_to_hub("ada/one", token=ada)
    patch.push_to_hub("ada/two", token=ada, private=True)
    patch.push_to_hub("bob/one", token=hub.add_user("bob"))
    found = list_published("ada", token=ada)
    assert sorted(one.repo for one in found) == ["ada/one", "ada/two"]
    assert [one.private for one in sorted(found, key=lambda one: one.repo)] == [False, True]
    one = next(one for one in found if one.repo == "ada/one")
    assert (one.kind, one.base_model, one.license) == ("patch", "example/tiny", "mit")
    assert one.to_json()["repo"] == "ada/one"
    assert [one.repo for one in list_published("ada")] == ["ada/one"]
    with_models = {one.repo: one.kind for one in list_published("ada", models=True)}
    assert with_models == {"ada/one": "patch", "ada/variant": "model"}
    assert list_published("nobody") == []


@pytest.mark.parametrize("name", ["", "ada/one"])
def test_no_name_of_a_user(name, hub):
    with pytest.raises(HubError, match="not the name of a user"):
        list_published(name)
    assert hub.log.requests == []
