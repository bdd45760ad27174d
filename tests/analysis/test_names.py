"""Names of patches and of their groups."""

from __future__ import annotations

import pytest

from neuropatch.analysis.names import LONGEST, check_grouping, group_names, patch_names, shown
from neuropatch.errors import UsageError

EMAIL = {"name": "pii", "source": "people.jsonl", "categories": ["email"]}
BOTH = {"name": "pii", "source": "people.jsonl", "categories": ["phone", "email"]}
KEPT = {"name": "friends", "source": "friends.jsonl", "categories": ["address"]}
GENERAL = {"name": "general", "source": "alpaca.csv"}


def test_names_are_short_and_different():
    assert patch_names(["a/spin.safetensors", "b/neuron_patch.safetensors", "user/patch@v1"]) == [
        "spin",
        "b",
        "user/patch",
    ]
    assert patch_names(["/x/a/spin.safetensors", "/x/b/spin.safetensors"]) == ["a/spin", "b/spin"]
    deep = ["1/a/neuron_patch.safetensors", "2/a/neuron_patch.safetensors", "c.safetensors"]
    assert patch_names(deep) == ["1/a", "2/a", "c"]
    revisions = ["user/patch@v1", "user/patch@v2"]
    assert patch_names(revisions) == revisions
    mixed = ["/x/spin.safetensors", "/y/x/spin.safetensors"]
    assert patch_names(mixed) == ["/x/spin", "y/x/spin"]
    long = [f"{'x' * 80}{end}/p.safetensors" for end in "ab"]
    first, second = patch_names(long)
    assert second == f"{first.removesuffix(' (1)')} (2)"


def test_a_folder_is_named_like_itself(tmp_path, monkeypatch):
    (tmp_path / "patch").mkdir()
    monkeypatch.chdir(tmp_path / "patch")
    assert patch_names(["."]) == ["patch"]


def test_a_patch_given_twice_is_refused():
    with pytest.raises(UsageError, match=r"a\.safetensors is given twice"):
        patch_names(["a.safetensors", "b.safetensors", "a.safetensors"])


def test_what_is_shown_is_visible_and_short():
    assert shown("a\x1b[2Jb\u202ec\n") == "a�[2Jb�c�"
    assert shown("x" * 100) == "x" * (LONGEST - 1) + "…"


@pytest.mark.parametrize(
    ("datasets", "by", "groups"),
    [
        ([(EMAIL, GENERAL), (BOTH, KEPT)], "auto", ["email", "email + phone"]),
        ([(EMAIL, GENERAL), (GENERAL,)], "auto", ["people.jsonl", "general"]),
        ([(EMAIL,), ()], "auto", ["a", "b"]),
        ([(EMAIL,), ()], "category", ["email", "not recorded"]),
        ([(EMAIL, GENERAL, KEPT), (KEPT, GENERAL)], "dataset", ["people.jsonl", "friends"]),
        ([(KEPT, GENERAL), (GENERAL,)], "category", ["address", "not recorded"]),
        ([(EMAIL,), (EMAIL,)], "patch", ["a", "b"]),
        ([(EMAIL,), (EMAIL,)], "method", ["lpnl", "lpnl"]),
        ([({"name": "\x1b]0;t\x07"},), ({"name": 5},)], "dataset", ["�]0;t�", "5"]),
        ([({"categories": "email"},), ({"name": ["x"]},)], "category", ["not recorded"] * 2),
    ],
)
def test_groups(datasets, by, groups, metadata):
    patches = [metadata(datasets=many, method={"name": "lpnl"}) for many in datasets]
    assert group_names(patches, ["a", "b"], by) == groups


def test_an_unknown_grouping_is_refused():
    assert check_grouping("method") == "method"
    with pytest.raises(UsageError, match="--by is 'colour'"):
        check_grouping("colour")
