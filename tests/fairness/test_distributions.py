from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from neuropatch.errors import DataError, UsageError
from neuropatch.fairness.conditions import Condition
from neuropatch.fairness.distributions import (
    Side,
    by_shares,
    load_distributions,
    parse_side,
    pure_groups,
)
from neuropatch.fairness.sources import Reading, examples_of

READING = Reading(label="hired=yes", sensitive="sex")


@pytest.fixture(scope="module")
def people(make_table):
    """``people(n)``: a third of them ``f``; ``f`` are hired less often."""

    def make(n=300, seed=0):
        rng = np.random.default_rng(seed)
        rows = []
        for number in range(n):
            sex = "f" if rng.random() < 1 / 3 else "m"
            hired = "yes" if rng.random() < {"f": 0.2, "m": 0.6}[sex] else "no"
            rows.append([str(number), "ab"[number % 2], sex, hired])
        return make_table(["x", "team", "sex", "hired"], rows)

    return make


@pytest.fixture
def file(people, tmp_path):
    path = tmp_path / "rows.csv"
    table = people()
    lines = [",".join(table.columns), *(",".join(map(str, row.values())) for row in table.rows)]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize(
    ("texts", "side"),
    [
        ([], None),
        (["sex=f"], Side((Condition("sex", "=", "f"),))),
        (["sex=f", "x>3"], Side((Condition("sex", "=", "f"), Condition("x", ">", "3")))),
        (["sex=f:80%"], Side((Condition("sex", "=", "f"),), 0.8)),
        (["x>3:.25"], Side((Condition("x", ">", "3"),), 0.25)),
        (["sex=f:1"], Side((Condition("sex", "=", "f"),), 1.0)),
        (["opens=12:30"], Side((Condition("opens", "=", "12:30"),))),
        (["rows.csv"], Side(file="rows.csv")),
    ],
)
def test_parse(texts, side):
    assert parse_side(texts, "--g0") == side


@pytest.mark.parametrize("texts", [["sex=f:120%"], ["sex=f:50%", "x>3"], ["a.csv", "sex=f"]])
def test_parse_refuses(texts):
    with pytest.raises(UsageError, match=f"--g0 {texts[0]}"):
        parse_side(texts, "--g0")


def test_pure_groups_are_the_default(file):
    loaded, found = load_distributions([file], READING, None, None)
    assert found.names == ("sex=f", "sex=m")
    assert set(found.g0.groups) == {0}
    assert set(found.g1.groups) == {1}
    assert len(found) == len(loaded.examples)
    assert found.notes[0].startswith("pure groups: G0 is sex=f")


def test_conditions_may_be_on_any_column(file):
    _, found = load_distributions(
        [file], READING, parse_side(["team=a", "x>=100"], "--g0"), parse_side(["team=b"], "--g1")
    )
    assert (len(found.g0), len(found.g1)) == (100, 150)
    assert found.notes == ("50 of 300 rows are in neither G0 nor G1",)
    assert min(found.g0.columns["x"]) == 100


@given(st.floats(0, 1), st.floats(0, 1), st.booleans(), st.integers(0, 5))
def test_shares(people, share0, share1, match_labels, seed):
    loaded = examples_of([people(200)], READING)
    condition = (Condition("sex", "=", "f"),)
    try:
        found = by_shares(
            loaded,
            Side(condition, share0),
            Side(condition, share1),
            match_labels=match_labels,
            seed=seed,
        )
    except DataError:
        # So few rows were left that a side has one label only.
        assume(False)
    assert len(found.g0) == len(found.g1)
    rows = [set(side.columns["x"]) for side in found.sides]
    assert not rows[0] & rows[1]
    assert len(rows[0]) == len(found.g0)
    for side, share in zip(found.sides, (share0, share1), strict=True):
        # Rounded once, or once a label.
        assert abs(np.sum(side.groups == 0) - share * len(side)) <= 1
    if match_labels:
        assert found.g0.labels.sum() == found.g1.labels.sum()
        whole = loaded.examples.labels.mean()
        # Two labels are rounded to whole rows, and may lose two to the rounding of the shares.
        assert abs(found.g0.labels.mean() - whole) <= 4 / len(found.g0)


def test_shares_use_the_rows_that_there_are(people):
    loaded = examples_of([people(300)], READING)
    condition = (Condition("sex", "=", "f"),)
    found = by_shares(loaded, Side(condition, 0.5), Side(condition, 0.5))
    scarce = int(np.sum(loaded.examples.groups == 0))
    assert len(found) >= 2 * scarce - 4
    again = by_shares(loaded, Side(condition, 0.5), Side(condition, 0.5))
    assert again.g0.columns["x"].tolist() == found.g0.columns["x"].tolist()


def test_labels_can_be_matched(file):
    _, found = load_distributions([file], READING, None, None, match_labels=True, seed=1)
    assert len(found.g0) == len(found.g1)
    assert found.g0.labels.sum() == found.g1.labels.sum()
    _, natural = load_distributions([file], READING, None, None)
    assert natural.g1.labels.mean() > natural.g0.labels.mean() + 0.2


def test_two_files(file, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("x,team,sex,hired\n1,a,f,yes\n2,b,m,no\n")
    sides = parse_side([file], "--g0"), parse_side([str(other)], "--g1")
    _, found = load_distributions([], READING, *sides)
    assert (len(found.g0), len(found.g1)) == (300, 2)
    assert found.names == ("rows.csv", "other.csv")
    assert found.g0.group_names == found.g1.group_names == ("f", "m")
    with pytest.raises(UsageError, match="the rows come from --data, or from a file each"):
        load_distributions([file], READING, *sides)


@pytest.mark.parametrize(
    ("g0", "g1", "message"),
    [
        (["sex=f"], [], "--g0 is given and --g1 is not"),
        ([], ["sex=f"], "--g1 is given and --g0 is not"),
        (["sex=f:80%"], ["sex=m"], "one of --g0 and --g1 is a share"),
        (["sex=f:80%"], ["sex=m:80%"], "--g0 is a share of sex=f, --g1 one of sex=m"),
        (["sex=f"], ["team=a"], "rows are in both --g0 sex=f and --g1 team=a"),
        (["sex=x"], ["sex=m"], "no row has sex=x"),
        (["hired=yes"], ["hired=no"], r"G0 \(hired=yes\) has .* none with label 0"),
        (["a.csv"], ["sex=m"], "the rows come from --data"),
    ],
)
def test_mistakes(file, g0, g1, message):
    with pytest.raises((DataError, UsageError), match=message):
        load_distributions([file], READING, parse_side(g0, "--g0"), parse_side(g1, "--g1"))


def test_pure_groups_of_several_take_the_two_largest(make_examples):
    examples = make_examples(200)
    three = examples.select(np.arange(200))
    three.groups[:30] = 2
    named = type(three)(
        three.columns, None, three.labels, three.groups, ("f", "m", "x"), "sex", "y=1", "1"
    )
    found = pure_groups(named)
    assert (set(found.g0.groups), set(found.g1.groups)) == ({0}, {1})
    assert "30 of 200 rows are in neither G0 nor G1" in found.notes
