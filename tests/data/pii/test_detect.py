from __future__ import annotations

import sys
from itertools import pairwise

import pytest

from neuropatch.data.pii.detect import find_pii
from neuropatch.errors import UsageError


def found(text: str, **options) -> list[tuple[str, str]]:
    return [(span.category, text[span.start : span.end]) for span in find_pii(text, **options)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to ada.lund+x@mail.example.org.", [("email", "ada.lund+x@mail.example.org")]),
        ("See https://example.org/a?b=1).", [("url", "https://example.org/a?b=1")]),
        ("at www.example.org, or", [("url", "www.example.org")]),
        ("IBAN DE89 3704 0044 0532 0130 00 please", [("iban", "DE89 3704 0044 0532 0130 00")]),
        ("GB82WEST12345698765432", [("iban", "GB82WEST12345698765432")]),
        ("card 4111 1111 1111 1111 exp", [("card", "4111 1111 1111 1111")]),
        ("amex 378282246310005", [("card", "378282246310005")]),
        ("SSN 123-45-6789", [("ssn", "123-45-6789")]),
        ("host 192.0.2.17 port", [("ip", "192.0.2.17")]),
        ("host 2001:db8::17 port", [("ip", "2001:db8::17")]),
        ("call +1 415 555 2671 now", [("phone", "+1 415 555 2671")]),
        ("call (415) 555-2671", [("phone", "(415) 555-2671")]),
    ],
)
def test_finds(text, expected):
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "DE89 3704 0044 0532 0130 01",  # one digit off: the check digits fail
        "4111 1111 1111 1112",  # the Luhn sum fails
        "0000 0000 0000 0000",
        "000-12-3456",
        "123-00-4567",
        "300.1.2.3",
        "std::vector",
        "a @ b",
        "In 1984 there were 3,500 of them.",
    ],
)
def test_leaves_alone(text):
    assert found(text) == []


def test_kinds_do_not_overlap_and_are_in_order():
    text = "ada@example.org, 4111111111111111, https://ada@example.org/x and 192.0.2.1"
    spans = find_pii(text)
    assert [span.category for span in spans] == ["email", "card", "email", "ip"]
    assert all(a.end <= b.start for a, b in pairwise(spans))


def test_region_of_numbers_without_a_country():
    assert found("Ruf 030 901820 an", region="DE") == [("phone", "030 901820")]
    with pytest.raises(UsageError, match="'Germany' is no region"):
        find_pii("Ruf an", region="Germany")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    with pytest.raises(UsageError, match="phonenumbers") as caught:
        find_pii("anything")
    assert "neuropatch[pii]" in caught.value.hint
