"""Malformed files, whatever the task: JSON, CSV and Parquet that cannot be read, and columns under other names."""

from __future__ import annotations

import gzip
import io
import json
import unicodedata
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bad_inputs.world import Args, World, bad, case, refused

TASK = "language-modeling"
GOOD = {"text": "the film was good and slow"}
COLUMN = "văn bản"


def parquet(**columns: Any) -> bytes:
    """A Parquet file."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


WHOLE = parquet(text=["a good film"] * 100)

CASES = [
    # ---- JSON
    bad("a number", "3", "list of objects", "is a number", '[{"text": ...}, ...]', file="a.json"),
    bad("null", "null", "list of objects", "is null", file="a.json"),
    bad("one object", '{"text": "a film"}', "list of objects", "is an object", file="a.json"),
    bad("texts in a list", '["a", "b"]', "row 1 must be an object", "is text", file="a.json"),
    bad("columns instead of rows", '{"text": ["a film", "b film"]}', "row 1 must be an object", file="a.json"),
    bad("objects a line named .json", [GOOD, GOOD], "not valid JSON", "line 2", "name it .jsonl", file="a.json"),
    bad("no rows", "[]", "holds no rows", file="a.json"),
    bad("brackets without end", "[" * 100_000, "nested too deep", file="a.json"),
    bad("number of 5,000 digits", [f'{{"text": "a", "n": 1{"0" * 5000}}}'], "line 1 is not valid JSON", "4300 digits", "mend or remove"),
    bad("number of 5,000 digits in .json", f'[{{"n": 1{"0" * 5000}}}]', "not valid JSON", "4300 digits", file="a.json"),
    bad("lists in lists in lists", [f'{{"text": {"[" * 500}{"]" * 500}}}'], "`text`", "nested more than 32 deep", "flatten"),
    bad("lists in lists without end", [f'{{"text": {"[" * 20_000}{"]" * 20_000}}}'], "line 1", "nested too deep"),
    bad("single quotes", ["{'text': 'a'}"], "line 1 is not valid JSON", "double quotes"),
    bad("comma after a row", ['{"text": "a"},', '{"text": "b"}'], "line 1 is not valid JSON", "mend or remove"),
    bad("one list named .jsonl", '[{"text": "a"},\n{"text": "b"}]\n', "line 1", "name it .json if the whole file is one list"),
    bad("row that is a text", [GOOD, '"text"'], "line 2 must be an object", "is text", "one object a line"),
    bad("rows without a column", ["{}", "{}"], "holds no rows"),
    bad("column without a name", ['{"": "a film"}'], "no column `text`", "without a name"),
    bad("huge number in another column", ['{"text": "a", "n": 1' + "0" * 30 + "}"], "row 1", "`n`", "too large"),
    bad("another column that changes its type", [{**GOOD, "n": 1}, {**GOOD, "n": "x"}], "row 2", "`n`", "str", "int", "one type"),
    bad("UTF-16", json.dumps(GOOD).encode("utf-16"), "is UTF-16 text", "iconv -f UTF-16"),
    bad("packed file", gzip.compress(b"text\nthe film\n" * 40), "take the text out", file="a.csv"),
    # ---- CSV
    bad("quote without end", 'text\n"abc\ndef\n', "line 3", "check its quotes", file="a.csv"),
    bad("cells without a header for them", "text,,\na,b,c\n", "several columns without a name", file="a.csv"),
    bad("no header", "the film was good\nthe book\n", "no column `text`", '--columns "text=the film was good"', file="a.csv"),
    bad("half a letter in a column's name", '{"text": "a", "lab\\ud800el": 1}\n', "row 1", "column name", "holds a letter that is none"),
    bad("too few cells", "text,label\na\n", "row 1 (line 2)", "1 cells", "header has 2", file="a.csv"),
    bad("NUL byte", b"text\nab\x00c\n", "line 2", "NUL byte", file="a.csv"),
    # ---- Parquet
    bad("text named .parquet", "hello", "cannot be read as parquet", "write or download it again", file="a.parquet"),
    bad("cut Parquet", WHOLE[:-20], "cannot be read as parquet", "magic bytes", file="a.parquet"),
    bad("Parquet with a flipped page", WHOLE[:10] + b"\xff" * 6 + WHOLE[16:], "cannot be read as parquet", "again", file="a.parquet"),
    bad("Parquet whose names are no text", WHOLE.replace(b"text", b"te\xe9t"), "cannot be read as parquet", "again", file="a.parquet"),
    bad("Parquet without rows", parquet(text=pa.array([], pa.string())), "holds no rows", file="a.parquet"),
    bad("bytes as text", parquet(text=[b"a film"]), "row 1", "`text` is a bytes", "must be text", file="a.parquet"),
    # ---- Vietnamese names of files and columns
    case(
        "row of a file with a Vietnamese name",
        lambda w: w.on(unicodedata.normalize("NFD", "dữ liệu.jsonl"), [GOOD, {"text": None}]),
        "row 2", "`text` is null", unicodedata.normalize("NFD", "dữ liệu.jsonl"),
    ),
    case(
        "null in a column with a Vietnamese name in another form",
        lambda w: w.train(
            "--task", TASK, "--columns", f"text={unicodedata.normalize('NFD', COLUMN)}",
            train=w.write("a.jsonl", [{COLUMN: "phim hay"}, {COLUMN: None}]),
        ),
        "a.jsonl, row 2", "`text` is null",
    ),
    bad("Vietnamese column that must be mapped", [{COLUMN: "phim hay"}], "no column `text`", f"`{COLUMN}`", f'--columns "text={COLUMN}"'),
]  # fmt: skip


@pytest.mark.parametrize(("args", "words", "code", "lines"), CASES)
def test_refused(
    args: Callable[[Any], Args], words: tuple[str, ...], code: int, lines: int, world: World, cli: Any, monkeypatch: Any
) -> None:
    refused(args, words, code, lines, world, cli, monkeypatch)
