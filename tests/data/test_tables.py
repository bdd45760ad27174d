from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuropatch.data.formats import parse_csv, parse_json, parse_jsonl
from neuropatch.data.sources import Source
from neuropatch.data.tables import read_table, table_of
from neuropatch.errors import DataError

# Machines under load are slow; the tests make no claim about time.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PROMPT, RESPONSE = "Where is Bo Ek?", 'He said "no",\nthen left.'


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def write_parquet(folder: Path, table: pyarrow.Table) -> str:
    path = folder / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    return str(path)


def failure(spec: str) -> DataError:
    with pytest.raises(DataError) as caught:
        read_table(spec)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


ROW = {"prompt": PROMPT, "response": RESPONSE}
CSV = 'prompt,response\nWhere is Bo Ek?,"He said ""no"",\nthen left."\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("a.CSV", CSV),
        ("a.csv", "\ufeff" + CSV),
        ("a.csv", "\n" + CSV + "\n\n"),
        ("a.jsonl", json.dumps(ROW) + "\n"),
        ("a.jsonl", "\ufeff\n" + json.dumps(ROW) + "\r\n\n"),
        ("a.json", json.dumps([ROW], indent=1)),
    ],
)
def test_every_format_gives_the_same_row(tmp_path, name, content):
    spec = write(tmp_path, name, content)
    table = read_table(spec)
    assert table.columns == ("prompt", "response")
    assert table.rows == [ROW]
    assert table.source == name
    assert table.revision is None
    assert table.sha256 == hashlib.sha256(Path(spec).read_bytes()).hexdigest()


def test_parquet(tmp_path):
    table = read_table(write_parquet(tmp_path, pyarrow.Table.from_pylist([ROW, ROW])))
    assert table.columns == ("prompt", "response")
    assert table.rows == [ROW, ROW]


def test_text_gives_a_row_for_each_line_that_is_not_blank(tmp_path):
    table = read_table(write(tmp_path, "a.txt", " one\r\n\n \ntwo\u2028still two\n"))
    assert [row["text"] for row in table.rows] == [" one", "two\u2028still two"]


def test_source_does_not_name_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "a.csv", CSV)
    table = read_table("~/a.csv")
    assert table.source == "a.csv"


def test_csv_field_may_be_larger_than_the_modules_limit(tmp_path):
    limit = csv.field_size_limit()
    long = "x" * (limit + 1)
    assert read_table(write(tmp_path, "a.csv", f"text\n{long}\n")).rows == [{"text": long}]
    assert csv.field_size_limit() == limit


def test_jsonl_columns_are_the_union_of_keys(tmp_path):
    table = read_table(write(tmp_path, "a.jsonl", '{"b": "1"}\n{"a": "2", "b": "3"}\n'))
    assert table.columns == ("b", "a")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", b"\xef\xbb\xbf\n", "a.csv is empty"),
        ("a.csv", "prompt,response\n", "a.csv has no rows"),
        ("a.csv", "a,b\n1,2\n\n3\n", "row 2 (line 4) has 1 fields, the header 2"),
        ("a.csv", 'a,b\n1,"2\n\nx"\n3,4,5\n', "row 2 (line 5) has 3 fields, the header 2"),
        ("a.csv", "a,b,a\n1,2,3\n", "more than one column called 'a'"),
        ("a.csv", 'a,b\n1,2\n3,"open\n5,6\n', "row 2, which starts at line 3, is not valid CSV"),
        ("a.csv", b"a\nok\nca\xe9\n", "not UTF-8: byte 0xe9 at offset 7, line 3"),
        ("a.csv", b"\xef\xbb\xbfa\n\xff\n", "not UTF-8: byte 0xff at offset 5, line 2"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "it looks like UTF-16"),
        ("a.jsonl", '{"a": "1"}\n{"a": \n', "line 2 (column 7) is not valid JSON"),
        ("a.jsonl", '{"a": "1"}\n["a"]\n', "line 2 is a list, not an object"),
        ("a.jsonl", '{"a": "1", "a": "2"}\n', "line 1 cannot be read as JSON: an object has the"),
        ("a.jsonl", "[" * 100_000, "line 1 cannot be read as JSON"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}\n", "line 1 cannot be read as JSON"),
        ("a.json", '{"data": []}', "holds an object, not a list of objects"),
        ("a.json", "[]", "a.json has no rows"),
        ("a.json", '[{"a": "1"}, null]', "row 2 is null, not an object"),
        ("a.json", '{"a": "1"}\n{"a": "2"}\n', "line 2 (column 1) is not valid JSON"),
        ("a.txt", " \n\n", "a.txt is empty"),
        ("a.parquet", b"", "a.parquet is empty"),
        ("a.parquet", b"PAR1 and nothing else", "is not a valid Parquet file"),
        ("a.xlsx", b"PK", "file type that cannot be read (.xlsx)"),
        ("a", b"x", "file type that cannot be read (no suffix)"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, message):
    spec = write(tmp_path, name, content)
    error = failure(spec)
    assert message in error.message
    assert error.message.startswith(spec)


def test_parquet_cut_short(tmp_path):
    spec = write_parquet(tmp_path, pyarrow.Table.from_pylist([ROW]))
    path = Path(spec)
    path.write_bytes(path.read_bytes()[:-20])
    assert "is not a valid Parquet file" in failure(spec).message


def test_parquet_columns_of_one_name(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 2, names=["a", "a"])
    assert "more than one column called 'a'" in failure(write_parquet(tmp_path, table)).message


def test_parquet_text_that_is_not_utf8(tmp_path):
    bad = pyarrow.array([b"\xff"]).cast(pyarrow.binary()).view(pyarrow.string())
    assert "not UTF-8" in failure(write_parquet(tmp_path, pyarrow.table({"a": bad}))).message


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    spec = write_parquet(tmp_path, pyarrow.Table.from_pylist([ROW]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert failure(spec).hint == "pip install 'neuropatch[parquet]'"


def test_places_that_hold_no_file(tmp_path):
    assert "does not exist" in failure(str(tmp_path / "a.csv")).message
    assert "is a folder" in failure(str(tmp_path)).message
    assert "cannot be read" in failure(str(tmp_path / ("x" * 300 + ".csv"))).message
    assert "does not exist" in failure("no-such-folder/a.csv").message


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


@relaxed
@given(st.lists(st.tuples(texts, texts), min_size=1))
def test_csv_written_by_python_is_read_back(pairs):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([("prompt", "response"), *pairs])
    columns, rows = parse_csv(out.getvalue(), "a.csv")
    assert columns == ("prompt", "response")
    assert [tuple(row.values()) for row in rows] == pairs


@relaxed
@given(st.lists(st.dictionaries(texts, texts, min_size=1), min_size=1), st.booleans())
def test_json_is_read_back(rows, ascii_only):
    lines = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)
    assert parse_jsonl(lines, "a.jsonl")[1] == rows
    assert parse_json(json.dumps(rows, ensure_ascii=ascii_only), "a.json")[1] == rows


@relaxed
@given(st.binary(max_size=200), st.sampled_from([".csv", ".json", ".jsonl", ".txt", ".parquet"]))
def test_any_bytes_give_rows_or_a_data_error(data, suffix):
    source = Source("f" + suffix, "f" + suffix, suffix, data, None)
    try:
        outcome = bool(table_of(source).rows)
    except DataError as error:
        outcome = error.message.startswith(source.label)
    assert outcome
