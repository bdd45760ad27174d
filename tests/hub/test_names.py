"""Names of repos as users write them."""

from __future__ import annotations

import pytest

from neuropatch.errors import HubError
from neuropatch.hub.names import HubName, check_target, is_hub_id, parse_hub_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("ada/model", HubName("ada/model")),
        ("ada/model@v1", HubName("ada/model", "v1")),
        (f"ada/model@{COMMIT}", HubName("ada/model", COMMIT)),
        ("ada/model@refs/pr/3", HubName("ada/model", "refs/pr/3")),
        ("hf://ada/model", HubName("ada/model")),
        ("hf://models/ada/model@v1", HubName("ada/model", "v1")),
        ("hf://ada/model@refs/pr/3/a.json", HubName("ada/model", "refs/pr/3", "a.json")),
        ("hf://ada/model/neuropatch/undo-0001.safetensors",
         HubName("ada/model", None, "neuropatch/undo-0001.safetensors")),
        ("model", None),
        ("./ada/model", None),
        ("/ada/model", None),
        ("a/b/c", None),
        ("ada/model@", None),
        ("ada/mo del", None),
    ],
)  # fmt: skip
def test_parts(name, parsed):
    assert parse_hub_name(name) == parsed


@pytest.mark.parametrize("name", ["hf://", "hf://datasets/ada/rows", "hf://spaces/ada/app"])
def test_addresses_of_something_else(name):
    with pytest.raises(HubError, match=name):
        parse_hub_name(name)


@pytest.mark.parametrize("name", ["ada/model", "hf://ada/model", "Ada_1/m.2-x"])
def test_targets(name):
    assert check_target(name) == name.removeprefix("hf://")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model", "not the name of a Hub repo"),
        ("a/b/c", "not the name of a Hub repo"),
        ("ada/model@dev", "names its branch otherwise"),
        ("ada/.model", "not a valid Hub name"),
        ("ada/a--b", "not a valid Hub name"),
        ("ada/a..b", "not a valid Hub name"),
        ("ada/model.git", "not a valid Hub name"),
        ("ada/" + "x" * 97, "not a valid Hub name"),
        ("ada/mo del", "not a valid Hub name"),
    ],
)
def test_targets_that_the_hub_refuses(name, message):
    with pytest.raises(HubError, match=message) as caught:
        check_target(name)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "is_id"), [("ada/model", True), ("model", False), (None, False), ("a/b@c", False)]
)
def test_ids(name, is_id):
    assert is_hub_id(name) is is_id
