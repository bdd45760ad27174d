"""Character spans to tokens.

A token belongs to a span when it holds at least one of its characters that are not blank: the
blank that many tokenizers put at the front of a word is no personal data, and a token that
straddles the boundary of a span carries some of it. A token that two spans share goes to the one
that has more of its characters, to the first of two equals.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from neuropatch.data.pii.records import Record
from neuropatch.data.tokenize import MaskedSample, Sample, Tokenizer, special_prefix
from neuropatch.errors import DataError, UsageError


@dataclass(frozen=True)
class PiiSample(Sample):
    """The tokens of one record; every token that has something before it is a label.

    Attributes:
        span_of: For each token of ``ids`` the index of its span in ``Record.spans``, -1 elsewhere.
        categories: The category of each span of the record.
    """

    span_of: tuple[int, ...]
    categories: tuple[str, ...]

    @property
    def pii_count(self) -> int:
        """Number of labels that are personal data."""
        return sum(span >= 0 for span in self.span_of[self.label_start :])

    def secret(self, categories: Collection[str] | None = None) -> MaskedSample:
        """The sample with the tokens of personal data as its only labels.

        Args:
            categories: Those that count; None for all.
        """
        return self._masked(
            [
                span >= 0 and (categories is None or self.categories[span] in categories)
                for span in self.span_of
            ]
        )

    def rest(self) -> MaskedSample | None:
        """The sample with all other tokens as its labels; None if there are none."""
        masked = self._masked([span < 0 for span in self.span_of])
        return masked if masked.label_count else None

    def _masked(self, wanted: list[bool]) -> MaskedSample:
        counted = [place >= self.label_start and want for place, want in enumerate(wanted)]
        return MaskedSample(self.row, self.ids, self.label_start, tuple(counted))


@dataclass(frozen=True)
class EncodedRecords:
    """Tokenised records, and what could not be mapped.

    Attributes:
        samples: Those with personal data among their labels, in file order.
        without: Rows (from 0) that are left out, since they have none.
        truncated: Records that were longer than the maximum length.
        unmapped: Spans without a token, by the reason.
        straddling: Tokens of spans that also hold other characters, blanks aside.
    """

    samples: tuple[PiiSample, ...]
    without: tuple[int, ...]
    truncated: int
    unmapped: dict[str, int]
    straddling: int


CUT = "cut off by --max-length"
FIRST = "at the very start, where nothing predicts it"
SWALLOWED = "inside a token that another span has more of"
NO_TOKEN = "without a token of the tokenizer"


def encode_records(
    records: Sequence[Record], tokenizer: Tokenizer, *, max_length: int | None = None
) -> EncodedRecords:
    """Tokenise records and map their spans.

    Args:
        records: The records.
        tokenizer: A fast ``transformers`` tokenizer, which tells where a token's characters are.
        max_length: Most tokens that a sample keeps; the rest is cut off from its end.

    Raises:
        DataError: The tokenizer does not tell characters.
        UsageError: ``max_length`` is below 2.
    """
    if max_length is not None and max_length < 2:
        raise UsageError(
            f"--max-length is {max_length}", hint="a label needs at least 2 tokens: one to see"
        )
    encoded = _with_offsets(tokenizer, [record.text for record in records])
    prefix = special_prefix(tokenizer)
    samples, without = [], []
    unmapped: dict[str, int] = {}
    truncated = straddling = 0
    for record, ids, offsets in zip(
        records, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        spans, partial = _spans_of_tokens(record, offsets)
        whole = [*prefix, *ids]
        span_of = [*(-1 for _ in prefix), *spans]
        kept = len(whole) if max_length is None else min(max_length, len(whole))
        truncated += kept < len(whole)
        label_start = max(1, len(prefix))
        for reason in _unmapped(record, span_of, label_start, kept):
            unmapped[reason] = unmapped.get(reason, 0) + 1
        sample = PiiSample(
            record.row,
            whole[:kept],
            label_start,
            tuple(span_of[:kept]),
            tuple(span.category for span in record.spans),
        )
        if sample.label_count > 0 and sample.pii_count:
            samples.append(sample)
            straddling += sum(partial)
        else:
            without.append(record.row)
    return EncodedRecords(tuple(samples), tuple(without), truncated, unmapped, straddling)


def _with_offsets(tokenizer: Tokenizer, texts: list[str]) -> Any:
    try:
        return tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
    except NotImplementedError as error:
        raise DataError(
            "this tokenizer does not tell which characters a token holds, so spans cannot be "
            "mapped to tokens",
            hint="use a model with a fast tokenizer (tokenizer.json)",
        ) from error


def _spans_of_tokens(
    record: Record, offsets: Sequence[tuple[int, int]]
) -> tuple[list[int], list[bool]]:
    """The span of each token, -1 for none, and whether it also holds characters of no span."""
    owner = [-1] * len(record.text)
    for index, span in enumerate(record.spans):
        owner[span.start : span.end] = [index] * (span.end - span.start)
    spans, partial = [], []
    for start, end in offsets:
        owners = [owner[i] for i in range(start, end) if not record.text[i].isspace()]
        counts = {index: owners.count(index) for index in sorted(set(owners)) if index >= 0}
        # max takes the first of equals, which is the earlier span.
        spans.append(max(counts, key=lambda index: counts[index]) if counts else -1)
        partial.append(len(counts) > 0 and sum(counts.values()) < len(owners))
    return spans, partial


def _unmapped(record: Record, span_of: Sequence[int], label_start: int, kept: int) -> list[str]:
    """Why spans of a record have no label, a reason for each such span."""
    reasons = []
    for index, span in enumerate(record.spans):
        places = [place for place, owner in enumerate(span_of) if owner == index]
        if any(label_start <= place < kept for place in places):
            continue
        if not places:
            inside = not record.text[span.start : span.end].isspace()
            reasons.append(SWALLOWED if inside and len(record.spans) > 1 else NO_TOKEN)
        else:
            reasons.append(CUT if places[0] >= kept else FIRST)
    return reasons
