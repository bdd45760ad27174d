"""Personal data that has a form, found in plain text: ``--pii auto``.

Each finder proposes places by a regular expression and keeps those that pass the check of their
kind (Luhn for cards, ISO 7064 for IBANs, the address syntax for IPs); telephone numbers come from
the package ``phonenumbers``. Names and places have no form and are not found here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from neuropatch.data.pii.records import Span
from neuropatch.errors import UsageError

_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9](?:[\w.+%-]{0,62}[\w+%-])?@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}"
    r"[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w-])"
)
_URL = re.compile(r"\b(?:https?://|www\.)[^\s<>\"'`{}|\\^]+", re.IGNORECASE)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<![\d-])(?:\d[ -]?){12,18}\d(?![\d-])")
# Numbers that were never given out (000, 666 and 9xx first, 00 second, 0000 last) are none.
_SSN = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)")
_IPV6 = re.compile(r"(?<![\w:])[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(?![\w:])")


def find_pii(text: str, *, region: str = "US") -> tuple[Span, ...]:
    """Find e-mail addresses, URLs, IBANs, card and social security numbers, IPs and phones.

    Args:
        text: The text.
        region: Country (ISO 3166, two letters) of telephone numbers without a country code.

    Returns:
        The spans in order. Where two kinds claim the same characters, the kind that comes first
        in the sentence above has them.

    Raises:
        UsageError: The package ``phonenumbers`` is missing, or the region is unknown.
    """
    found: list[Span] = []
    for span in _proposals(text, region):
        if all(span.end <= other.start or span.start >= other.end for other in found):
            found.append(span)
    return tuple(sorted(found))


def _proposals(text: str, region: str) -> Iterator[Span]:
    yield from (Span(*match.span(), "email") for match in _EMAIL.finditer(text))
    for match in _URL.finditer(text):
        # What ends a sentence or closes a bracket around it is no part of an address.
        yield Span(match.start(), match.start() + len(match[0].rstrip(".,;:!?)]")), "url")
    yield from (Span(*m.span(), "iban") for m in _IBAN.finditer(text) if _is_iban(m[0]))
    yield from (Span(*m.span(), "card") for m in _CARD.finditer(text) if _is_card(m[0]))
    yield from (Span(*match.span(), "ssn") for match in _SSN.finditer(text))
    for pattern in (_IPV4, _IPV6):
        yield from (Span(*m.span(), "ip") for m in pattern.finditer(text) if _is_ip(m[0]))
    yield from _phones(text, region)


def _phones(text: str, region: str) -> Iterator[Span]:
    try:
        import phonenumbers
    except ImportError:
        raise UsageError(
            "finding telephone numbers needs the package phonenumbers",
            hint="pip install 'neuropatch[pii]'",
        ) from None
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise UsageError(
            f"'{region}' is no region of telephone numbers",
            hint="give a country code of two capital letters, such as US or DE",
        )
    # POSSIBLE and not VALID: an invented or misprinted number is personal data all the same.
    leniency = phonenumbers.Leniency.POSSIBLE
    for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=leniency):
        yield Span(match.start, match.end, "phone")


def _is_iban(text: str) -> bool:
    """ISO 13616: at most 34 characters, and the remainder of ISO 7064 mod 97-10 is 1."""
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    digits = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return int(digits) % 97 == 1


def _is_card(text: str) -> bool:
    """ISO/IEC 7812: 13 to 19 digits whose Luhn sum is a multiple of ten."""
    digits = [int(character) for character in text if character.isdigit()]
    if len(set(digits)) == 1:
        return False
    doubled = (2 * digit for digit in digits[-2::-2])
    total = sum(digits[-1::-2]) + sum(digit - 9 * (digit > 9) for digit in doubled)
    return total % 10 == 0


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    # "::" alone stands between words in many programming languages.
    return len(text) > 3
