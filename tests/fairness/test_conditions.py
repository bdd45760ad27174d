from __future__ import annotations

import pytest

from neuropatch.errors import DataError, UsageError
from neuropatch.fairness.conditions import Condition, parse_condition
from neuropatch.fairness.frame import Frame


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sex=Female", ("sex", "=", "Female")),
        ("income=>50K", ("income", "=", ">50K")),
        ("income=<=50K", ("income", "=", "<=50K")),
        ("age>25", ("age", ">", "25")),
        ("age >= 25", ("age", ">=", "25")),
        ("c != a b", ("c", "!=", "a b")),
    ],
)
def test_the_first_operator_counts(text, expected):
    assert parse_condition(text, "--g0") == Condition(*expected)


@pytest.mark.parametrize("text", ["sex", "=a", "sex=", "", "age>old"])
def test_no_condition(text):
    with pytest.raises(UsageError, match=f"--g0 '{text}'"):
        parse_condition(text, "--g0")


@pytest.fixture
def frame(make_table):
    rows = [["m", "2.0", "30"], ["f", "1", ""], ["a, b", "3", "40.5"], ["m", "", "-1e1"]]
    return Frame.read([make_table(["sex", "Code_x", "age"], rows)])


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("sex=m", [0, 3]),
        ("sex!=m", [1, 2]),
        ("sex=m,f", [0, 1, 3]),
        ("sex=a, b", [2]),  # the whole is a value
        ("SEX=m", [0, 3]),
        ("code-x=3", [2]),
        ("age>30", [2]),
        ("age<=30", [0, 3]),  # an empty cell is no number, and meets neither
        ("Code.x>=2", [0, 2]),
    ],
)
def test_holds(frame, text, rows):
    found = parse_condition(text, "--g0").holds(frame)
    assert [row for row, met in enumerate(found) if met] == rows


def test_mistakes_name_column_row_and_values(frame):
    with pytest.raises(DataError, match=r"no row has sex=x") as caught:
        parse_condition("sex=x", "--g0").holds(frame, strict=True)
    assert "'a, b', 'f', 'm'" in caught.value.hint
    with pytest.raises(DataError, match=r"rows.csv: row 1: 'sex' is 'm', not a number"):
        parse_condition("sex>3", "--g0").holds(frame)
    with pytest.raises(DataError, match="no column 'height'"):
        parse_condition("height>3", "--g0").holds(frame)
