from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropatch.data.columns import ColumnOptions, Example
from neuropatch.data.pairs import Pair, join_pairs
from neuropatch.data.tables import Table
from neuropatch.errors import DataError

# Machines under load are slow; the tests make no claim about time.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def table(source: str, *rows: tuple[str, str], columns=("prompt", "response")) -> Table:
    return Table(source, columns, [dict(zip(columns, row, strict=True)) for row in rows], "0" * 64)


def test_pairs_meet_in_order():
    safe = table("safe.csv", ("b", "b1"), ("a", "a1"), ("b", "b2"), ("b", "b3"), ("x", "x1"))
    unsafe = table("unsafe.csv", ("a", "A1"), ("b", "B1"), ("y", "Y1"), ("b", "B2"), ("z", "Z1"))
    joined = join_pairs(safe, unsafe)
    assert joined.pairs == (
        Pair(Example(0, "b", "b1"), Example(1, "b", "B1")),
        Pair(Example(1, "a", "a1"), Example(0, "a", "A1")),
        Pair(Example(2, "b", "b2"), Example(3, "b", "B2")),
    )
    assert (joined.matched_prompts, joined.preferred_only, joined.dispreferred_only) == (2, 1, 2)
    assert joined.surplus == 1
    assert joined.notes[-1] == (
        "safe.csv and unsafe.csv: 3 pairs from 2 prompts in both; 1 and 2 prompts are in one "
        "only, 1 responses found no partner"
    )
    assert "safe.csv: reading 'prompt'" in joined.notes[0]
    assert "unsafe.csv: reading 'prompt'" in joined.notes[1]


prompts = st.lists(st.sampled_from("abcde"), min_size=1, max_size=15)


@relaxed
@given(prompts, prompts)
def test_every_response_is_paired_or_counted(left, right):
    safe = table("safe.csv", *((p, f"s{i}") for i, p in enumerate(left)))
    unsafe = table("unsafe.csv", *((p, f"u{i}") for i, p in enumerate(right)))
    mine, theirs = Counter(left), Counter(right)
    if not mine.keys() & theirs.keys():
        with pytest.raises(DataError):
            join_pairs(safe, unsafe)
        return
    joined = join_pairs(safe, unsafe)
    assert Counter(pair.preferred.prompt for pair in joined.pairs) == mine & theirs
    assert all(pair.preferred.prompt == pair.dispreferred.prompt for pair in joined.pairs)
    assert len({pair.preferred.row for pair in joined.pairs}) == len(joined.pairs)
    assert len({pair.dispreferred.row for pair in joined.pairs}) == len(joined.pairs)
    alone = sum(n for p, n in mine.items() if p not in theirs)
    alone += sum(n for p, n in theirs.items() if p not in mine)
    assert 2 * len(joined.pairs) + joined.surplus + alone == len(left) + len(right)


def test_no_prompt_in_common():
    with pytest.raises(DataError) as caught:
        join_pairs(table("safe.csv", ("a", "1")), table("unsafe.csv", ("a ", "2")))
    assert "have no prompt in common (1 and 1 different prompts)" in caught.value.message


def test_flags_and_plain_text():
    names = ("q", "a")
    safe = table("safe.csv", ("a", "1"), columns=names)
    unsafe = table("unsafe.csv", ("a", "2"), columns=names)
    joined = join_pairs(safe, unsafe, columns=ColumnOptions(prompt="q", response="a"))
    assert len(joined.pairs) == 1
    assert len(joined.notes) == 1
    texts = Table("a.txt", ("text",), [{"text": "x"}], "0" * 64)
    with pytest.raises(DataError, match="plain texts where prompts and responses"):
        join_pairs(safe, texts, columns=ColumnOptions(prompt="q", response="a", text="text"))
