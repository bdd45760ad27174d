from __future__ import annotations

import json

import pytest

from neuropatch.data.pii.corpus import PiiOptions, load_pii
from neuropatch.errors import DataError, UsageError


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(spec, tokenizer, **options):
    settings = {"name": "people", "samples": None, "seed": 0, "options": PiiOptions()} | options
    return load_pii(spec, tokenizer=tokenizer, **settings)


def test_marked_rows(tmp_path, plain_tokenizer):
    spec = write(
        tmp_path / "people.jsonl",
        {"prompt": "the phone is", "target": "555-0100", "category": "phone"},
        {"prompt": "the mail is", "target": "ada@example.org", "category": "email"},
    )
    corpus = load(spec, plain_tokenizer)
    assert corpus.categories == ("email", "phone")
    assert [record.row for record in corpus.records] == [0, 1]
    assert "people: people.jsonl: 1 email, 1 phone in 2 of 2 rows" in corpus.notes
    assert corpus.record() == {
        "name": "people",
        "source": "people.jsonl",
        "revision": None,
        "sha256": corpus.sha256,
        "rows": 2,
        "used": "all",
        "pii": "marked",
        "categories": ["email", "phone"],
    }


def test_auto_searches_plain_text_and_counts_what_has_none(tmp_path, plain_tokenizer):
    path = tmp_path / "mails.txt"
    path.write_text("Reach ada@example.org soon.\nNothing here.\n\nCall +1 415 555 2671.\n")
    corpus = load(str(path), plain_tokenizer, options=PiiOptions(mode="auto"))
    assert corpus.categories == ("email", "phone")
    assert [sample.row for sample in corpus.samples] == [0, 2]
    assert [record.row for record in corpus.records] == [0, 2]
    assert (corpus.rows, corpus.record()["used"]) == (3, [0, 2])
    assert "people: mails.txt: 1 rows without personal data are left out" in corpus.notes


def test_auto_searches_prompt_and_response(tmp_path, plain_tokenizer):
    spec = write(
        tmp_path / "chat.jsonl", {"prompt": "Where is Ada?", "response": "At ada@example.org"}
    )
    corpus = load(spec, plain_tokenizer, options=PiiOptions(mode="auto"))
    assert corpus.records[0].text == "Where is Ada?\nAt ada@example.org"


def test_rows_are_sampled(tmp_path, plain_tokenizer):
    rows = [{"prompt": f"number {i} is", "target": f"555-01{i:02}"} for i in range(20)]
    spec = write(tmp_path / "people.jsonl", *rows)
    corpus = load(spec, plain_tokenizer, samples=5, seed=1)
    assert len(corpus.samples) == 5
    assert list(corpus.used) == [sample.row for sample in corpus.samples]
    assert corpus.record()["used"] == list(corpus.used)


def test_no_personal_data_at_all(tmp_path, plain_tokenizer):
    path = tmp_path / "clean.txt"
    path.write_text("Nothing here.\n")
    with pytest.raises(DataError, match="no personal data in 1 rows"):
        load(str(path), plain_tokenizer, options=PiiOptions(mode="auto"))


def test_an_unknown_mode():
    with pytest.raises(UsageError, match="choose marked or auto"):
        PiiOptions(mode="magic")


def test_of_one_category_the_rest_is_text(tmp_path, plain_tokenizer):
    text = "Ada has 555-0100 and ada@x.org now"
    spans = [
        {"start": 8, "end": 16, "category": "phone"},
        {"start": 21, "end": 30, "category": "email"},
    ]
    spec = write(
        tmp_path / "people.jsonl",
        {"text": text, "spans": spans},
        {"text": "call 555-0199", "spans": [{"start": 5, "end": 13, "category": "phone"}]},
    )
    corpus = load(spec, plain_tokenizer)
    email = corpus.of_category("email")
    assert (email.categories, email.used) == (("email",), (0,))
    assert [record.spans for record in email.records] == [corpus.records[0].spans[1:]]
    secret = corpus.samples[0].secret({"email"})
    assert email.samples[0].secret().targets(-100) == secret.targets(-100)
    assert corpus.of_category("phone").used == (0, 1)
    with pytest.raises(DataError, match="no personal data of category 'card'"):
        corpus.of_category("card")
