"""Texts whose personal data is marked: records with spans, detection, and spans as tokens.

``records`` reads what the user marked, ``detect`` marks plain text, ``tokens`` maps characters to
tokens exactly, ``corpus`` puts the three together.
"""

from __future__ import annotations
