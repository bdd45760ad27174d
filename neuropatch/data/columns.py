"""Choosing the columns of a table, and reading its rows as examples.

A data set of prompts and responses and a data set of plain texts both become :class:`Example`: a
plain text is a response without a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

from neuropatch.data.formats import json_type
from neuropatch.data.tables import Table
from neuropatch.errors import DataError

PROMPT_FLAG = "--prompt-column"
RESPONSE_FLAG = "--response-column"
TEXT_FLAG = "--text-column"

# Names that are taken for a role where no flag says otherwise. Two candidates for one role are an
# error, so the order means nothing.
PROMPT_NAMES = frozenset({"prompt", "question", "instruction", "input", "query"})
RESPONSE_NAMES = frozenset({"response", "answer", "output", "completion", "chosen", "reply"})
TEXT_NAMES = frozenset({"text", "content", "sentence", "document", "passage"})

_MOST_COLUMNS_NAMED = 16


@dataclass(frozen=True)
class ColumnOptions:
    """What the flags say: the name of a column, or None where the flag was not given."""

    prompt: str | None = None
    response: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns that a table is read by.

    Attributes:
        prompt: The prompt's column; empty for plain text; ``(instruction, input)`` for a table in
            the style of Alpaca, whose fields are joined by a line end where the second has text.
        response: The column of the response, or of the plain text.
    """

    prompt: tuple[str, ...]
    response: str

    @property
    def is_text(self) -> bool:
        """Whether the table holds plain texts."""
        return not self.prompt

    def record(self) -> dict[str, list[str]]:
        """Return the columns by role, for metadata."""
        if self.is_text:
            return {"text": [self.response]}
        return {"prompt": list(self.prompt), "response": [self.response]}


@dataclass(frozen=True)
class Example:
    """One row: a response to a prompt, or a plain text with the prompt ``""``.

    Attributes:
        row: Row number in the file, from 0.
        prompt: The prompt's text.
        response: The response's text, or the plain text.
    """

    row: int
    prompt: str
    response: str


def choose_columns(table: Table, options: ColumnOptions) -> tuple[Columns, tuple[str, ...]]:
    """Choose the columns of a table by flags, and by name where there are none.

    The flags of one command are shared by all its data sets. So ``--text-column`` may stand beside
    the two others, and each table is then read by those whose columns it has.

    Args:
        table: The table.
        options: The flags.

    Returns:
        The columns, and a sentence for the user about each guess.

    Raises:
        DataError: A column that a flag names does not exist, no column fits, or more than one does.
    """
    flags = {PROMPT_FLAG: options.prompt, RESPONSE_FLAG: options.response}
    named = {flag: column for flag, column in flags.items() if column is not None}
    if options.text is not None and _flags_mean_text(table, named, options.text):
        return Columns((), options.text), ()
    for flag, column in named.items():
        _check_column(table, flag, column)
    if named:
        return _pair(table, options)
    prompts = _candidates(table, PROMPT_NAMES)
    responses = _candidates(table, RESPONSE_NAMES)
    texts = _candidates(table, TEXT_NAMES)
    # Half a pair beside a text is a text with a remark; half a pair alone lacks the other half.
    if (prompts and responses) or ((prompts or responses) and not texts):
        return _pair(table, options)
    if not texts:
        raise DataError(
            f"{table.source} has no column that looks like a prompt, a response or a text; "
            f"{_columns_of(table)}",
            hint=f"name them with {PROMPT_FLAG} and {RESPONSE_FLAG}, or with {TEXT_FLAG}",
        )
    text = _only(table, "text", texts, TEXT_FLAG)
    if table.source.lower().endswith(".txt"):
        note = f"{table.source}: every line that is not blank is one text"
    else:
        note = f"{table.source}: reading {text!r} as plain text (to change it: {TEXT_FLAG})"
    return Columns((), text), (note,)


def examples(table: Table, columns: Columns) -> list[Example]:
    """Read every row of a table as an example.

    All rows are checked, also those that a sample will not use, so that whether a file is accepted
    does not depend on a seed.

    Raises:
        DataError: A field is missing, null, not a string, or holds half of a surrogate pair, which
            no tokenizer can encode; the message names the first such row and how many there are.
    """
    wanted = (*columns.prompt, columns.response)
    problems = [
        (row, column, problem)
        for row, fields in enumerate(table.rows)
        for column in wanted
        if (problem := _field_problem(fields, column)) is not None
    ]
    if problems:
        row, column, problem = problems[0]
        others = len({row for row, _, _ in problems}) - 1
        more = f" (and {others} more rows like it)" if others else ""
        raise DataError(
            f"{table.source}: row {row + 1}: {column!r} {problem}{more}",
            hint="give every row a string there, or remove the row",
        )
    return [
        Example(row, _prompt(fields, columns.prompt), str(fields[columns.response]))
        for row, fields in enumerate(table.rows)
    ]


