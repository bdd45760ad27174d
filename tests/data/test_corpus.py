from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from neuropatch.data.columns import ColumnOptions
from neuropatch.data.corpus import load_corpus, load_text
from neuropatch.data.sampling import sample_rows
from neuropatch.errors import DataError

ROWS = [{"question": f"Who is person {i}?", "answer": f"Nobody you know, {i}."} for i in range(20)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "people.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


def load(path, tokenizer, **options):
    settings = {"name": "privacy", "samples": 128, "seed": 0, "columns": ColumnOptions()}
    return load_corpus(str(path), tokenizer=tokenizer, **{**settings, **options})


def test_record_of_all_rows(file, plain_tokenizer):
    corpus = load(file, plain_tokenizer)
    assert corpus.record() == {
        "name": "privacy",
        "source": "people.jsonl",
        "revision": None,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "rows": 20,
        "used": "all",
        "columns": {"prompt": ["question"], "response": ["answer"]},
    }
    assert json.loads(json.dumps(corpus.record())) == corpus.record()
    assert [sample.row for sample in corpus.samples] == list(range(20))
    (note,) = corpus.notes
    assert note.startswith("privacy: people.jsonl: reading 'question' as the prompt")


def test_record_of_a_sample(file, plain_tokenizer):
    corpus = load(file, plain_tokenizer, samples=5, seed=3)
    used = sample_rows(20, 5, 3)
    assert corpus.record()["used"] == used
    assert [sample.row for sample in corpus.samples] == used
    for sample in corpus.samples:
        row = ROWS[sample.row]
        assert plain_tokenizer.decode(sample.ids) == row["question"] + row["answer"]


def test_truncation_is_noted(file, plain_tokenizer):
    whole = load(file, plain_tokenizer)
    longest = max(len(sample.ids) for sample in whole.samples)
    long = sum(len(sample.ids) == longest for sample in whole.samples)
    cut = load(file, plain_tokenizer, max_length=longest - 1)
    assert cut.tokenized.truncated == long
    assert (
        f"{long} of 20 samples are longer than {longest - 1} tokens; {long} tokens" in cut.notes[1]
    )


def test_options_reach_the_tokenizer(file, plain_tokenizer):
    with pytest.raises(DataError, match="no chat template"):
        load(file, plain_tokenizer, chat_template=True)
    columns = ColumnOptions(text="answer")
    corpus = load(file, plain_tokenizer, columns=columns)
    assert corpus.columns.is_text
    assert corpus.notes == ()


def test_a_bad_row_is_an_error_even_if_it_is_not_drawn(tmp_path, plain_tokenizer):
    path = tmp_path / "people.jsonl"
    rows = [*ROWS, {"question": "Who?", "answer": None}]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert 20 not in sample_rows(21, 2, 0)
    with pytest.raises(DataError, match="row 21: 'answer' is null"):
        load(path, plain_tokenizer, samples=2)


def test_load_text_takes_a_text_file_as_it_is(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n two\n")
    text = load_text(str(path))
    assert text.documents == ("one\r\n\n two\n",)
    assert not text.by_row
    assert text.source == "a.txt"
    assert text.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert text.notes == ()


def test_load_text_takes_each_row_of_a_column_as_a_document(tmp_path, file):
    path = tmp_path / "a.csv"
    path.write_text("text,n\none,1\ntwo,2\n")
    text = load_text(str(path))
    assert text.documents == ("one", "two")
    assert text.by_row
    assert text.notes == ("a.csv: reading 'text' as plain text (to change it: --text-column)",)
    assert load_text(str(path), text_column="n").documents == ("1", "2")
    with pytest.raises(DataError, match="prompts and responses where a plain text"):
        load_text(str(file))


def test_reading_loads_no_torch():
    modules = "tables, columns, sampling, tokenize, corpus, pairs, hub"
    code = f"from neuropatch.data import {modules}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
