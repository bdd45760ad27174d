"""From a command line argument to a tokenised corpus, with the record that goes into a patch."""

from __future__ import annotations

from dataclasses import dataclass

from neuropatch.data.columns import ColumnOptions, Columns, choose_columns, examples
from neuropatch.data.formats import decode
from neuropatch.data.sampling import sample_rows
from neuropatch.data.sources import read_source
from neuropatch.data.tables import read_table, table_of
from neuropatch.data.tokenize import Sample, TokenizedCorpus, Tokenizer, encode
from neuropatch.errors import DataError


@dataclass(frozen=True)
class Corpus:
    """A data set as it is used in a run.

    Attributes:
        name: The user's name for it, such as ``privacy``.
        source: Display name of the file.
        revision: Commit of a file on the Hub, None for a local file.
        sha256: Hexadecimal SHA-256 digest of the file's bytes.
        rows: Number of rows of the file.
        used: Rows that are used, from 0, in file order.
        columns: The columns that were read.
        tokenized: The samples and what truncation took.
        notes: Sentences for the user about guesses and truncation.
    """

    name: str
    source: str
    revision: str | None
    sha256: str
    rows: int
    used: tuple[int, ...]
    columns: Columns
    tokenized: TokenizedCorpus
    notes: tuple[str, ...]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The tokenised samples, in file order."""
        return self.tokenized.samples

    def record(self) -> dict[str, object]:
        """Describe the data set for a patch's metadata, in types that JSON knows.

        ``used`` is ``"all"`` or the list of rows, numbered from 0 (after a CSV header).
        """
        return {
            "name": self.name,
            "source": self.source,
            "revision": self.revision,
            "sha256": self.sha256,
            "rows": self.rows,
            "used": "all" if len(self.used) == self.rows else list(self.used),
            "columns": self.columns.record(),
        }


@dataclass(frozen=True)
class Text:
    """Plain text, for perplexity.

    Attributes:
        documents: Texts that have nothing to do with each other: the rows of a table, or the one
            text of a ``.txt`` file.
        by_row: Whether each document is a row of a table.
        source: Display name of the file.
        revision: Commit of a file on the Hub, None for a local file.
        sha256: Hexadecimal SHA-256 digest of the file's bytes.
        notes: Sentences for the user about guesses.
    """

    documents: tuple[str, ...]
    by_row: bool
    source: str
    revision: str | None
    sha256: str
    notes: tuple[str, ...]


def load_corpus(
    spec: str,
    *,
    name: str,
    samples: int | None,
    seed: int,
    columns: ColumnOptions,
    tokenizer: Tokenizer,
    max_length: int | None = None,
    chat_template: bool = False,
) -> Corpus:
    """Read, check, sample and tokenise a data set.

    Args:
        spec: A path or a Hub data set, as :func:`neuropatch.data.sources.read_source` takes them.
        name: The user's name for the data set.
        samples: Most rows to use; None, or at least the number of rows, uses all in file order.
        seed: Seed of the choice of rows.
        columns: The flags that choose columns.
        tokenizer: A ``transformers`` tokenizer.
        max_length: Most tokens that a sample keeps; None keeps all.
        chat_template: Put prompts into the tokenizer's chat template.

    Raises:
        DataError: The data set cannot be read, or its rows cannot be used.
        HubError: The Hub request failed.
        UsageError: ``samples``, ``seed`` or ``max_length`` lies outside its range.
    """
    table = read_table(spec)
    chosen, notes = choose_columns(table, columns)
    every = examples(table, chosen)
    used = sample_rows(len(every), samples, seed)
    tokenized = encode(
        [every[row] for row in used],
        tokenizer,
        source=table.source,
        max_length=max_length,
        chat_template=chat_template,
    )
    if tokenized.truncated:
        notes += (
            f"{table.source}: {tokenized.truncated} of {len(used)} samples are longer than "
            f"{max_length} tokens; {tokenized.dropped_tokens} tokens were cut from their ends",
        )
    return Corpus(
        name=name,
        source=table.source,
        revision=table.revision,
        sha256=table.sha256,
        rows=len(every),
        used=tuple(used),
        columns=chosen,
        tokenized=tokenized,
        notes=tuple(f"{name}: {note}" for note in notes),
    )


def load_text(spec: str, *, text_column: str | None = None) -> Text:
    """Read plain text.

    Args:
        spec: A path or a Hub data set. A ``.txt`` file is one document, taken as it is; of a
            table, every text of one column is a document of its own.
        text_column: The column of a table; None guesses. A ``.txt`` file has no columns.

    Raises:
        DataError: The file cannot be read, or has no column of texts.
        HubError: The Hub request failed.
    """
    source = read_source(spec)
    if source.suffix == ".txt":
        text = decode(source.data, source.label)
        return Text((text,), False, source.name, source.revision, source.sha256, ())
    table = table_of(source)
    chosen, notes = choose_columns(table, ColumnOptions(text=text_column))
    if not chosen.is_text:
        raise DataError(
            f"{table.source} holds prompts and responses where a plain text is needed",
            hint="choose the column of the text with --text-column",
        )
    documents = tuple(example.response for example in examples(table, chosen))
    return Text(documents, True, table.source, table.revision, table.sha256, notes)
