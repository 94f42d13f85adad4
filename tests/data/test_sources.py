"""Reading rows: every format gives the same rows, and what cannot be read is refused with its place."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.cache import store
from tunesmith.data import formats, sources
from tunesmith.errors import DataError, SaveError

COLUMN_FILES = (".conll", ".bio", ".iob", ".iob2")
VIETNAMESE = "Phim này dở quá, không đáng xem đâu"
ROWS = [
    {"text": "plain", "label": "good"},
    {"text": 'with "quotes", commas; semicolons\tand a tab', "label": "bad"},
    {"text": "two\nlines", "label": "good"},
    {"text": unicodedata.normalize("NFC", VIETNAMESE), "label": "dở"},
    {"text": unicodedata.normalize("NFD", VIETNAMESE), "label": "hay"},
    {"text": " spaces around ", "label": "good"},
    {"text": "emoji 🎬 and \u2028 a line separator", "label": "bad"},
]


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    kind = path.suffix
    if kind in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif kind == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path | str, columns: dict[str, str] | None = None) -> list[dict[str, Any]]:
    return sources.read(str(path), columns or {}, ("text", "label"), ("text_pair",)).table.to_list()


@pytest.mark.parametrize("ending", sorted(set(formats.READERS) - set(COLUMN_FILES)))
def test_every_format_gives_the_same_rows(ending: str, tmp_path: Path) -> None:
    assert read(write(tmp_path / f"rows{ending}")) == ROWS


def test_endings_are_read_whatever_their_case(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv").rename(tmp_path / "ROWS.CSV")
    assert read(path) == ROWS


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv"])
def test_a_byte_order_mark_is_not_part_of_the_first_column(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"rows{ending}")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(path) == ROWS


def test_a_semicolon_csv_is_recognised_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text;label\n"a, b";good\nc;bad\n', encoding="utf-8")
    assert read(path) == [{"text": "a, b", "label": "good"}, {"text": "c", "label": "bad"}]


def test_a_comma_csv_keeps_the_semicolons_of_its_cells(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na;b,good\n", encoding="utf-8")
    assert read(path) == [{"text": "a;b", "label": "good"}]


def test_quoted_newlines_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'text,label\r\n"one\r\ntwo",good\r\nthree,bad\r\n')
    assert read(path) == [{"text": "one\r\ntwo", "label": "good"}, {"text": "three", "label": "bad"}]


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ntext,label\n\na,good\n\nb,bad\n\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('\n{"text": "a", "label": "good"}\n\n{"text": "b", "label": "bad"}\n')
    expected = [{"text": "a", "label": "good"}, {"text": "b", "label": "bad"}]
    assert read(tmp_path / "a.csv") == expected
    assert read(tmp_path / "b.jsonl") == expected


def test_a_json_file_may_hold_its_rows_under_one_key(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"version": 2, "data": ROWS}), encoding="utf-8")
    assert read(path) == ROWS


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "text": st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1),
                "label": st.sampled_from(["good", "bad", "dở"]),
            }
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet"]),
)
def test_any_text_survives_any_format(tmp_path: Path, rows: list[dict[str, Any]], ending: str) -> None:
    assert read(write(tmp_path / f"any{ending}", rows)) == rows


# ---- columns


def test_columns_are_mapped_and_the_others_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"review": "fine", "stars": 4, "id": 7}])
    assert read(path, {"text": "review", "label": "stars"}) == [{"text": "fine", "label": 4}]


@pytest.mark.parametrize("first", ["text", "label"])
def test_columns_can_be_swapped(first: str, tmp_path: Path) -> None:
    row = {"text": "good", "label": "a fine film"}
    ordered = {first: row[first], **row}
    assert read(write(tmp_path / "a.csv", [ordered]), {"text": "label", "label": "text"}) == [
        {"text": "a fine film", "label": "good"}
    ]


def test_a_column_named_like_the_task_s_does_not_shadow_the_mapping(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "an id", "review": "fine", "label": "good"}])
    assert read(path, {"text": "review"}) == [{"text": "fine", "label": "good"}]


def test_optional_columns_are_taken_when_they_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "a", "text_pair": "b", "label": 1}])
    assert read(path) == [{"text": "a", "label": 1, "text_pair": "b"}]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": "revew"}, ["no column `revew`", "`review`", "`stars`", "--columns text=review"]),
        ({}, ["no column `text`", "`review`", "`stars`", "--columns text="]),
        ({"body": "review"}, ["no column `body`", "text, label, text_pair"]),
        ({"text": "review", "label": "review"}, ["`review`", "`text`", "`label`"]),
        ({"text": "review", "label": "stars", "text_pair": "other"}, ["no column `other`"]),
    ],
)
def test_a_wrong_mapping_is_refused(columns: dict[str, str], words: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"review": "fine", "stars": 4}])
    with pytest.raises(DataError) as error:
        read(path, columns)
    assert all(word in str(error.value) for word in words), str(error.value)


# ---- what cannot be read names its place


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', ["line 2", "not valid JSON"]),
        ("a.jsonl", b'{"text": "a", "label": 1}\n\n["a", 1]\n', ["line 3", "object", "list"]),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "\xe1", "label": 1}\n', ["not UTF-8", "line 2", "0xe1"]),
        ("a.csv", b"text,label\na,1\nb\xff,2\n", ["not UTF-8", "line 3", "0xff"]),
        ("a.json", b"\xff\xfe[", ["is UTF-16 text", "iconv"]),
        ("a.json", b'{"a": 1}', ["list of objects", "is an object"]),
        ("a.json", b'[{"text": "a", "label": 1}, 5]', ["row 2", "object"]),
        ("a.csv", b"text,label\na,1\nb,2,3\n", ["row 2", "line 3", "3 cells", "header has 2"]),
        ("a.csv", b"text,label\na\n", ["row 1", "1 cells"]),
        ("a.csv", b"text,text,label\na,b,1\n", ["`text` twice"]),
        ("a.csv", b'text,label\na,1\nb,"2\nc,3\n', ["line 4", "quotes"]),
        ("a.csv", b"text,label\n", ["no rows"]),
        ("a.csv", b"\xef\xbb\xbf", ["no rows"]),
        ("a.csv", b"", ["is empty"]),
        ("a.jsonl", b"\n\n", ["no rows"]),
        ("a.json", b"[]", ["no rows"]),
        ("a.parquet", b"PAR1 not really", ["cannot be read as parquet"]),
        ("a.xlsx", b"PK", ["`.xlsx`", ".csv"]),
        ("a.jsonl", b'{"text": null, "label": 1}\n', ["row 1", "`text` is null"]),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"}\n{"text": "c"}', ["row 2", "`label` is null", "1 more"]),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n', ["row 2", "`label`", "str", "int"]),
        ("a.jsonl", b'{"text": "a", "label": 99999999999999999999999}\n', ["row 1", "`label`"]),
        ("a.jsonl", b'{"text": "ok", "label": 1}\n{"text": "\\ud83d", "label": 1}\n', ["row 2", "`text`"]),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    name: str, content: bytes, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read(tmp_path / name)
    assert name in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_type_that_changes_after_many_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 1}\n' * 10_000 + '{"text": "a", "label": "x"}\n')
    with pytest.raises(DataError, match="one type in a column"):
        read(path)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "reviews.csv")
    with pytest.raises(DataError) as error:
        read(tmp_path / "review.csv")
    assert "no file" in str(error.value)
    assert "reviews.csv" in str(error.value)


def test_a_folder_is_no_data_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


def test_a_file_that_may_not_be_read_is_the_user_s_to_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store, "file_sha256", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        read(write(tmp_path / "a.csv"))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "one", "label": 1}])
    before = sources.read(str(path), {}, ("text", "label"))
    write(path, [{"text": "two", "label": 1}])
    after = sources.read(str(path), {}, ("text", "label"))
    assert after.table["text"][0] == "two"
    assert before.sha256 != after.sha256


def test_the_hash_follows_content_and_mapping_not_the_name(tmp_path: Path) -> None:
    a = sources.read(str(write(tmp_path / "a.jsonl")), {}, ("text", "label"))
    b = sources.read(str(write(tmp_path / "b.jsonl")), {}, ("text", "label"))
    swapped = sources.read(str(tmp_path / "b.jsonl"), {"text": "label", "label": "text"}, ("text", "label"))
    assert a.sha256 == b.sha256 != swapped.sha256


def test_row_numbers_survive_selections(tmp_path: Path) -> None:
    rows = sources.read(str(write(tmp_path / "a.jsonl")), {}, ("text", "label"))
    part = rows.select([4, 2, 6], "x").select([1, 2], "y")
    assert [part.number(i) for i in range(2)] == [3, 7]
    assert part.where(1) == f"{rows.source}, row 7"
    assert part.table["text"][1] == ROWS[6]["text"]


# ---- Python objects


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(ROWS, id="list"),
        pytest.param(tuple(ROWS), id="tuple"),
        pytest.param((row for row in ROWS), id="generator"),
        pytest.param(pd.DataFrame(ROWS), id="frame"),
        pytest.param(Dataset.from_list(ROWS), id="dataset"),
    ],
)
def test_objects_give_the_rows_that_a_file_gives(data: Any, tmp_path: Path) -> None:
    assert read(sources.write_objects(data, tmp_path / "new" / "rows.jsonl")) == ROWS


def test_numpy_cells_become_plain_values(tmp_path: Path) -> None:
    data = [{"text": np.str_("a"), "label": [np.int64(3), np.int64(4)]}, {"text": "b", "label": np.asarray([1])}]
    assert read(sources.write_objects(data, tmp_path / "a.jsonl")) == [
        {"text": "a", "label": [3, 4]},
        {"text": "b", "label": [1]},
    ]


@pytest.mark.parametrize("dtype", ["Int64", "float64", "object"])
def test_a_missing_cell_of_a_frame_is_null(dtype: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.array([1, None], dtype=dtype)})
    path = sources.write_objects(frame, tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="row 2: `label` is null"):
        read(path)


def test_dates_and_other_columns_do_not_stop_a_frame(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["a"], "label": ["x"], "when": [pd.Timestamp("2024-05-01")]})
    assert read(sources.write_objects(frame, tmp_path / "a.jsonl")) == [{"text": "a", "label": "x"}]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (5, "got int"),
        ("a text", "got str"),
        ([{"text": "a"}, ("b", 1)], "row 2"),
        ({"text": ["a"], "label": [1]}, "row 1"),
        ([{"text": object(), "label": 1}], "row 1"),
    ],
)
def test_other_objects_are_refused_and_leave_nothing(data: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        sources.write_objects(data, tmp_path / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_objects_are_written_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(SaveError, match="No space left"):
        sources.write_objects(ROWS, tmp_path / "rows.jsonl")


# ---- subsets


def test_a_subset_is_fixed_and_grows_by_adding(tmp_path: Path) -> None:
    rows = sources.read(
        str(write(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": i % 2} for i in range(50)])),
        {},
        ("text", "label"),
    )
    ten, twenty = sources.subset(rows, 10, "train"), sources.subset(rows, 20, "train")
    assert len(ten) == 10
    assert set(ten.table["text"]) < set(twenty.table["text"])
    assert list(ten.table["text"]) == list(sources.subset(rows, 10, "train").table["text"])
    assert list(ten.table["text"]) != [f"t{i}" for i in range(10)], "the first rows of a sorted file are no sample"
    assert sources.subset(rows, 50, "train") is rows
    assert sources.subset(rows, None, "train") is rows