def _flags_mean_text(table: Table, named: dict[str, str], text: str) -> bool:
    if not named:
        _check_column(table, TEXT_FLAG, text)
        return True
    has_text = text in table.columns
    has_pair = all(column in table.columns for column in named.values())
    if has_text == has_pair:
        flags = ", ".join(f"{flag} {column}" for flag, column in named.items())
        both = "fits both" if has_text else "has the columns of neither"
        raise DataError(
            f"{table.source} {both} {flags} and {TEXT_FLAG} {text}; {_columns_of(table)}",
            hint=f"give either {TEXT_FLAG} or the two others",
        )
    return has_text


def _pair(table: Table, options: ColumnOptions) -> tuple[Columns, tuple[str, ...]]:
    if options.prompt is not None and options.prompt == options.response:
        raise DataError(
            f"{PROMPT_FLAG} and {RESPONSE_FLAG} both name {options.prompt!r}",
            hint=f"name two columns, or read one as plain text with {TEXT_FLAG}",
        )
    guessed, flags = [], []
    if options.prompt is not None:
        prompt: tuple[str, ...] = (options.prompt,)
    else:
        prompt = _guess_prompt(table, besides=options.response)
        joined = " and ".join(repr(column) for column in prompt)
        guessed.append(f"{joined} as the prompt")
        flags.append(PROMPT_FLAG)
    if options.response is not None:
        response = options.response
    else:
        found = [c for c in _candidates(table, RESPONSE_NAMES) if c != options.prompt]
        response = _only(table, "response", found, RESPONSE_FLAG)
        guessed.append(f"{response!r} as the response")
        flags.append(RESPONSE_FLAG)
    if not guessed:
        return Columns(prompt, response), ()
    note = f"{table.source}: reading {', '.join(guessed)} (to change it: {', '.join(flags)})"
    return Columns(prompt, response), (note,)


def _guess_prompt(table: Table, *, besides: str | None) -> tuple[str, ...]:
    found = [column for column in _candidates(table, PROMPT_NAMES) if column != besides]
    by_name = {_normal(column): column for column in found}
    if len(found) == 2 and by_name.keys() == {"instruction", "input"}:
        return by_name["instruction"], by_name["input"]
    return (_only(table, "prompt", found, PROMPT_FLAG),)


def _candidates(table: Table, names: frozenset[str]) -> list[str]:
    return [column for column in table.columns if _normal(column) in names]


def _normal(column: str) -> str:
    return column.strip().casefold()


def _only(table: Table, role: str, found: list[str], flag: str) -> str:
    if len(found) == 1:
        return found[0]
    if found:
        several = " and ".join(repr(column) for column in found)
        raise DataError(
            f"{table.source}: {several} could each be the {role}; {_columns_of(table)}",
            hint=f"choose one with {flag}",
        )
    raise DataError(
        f"{table.source} has no column that looks like a {role}; {_columns_of(table)}",
        hint=f"name it with {flag}",
    )


def _check_column(table: Table, flag: str, column: str) -> None:
    if column not in table.columns:
        raise DataError(
            f"{table.source} has no column {column!r}; {_columns_of(table)}",
            hint=f"give one of them to {flag}",
        )


def _columns_of(table: Table) -> str:
    named = ", ".join(repr(column) for column in table.columns[:_MOST_COLUMNS_NAMED])
    others = len(table.columns) - _MOST_COLUMNS_NAMED
    return f"its columns are {named}" + (f" and {others} more" if others > 0 else "")


def _field_problem(fields: dict[str, object], column: str) -> str | None:
    if column not in fields:
        return "is missing"
    value = fields[column]
    if not isinstance(value, str):
        return f"is {json_type(value)}, not a string"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is no text"
    return None


def _prompt(fields: dict[str, object], columns: tuple[str, ...]) -> str:
    texts = [str(fields[column]) for column in columns]
    return "\n".join([*texts[:1], *(text for text in texts[1:] if text)])
