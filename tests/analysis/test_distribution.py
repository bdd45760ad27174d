"""Distributions against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from neuropatch.analysis.distribution import over_components, over_layers
from neuropatch.analysis.neurons import neurons_of


@pytest.fixture
def patches(unit_patch):
    """Group a: 4 units (1, 3) and 4 units (3, 1); group b: 2 units (0, 2)."""
    return [
        neurons_of(unit_patch({0: [0], 1: [1, 2, 3]}), name="a1", group="a"),
        neurons_of(unit_patch({0: [0, 5, 6], 1: [1]}), name="a2", group="a"),
        neurons_of(unit_patch({1: [0, 1]}), name="b1", group="b"),
    ]


def test_over_layers(patches):
    found = over_layers(patches)
    assert found.places == ("decoder.0", "decoder.1")
    ones = {series.name: series for series in found.of("patch")}
    np.testing.assert_array_equal(ones["a1"].count, [1, 3])
    np.testing.assert_array_equal(ones["a1"].share, [0.25, 0.75])
    assert ones["a1"].share_std is None
    a, b = found.of("group")
    assert (a.name, a.members, b.name, b.members) == ("a", 2, "b", 1)
    np.testing.assert_array_equal(a.count, [2, 2])
    np.testing.assert_allclose(a.count_std, [2**0.5, 2**0.5])
    np.testing.assert_array_equal(a.share, [0.5, 0.5])
    np.testing.assert_allclose(a.share_std, [0.125**0.5, 0.125**0.5])
    assert b.share_std is None
    (every,) = found.of("all")
    # The mean of the two groups, not of the three patches.
    assert every.members == 2
    np.testing.assert_array_equal(every.share, [0.25, 0.75])
    np.testing.assert_array_equal(every.count, [1, 2])
    np.testing.assert_allclose(every.share_std, [0.125**0.5, 0.125**0.5])


def test_one_group_has_no_mean_over_groups(patches):
    assert over_layers(patches[:2]).of("all") == ()


def test_over_components(unit_patch, weight_patch):
    units = neurons_of(unit_patch({0: [0], 1: [1]}), name="u", group="u")
    weights = neurons_of(
        weight_patch({(0, "q"): [(0, 0), (1, 1)], (1, "down"): [(0, 1), (2, 3)]}),
        name="w",
        group="w",
    )
    found = over_components([units, weights])
    shares = {
        series.name: dict(zip(found.places, series.share, strict=True)) for series in found.series
    }
    assert {name: share for name, share in shares["u"].items() if share} == {"mlp units": 1}
    assert {name: share for name, share in shares["w"].items() if share} == {"q": 0.5, "down": 0.5}


def test_two_stacks_and_bare_layers_are_all_there(make_layout, make_patch):
    patch = neurons_of(make_patch(make_layout("bert")), name="p", group="p")
    assert over_layers([patch]).places == ("encoder.0", "encoder.1")


def test_rows_are_the_same_numbers(patches):
    found = over_layers(patches)
    rows = found.rows("layer")
    assert len(rows) == len(found.series) * 2
    assert rows[1] == {
        "level": "patch",
        "series": "a1",
        "layer": "decoder.1",
        "members": 1,
        "count": 3.0,
        "count_std": None,
        "share": 0.75,
        "share_std": None,
    }
    shares = [row["share"] for row in rows]
    np.testing.assert_allclose(np.reshape(shares, (-1, 2)).sum(axis=1), 1)
