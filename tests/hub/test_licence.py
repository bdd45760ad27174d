"""Whose word it takes to publish what is made from a model."""

from __future__ import annotations

import pytest

from neuropatch.errors import HubError
from neuropatch.hub.client import hub_client
from neuropatch.hub.licence import (
    Licence,
    check_licence_id,
    decide_licence,
    folder_licence,
    hub_licence,
)


def decide(base, stated=None, accepted=False):
    return decide_licence(base, base_name="ada/model", stated=stated, accepted=accepted)


@pytest.mark.parametrize(
    "base", [Licence("apache-2.0"), Licence("mit"), Licence("gemma"), Licence("cc-by-nc-4.0")]
)
def test_a_known_licence_is_carried_over(base):
    assert decide(base) == base


@pytest.mark.parametrize(
    ("base", "message", "hint"),
    [
        (None, "the licence of ada/model is not known", "--license apache-2.0"),
        (Licence(), "is not known", "--license apache-2.0"),
        (Licence("cc-by-nd-4.0"), r"\(cc-by-nd-4.0\) forbids", "--accept-license"),
        (Licence("cc-by-nc-nd-4.0"), "forbids to share changed versions", "--accept-license"),
        (Licence("mit", gated=True), "ada/model is gated", "--accept-license"),
        (Licence("other", "Ada Licence"), r"of its own \(Ada Licence\)", "--accept-license"),
        (Licence("other"), "has a licence of its own, which", "--accept-license"),
    ],
)
def test_the_user_has_to_decide(base, message, hint):
    with pytest.raises(HubError, match=message) as caught:
        decide(base)
    assert hint in (caught.value.hint or "")
    assert decide(base, accepted=True) == (base or Licence())


def test_a_licence_that_the_user_names():
    assert decide(None, "mit").id == "mit"
    assert decide(Licence("mit"), "mit").id == "mit"
    with pytest.raises(HubError, match=r"--license mit, but the licence of ada/model is gpl-3.0"):
        decide(Licence("gpl-3.0"), "mit")
    assert decide(Licence("gpl-3.0"), "mit", accepted=True).id == "mit"
    # A name does not lift what the base forbids.
    with pytest.raises(HubError, match="forbids"):
        decide(Licence("cc-by-nd-4.0"), "mit")
    with pytest.raises(HubError, match="gated"):
        decide(Licence(gated=True), "mit")


@pytest.mark.parametrize("name", ["", "my licence", "a\nb", "x" * 65, "-mit", "<b>"])
def test_no_id_of_a_licence(name):
    with pytest.raises(HubError, match="not the id of a licence"):
        check_licence_id(name)
    assert Licence.read({"license": name}).id is None


def test_fields_that_are_not_of_their_form_are_left_out():
    hostile = {
        "license": "other",
        "license_name": "x" * 200,
        "license_link": 'https://x.org/" onclick="y',
    }
    assert Licence.read(hostile) == Licence("other")
    assert Licence.read({"license": ["mit"]}) == Licence("mit")
    assert Licence.read({"license": ["mit", "gpl"]}) == Licence()
    assert Licence.read({"license": "unknown"}) == Licence()
    own = {"license": "other", "license_name": "ada", "license_link": "https://x.org/l"}
    assert Licence.read(own) == Licence("other", "ada", "https://x.org/l")


def test_of_a_folder(tmp_path):
    assert folder_licence(tmp_path) == Licence()
    card = tmp_path / "README.md"
    for text, licence in [
        ("---\nlicense: mit\n---\n# x\n", "mit"),
        ("# no metadata\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\n- a\n---\n", None),
    ]:
        card.write_text(text)
        assert folder_licence(tmp_path).id == licence


def test_of_the_hub(hub):
    token = hub.add_user("ada")
    hub.upload("ada/model", {"README.md": b"---\nlicense: mit\n---\n"})
    hub.create("ada/bare")
    hub.create("ada/gated", gated=True)
    api = hub_client(token)
    assert hub_licence(api, "ada/model") == Licence("mit")
    assert hub_licence(api, "ada/bare") == Licence()
    assert hub_licence(api, "ada/gated").gated
    assert hub_licence(api, "ada/nothing") is None
