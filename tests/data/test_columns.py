from __future__ import annotations

import pytest

from neuropatch.data.columns import ColumnOptions, Columns, Example, choose_columns, examples
from neuropatch.data.tables import Table
from neuropatch.errors import DataError


def table(*columns: str, rows=(), source: str = "people.csv") -> Table:
    return Table(source, columns, list(rows), "0" * 64)


def failure(given: Table, options: ColumnOptions) -> DataError:
    with pytest.raises(DataError) as caught:
        choose_columns(given, options)
    return caught.value


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("prompt", "response"), Columns(("prompt",), "response")),
        (("id", "Question", " answer "), Columns(("Question",), " answer ")),
        (("prompt", "chosen", "rejected"), Columns(("prompt",), "chosen")),
        (("input", "output"), Columns(("input",), "output")),
        (("instruction", "output"), Columns(("instruction",), "output")),
        (("input", "output", "instruction"), Columns(("instruction", "input"), "output")),
        (("instruction", "input", "output", "text"), Columns(("instruction", "input"), "output")),
        (("id", "text"), Columns((), "text")),
        (("question", "text"), Columns((), "text")),
        (("content",), Columns((), "content")),
    ],
)
def test_guesses_are_reported(names, expected):
    columns, notes = choose_columns(table(*names), ColumnOptions())
    assert columns == expected
    (note,) = notes
    assert note.startswith("people.csv: reading ")
    assert all(repr(name) in note for name in (*expected.prompt, expected.response))


def test_flags_are_taken_as_they_are_and_without_a_note():
    given = table("prompt", "response", "q", "a", "t")
    chosen = choose_columns(given, ColumnOptions(prompt="q", response="a"))
    assert chosen == (Columns(("q",), "a"), ())
    assert choose_columns(given, ColumnOptions(text="t")) == (Columns((), "t"), ())


def test_one_flag_leaves_the_other_column_to_a_guess():
    given = table("prompt", "answer", "output")
    columns, (note,) = choose_columns(given, ColumnOptions(response="output"))
    assert columns == Columns(("prompt",), "output")
    assert "'prompt'" in note
    assert "'output'" not in note
    # A named prompt is no candidate for the response.
    columns, _ = choose_columns(table("answer", "output"), ColumnOptions(prompt="answer"))
    assert columns == Columns(("answer",), "output")
    columns, _ = choose_columns(table("question", "input"), ColumnOptions(response="input"))
    assert columns == Columns(("question",), "input")


def test_a_text_file_says_what_a_row_is():
    _, (note,) = choose_columns(table("text", source="a.txt"), ColumnOptions())
    assert note == "a.txt: every line that is not blank is one text"


def test_flags_for_both_kinds_serve_mixed_data_sets():
    flags = ColumnOptions(prompt="q", response="a", text="t")
    assert choose_columns(table("q", "a"), flags)[0] == Columns(("q",), "a")
    assert choose_columns(table("t", "x"), flags)[0] == Columns((), "t")
    assert "fits both" in failure(table("q", "a", "t"), flags).message
    assert "the columns of neither" in failure(table("x"), flags).message


@pytest.mark.parametrize(
    ("names", "options", "message", "flag"),
    [
        (("a", "b"), ColumnOptions(prompt="c"), "no column 'c'", "--prompt-column"),
        (("prompt", "b"), ColumnOptions(response="c"), "no column 'c'", "--response-column"),
        (("a", "b"), ColumnOptions(text="c"), "no column 'c'", "--text-column"),
        (("a", "b"), ColumnOptions(), "a prompt, a response or a text", "--text-column"),
        (("prompt", "b"), ColumnOptions(), "looks like a response", "--response-column"),
        (("a", "answer"), ColumnOptions(), "looks like a prompt", "--prompt-column"),
        (
            ("prompt", "question", "answer"),
            ColumnOptions(),
            "'prompt' and 'question' could each be the prompt",
            "--prompt-column",
        ),
        (
            ("prompt", "answer", "output"),
            ColumnOptions(),
            "'answer' and 'output' could each be the response",
            "--response-column",
        ),
        (("text", "content"), ColumnOptions(), "could each be the text", "--text-column"),
        (
            ("instruction", "input", "query", "output"),
            ColumnOptions(),
            "could each be the prompt",
            "--prompt-column",
        ),
    ],
)
def test_missing_and_ambiguous_columns_name_the_columns_and_the_flag(names, options, message, flag):
    error = failure(table(*names), options)
    assert message in error.message
    assert f"its columns are {', '.join(map(repr, names))}" in error.message
    assert flag in (error.hint or "")


def test_one_column_cannot_be_both():
    error = failure(table("a", "b"), ColumnOptions(prompt="a", response="a"))
    assert "both name 'a'" in error.message


def test_long_lists_of_columns_are_cut():
    error = failure(table(*(f"c{i}" for i in range(40))), ColumnOptions())
    assert error.message.endswith("'c15' and 24 more")


def test_examples_of_each_kind():
    pairs = table("p", "r", rows=[{"p": "Who?", "r": "Me."}, {"p": "", "r": ""}])
    assert examples(pairs, Columns(("p",), "r")) == [Example(0, "Who?", "Me."), Example(1, "", "")]
    texts = table("t", rows=[{"t": "One."}])
    assert examples(texts, Columns((), "t")) == [Example(0, "", "One.")]


def test_alpaca_input_is_joined_where_it_has_text():
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Sing.", "input": "", "output": "La."},
    ]
    read = examples(
        table("instruction", "input", "output", rows=rows),
        Columns(("instruction", "input"), "output"),
    )
    assert [example.prompt for example in read] == ["Add.\n1 2", "Sing."]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"p": "x"}, "'r' is missing"),
        ({"p": "x", "r": None}, "'r' is null, not a string"),
        ({"p": "x", "r": 7}, "'r' is a number, not a string"),
        ({"p": "x", "r": True}, "'r' is a truth value, not a string"),
        ({"p": ["x"], "r": "y"}, "'p' is a list, not a string"),
        ({"p": "\ud800", "r": "y"}, "'p' holds half of a surrogate pair"),
    ],
)
def test_fields_that_are_no_text_are_named(bad, problem):
    rows = [{"p": "x", "r": "y"}, bad, bad]
    with pytest.raises(DataError) as caught:
        examples(table("p", "r", rows=rows), Columns(("p",), "r"))
    assert caught.value.message.startswith(f"people.csv: row 2: {problem}")
    assert caught.value.message.endswith("(and 1 more rows like it)")


def test_record():
    assert Columns((), "t").record() == {"text": ["t"]}
    both = {"prompt": ["a", "b"], "response": ["r"]}
    assert Columns(("a", "b"), "r").record() == both
