from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuropatch.data.pii.desensitise import desensitised, value_of_same_form
from neuropatch.data.pii.records import Record, Span
from neuropatch.errors import UsageError

TEXT = "Ada: +1-555-0100, Bob: b7@x.io, again +1-555-0100."
SPANS = (Span(5, 16, "phone"), Span(23, 30, "email"), Span(38, 49, "phone"))
RECORD = Record(4, TEXT, SPANS)


def values(record):
    return [record.text[span.start : span.end] for span in record.spans]


def test_values_are_replaced_by_others_of_the_same_form():
    (found,) = desensitised([RECORD])
    phone, email, again = values(found)
    assert phone == again != "+1-555-0100"
    assert [c.isdigit() for c in phone] == [c.isdigit() for c in "+1-555-0100"]
    assert (email[2], email[4], email[0].islower(), email[1].isdigit()) == ("@", ".", True, True)
    # All but the values is as it was.
    assert found.text == TEXT.replace("+1-555-0100", phone).replace("b7@x.io", email)
    assert (found.row, found.spans) == (4, SPANS)


def test_placeholders_move_what_follows():
    (found,) = desensitised([RECORD], stand_in="placeholder")
    assert found.text == "Ada: [phone], Bob: [email], again [phone]."
    assert values(found) == ["[phone]", "[email]", "[phone]"]
    assert [span.category for span in found.spans] == ["phone", "email", "phone"]


def test_a_seed_gives_one_text():
    records = [RECORD, RECORD]
    first, second = desensitised(records, seed=1)
    assert first != second
    assert desensitised(records, seed=1) == [first, second]
    assert desensitised(records, seed=2)[0] != first


@given(st.text(min_size=1, max_size=12), st.integers(0, 3))
def test_the_form_of_any_value_is_kept(value, seed):
    found = value_of_same_form(value, np.random.default_rng(seed))
    assert len(found) == len(value)
    for new, old in zip(found, value, strict=True):
        category = unicodedata.category(old)
        assert unicodedata.category(new) == category
        if category[0] != "L" and category != "Nd":
            assert new == old
    if any(c.isascii() and c.isalnum() for c in value):
        assert found != value


def test_other_scripts_stay_in_their_script():
    found = value_of_same_form("Анна Ώ 山", np.random.default_rng(0))
    assert [unicodedata.name(c).split()[0] for c in found if c != " "] == [
        *["CYRILLIC"] * 4,
        "GREEK",
        "CJK",
    ]


def test_a_value_without_letters_or_digits_cannot_change():
    assert value_of_same_form("--", np.random.default_rng(0)) == "--"


def test_an_unknown_stand_in_is_refused():
    with pytest.raises(UsageError, match="unknown stand-in 'nothing'"):
        desensitised([RECORD], stand_in="nothing")
