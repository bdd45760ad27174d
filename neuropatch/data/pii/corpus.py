"""From a command line argument to tokenised records, with the record that goes into a patch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from neuropatch.data.columns import ColumnOptions, choose_columns, examples
from neuropatch.data.pii.detect import find_pii
from neuropatch.data.pii.records import Record, Span, marked_records
from neuropatch.data.pii.tokens import EncodedRecords, PiiSample, encode_records
from neuropatch.data.sampling import sample_rows
from neuropatch.data.tables import Table, read_table
from neuropatch.data.tokenize import Tokenizer
from neuropatch.errors import DataError, UsageError

MODES = ("marked", "auto")
"""How personal data is told: by the rows themselves, or found by its form."""


@dataclass(frozen=True)
class PiiOptions:
    """How records are read.

    Attributes:
        mode: One of :data:`MODES`.
        region: Country of telephone numbers without a country code, for ``auto``.
        columns: Columns of plain text, for ``auto``.

    Raises:
        UsageError: The mode is unknown.
    """

    mode: str = "marked"
    region: str = "US"
    columns: ColumnOptions = field(default_factory=ColumnOptions)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"--pii is '{self.mode}'", hint=f"choose {' or '.join(MODES)}")


@dataclass(frozen=True)
class PiiCorpus:
    """Records with personal data, as they are used in a run.

    Attributes:
        name: The user's name for them.
        source: Display name of the file.
        revision: Commit of a file on the Hub, None for a local file.
        sha256: Hexadecimal SHA-256 digest of the file's bytes.
        rows: Number of rows of the file.
        used: Rows that are used, from 0, in file order.
        mode: How personal data was told.
        records: The records of the samples.
        encoded: The samples, and what could not be mapped.
        notes: Sentences for the user.
    """

    name: str
    source: str
    revision: str | None
    sha256: str
    rows: int
    used: tuple[int, ...]
    mode: str
    records: tuple[Record, ...]
    encoded: EncodedRecords
    notes: tuple[str, ...]

    @property
    def samples(self) -> tuple[PiiSample, ...]:
        """The tokenised samples, in file order."""
        return self.encoded.samples

    @property
    def categories(self) -> tuple[str, ...]:
        """All categories that have a token, sorted."""
        return tuple(
            sorted(
                {
                    sample.categories[span]
                    for sample in self.samples
                    for span in sample.span_of
                    if span >= 0
                }
            )
        )

    def of_category(self, category: str) -> PiiCorpus:
        """Only what is personal data of one category; the rest of each text counts as text.

        Raises:
            DataError: There is none.
        """
        kept = [
            (replace(record, spans=_only(record.spans, category)), _sample_of(sample, category))
            for record, sample in zip(self.records, self.samples, strict=True)
            if sample.secret({category}).label_count
        ]
        if not kept:
            raise DataError(
                f"{self.source} has no personal data of category '{category}'",
                hint=f"its categories are {', '.join(self.categories)}",
            )
        return replace(
            self,
            used=tuple(record.row for record, _ in kept),
            records=tuple(record for record, _ in kept),
            encoded=replace(self.encoded, samples=tuple(sample for _, sample in kept)),
        )

    def record(self) -> dict[str, object]:
        """Describe the data set for a patch's metadata, in types that JSON knows."""
        return {
            "name": self.name,
            "source": self.source,
            "revision": self.revision,
            "sha256": self.sha256,
            "rows": self.rows,
            "used": "all" if len(self.used) == self.rows else list(self.used),
            "pii": self.mode,
            "categories": list(self.categories),
        }


def load_pii(
    spec: str,
    *,
    name: str,
    samples: int | None,
    seed: int,
    options: PiiOptions,
    tokenizer: Tokenizer,
    max_length: int | None = None,
) -> PiiCorpus:
    """Read, check, sample and tokenise records with personal data.

    Args:
        spec: A path or a Hub data set, as :func:`neuropatch.data.sources.read_source` takes them.
        name: The user's name for them.
        samples: Most rows to use; None, or at least the number of rows, uses all in file order.
        seed: Seed of the choice of rows.
        options: How they are read.
        tokenizer: A fast ``transformers`` tokenizer.
        max_length: Most tokens that a sample keeps; None keeps all.

    Raises:
        DataError: The file cannot be read, a row breaks its form, or no personal data is left.
        HubError: The Hub request failed.
        UsageError: An option lies outside its range, or a package is missing.
    """
    table = read_table(spec)
    records, notes = _records(table, options)
    chosen = [records[row] for row in sample_rows(len(records), samples, seed)]
    encoded = encode_records(chosen, tokenizer, max_length=max_length)
    if not encoded.samples:
        raise DataError(
            f"{table.source}: no personal data in {len(chosen)} rows",
            hint="check the spans, or the columns that are searched",
        )
    rows = {sample.row for sample in encoded.samples}
    kept = tuple(record for record in chosen if record.row in rows)
    notes = (*notes, *_notes(table, chosen, encoded, max_length))
    return PiiCorpus(
        name=name,
        source=table.source,
        revision=table.revision,
        sha256=table.sha256,
        rows=len(records),
        used=tuple(record.row for record in kept),
        mode=options.mode,
        records=kept,
        encoded=encoded,
        notes=tuple(f"{name}: {note}" for note in notes),
    )


def _only(spans: Sequence[Span], category: str) -> tuple[Span, ...]:
    return tuple(span for span in spans if span.category == category)


def _sample_of(sample: PiiSample, category: str) -> PiiSample:
    """The sample with the spans of one category; places of the others become plain text."""
    kept = [index for index, one in enumerate(sample.categories) if one == category]
    new = {old: number for number, old in enumerate(kept)}
    return replace(
        sample,
        span_of=tuple(new.get(span, -1) for span in sample.span_of),
        categories=tuple(category for _ in kept),
    )


def _records(table: Table, options: PiiOptions) -> tuple[list[Record], tuple[str, ...]]:
    if options.mode == "marked":
        return marked_records(table)
    columns, notes = choose_columns(table, options.columns)
    if not columns.is_text:
        notes += (f"{table.source}: personal data is looked for in prompt and response",)
    texts = [
        (one.row, "\n".join(part for part in (one.prompt, one.response) if part))
        for one in examples(table, columns)
    ]
    return [Record(row, text, find_pii(text, region=options.region)) for row, text in texts], notes


def _notes(
    table: Table, chosen: Sequence[Record], encoded: EncodedRecords, max_length: int | None
) -> tuple[str, ...]:
    """Sentences on what was found and what was left out."""
    found = Counter(
        sample.categories[span]
        for sample in encoded.samples
        for span in sorted(set(sample.span_of) - {-1})
    )
    counted = ", ".join(f"{count} {category}" for category, count in sorted(found.items()))
    notes = [f"{table.source}: {counted} in {len(encoded.samples)} of {len(chosen)} rows"]
    if encoded.without:
        notes.append(
            f"{table.source}: {len(encoded.without)} rows without personal data are left out"
        )
    if encoded.straddling:
        notes.append(
            f"{table.source}: {encoded.straddling} tokens hold personal data and other characters"
        )
    notes.extend(
        f"{table.source}: {count} spans are left out: {reason}"
        for reason, count in sorted(encoded.unmapped.items())
    )
    if encoded.truncated:
        notes.append(f"{table.source}: {encoded.truncated} records are cut to {max_length} tokens")
    return tuple(notes)
