from __future__ import annotations

import pytest

from neuropatch.data.pii.records import Span, marked_records
from neuropatch.data.tables import Table
from neuropatch.errors import DataError


def table(*rows: dict[str, object]) -> Table:
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Table("people.jsonl", columns, list(rows), "0" * 64)


def failure(*rows: dict[str, object]) -> DataError:
    with pytest.raises(DataError) as caught:
        marked_records(table(*rows))
    return caught.value


def test_spans_are_sorted():
    text = "Ada Lund, 555-0100"
    spans = [
        {"start": 10, "end": 18, "category": "phone"},
        {"start": 0, "end": 8, "category": " name "},
    ]
    (record,), notes = marked_records(table({"text": text, "spans": spans}))
    assert record.spans == (Span(0, 8, "name"), Span(10, 18, "phone"))
    assert notes == ()


def test_a_text_without_spans_is_a_record():
    (record,), _ = marked_records(table({"text": "nothing", "spans": []}))
    assert record.spans == ()


def test_targets():
    records, notes = marked_records(
        table(
            {"prompt": "Ada's phone is", "target": "555-0100", "category": "phone"},
            {"prompt": "Mail: ", "target": "a@b.example"},
            {"prompt": "", "target": " x "},
        )
    )
    assert [record.text for record in records] == [
        "Ada's phone is 555-0100",
        "Mail: a@b.example",
        " x ",
    ]
    secrets = [(r.text[s.start : s.end], s.category) for r in records for s in r.spans]
    assert secrets == [("555-0100", "phone"), ("a@b.example", "pii"), ("x", "pii")]
    assert notes == ("people.jsonl: a space was put between prompt and target in 1 of 3 rows",)


def test_a_target_that_the_prompt_has_too_is_the_last():
    (record,), _ = marked_records(table({"prompt": "555 is", "target": "555"}))
    assert record.spans == (Span(7, 10, "pii"),)


SPAN = {"start": 0, "end": 2, "category": "name"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "Ada", "spans": "no"}, "row 1: 'spans' is a string, not a list"),
        ({"text": "Ada", "spans": [3]}, "span 1 is a number, not an object"),
        ({"text": 3, "spans": []}, "'text' is a number, not a string"),
        ({"text": "Ada", "spans": [SPAN | {"end": 4}]}, "runs from 0 to 4, and the text has 3"),
        ({"text": "Ada", "spans": [SPAN | {"end": 0}]}, "runs from 0 to 0"),
        ({"text": "Ada", "spans": [SPAN | {"start": True}]}, "no whole numbers"),
        ({"text": "Ada", "spans": [SPAN | {"category": " "}]}, "no category"),
        ({"text": "Ada", "spans": [SPAN, SPAN | {"start": 1}]}, "0 to 2 and 1 to 2 overlap"),
        ({"prompt": "a", "target": " "}, "'target' is blank"),
        ({"prompt": "a", "target": "b", "category": 3}, "'category' is not a text"),
        ({"words": "a"}, "does not say where its personal data is"),
    ],
)
def test_refused(row, message):
    assert message in failure(row).message


def test_the_row_is_named():
    assert "row 2" in failure({"text": "a", "spans": []}, {"spans": []}).message
