"""What is written comes back: rows of any length, two-dimensional rows, labels, and empty rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.cache.ragged import RaggedWriter, open_rows


def written(rows: list[dict[str, Any]], folder: Path, meta: dict[str, Any] | None = None) -> Any:
    writer = RaggedWriter(folder)
    for row in rows:
        writer.append(row)
    writer.close(meta)
    return open_rows(folder)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 2**31 - 1), max_size=9), st.integers(-5, 5), st.floats(-1e6, 1e6, width=32)),
        min_size=1,
        max_size=12,
    )
)
def test_ids_labels_and_numbers_come_back(content: list[tuple[list[int], int, float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = written(
            [
                {"input_ids": np.asarray(ids, np.int32), "labels": np.int32(label), "score": np.float32(score)}
                for ids, label, score in content
            ],
            Path(folder),
        )
        assert len(rows) == len(content)
        assert rows.lengths.tolist() == [len(ids) for ids, _, _ in content]
        for i, (ids, label, score) in enumerate(content):
            assert rows[i]["input_ids"].tolist() == ids
            assert rows[i]["labels"] == label
            assert rows[i]["score"] == np.float32(score)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_rows_of_vectors_come_back(heights: list[int], width: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    arrays = [generator.standard_normal((height, width)).astype(np.float32) for height in heights]
    with tempfile.TemporaryDirectory() as folder:
        rows = written([{"states": array} for array in arrays], Path(folder))
        assert len(rows) == len(arrays)
        for i, array in enumerate(arrays):
            assert rows[i]["states"].shape == array.shape
            np.testing.assert_array_equal(rows[i]["states"], array)


def test_only_empty_rows(tmp_path: Path) -> None:
    rows = written([{"input_ids": np.zeros(0, np.int32)}] * 3, tmp_path)
    assert rows.lengths.tolist() == [0, 0, 0]
    assert rows[2]["input_ids"].shape == (0,)


def test_no_rows_at_all(tmp_path: Path) -> None:
    assert len(written([], tmp_path)) == 0


def test_types_are_kept_small(tmp_path: Path) -> None:
    """Token ids fit 32 bits and scores need no double; what is smaller already stays as it is."""
    row = {
        "input_ids": np.asarray([1, 2]),
        "types": np.asarray([0, 1], np.int8),
        "score": np.asarray([0.5]),
        "half": np.asarray([1], np.float16),
    }
    rows = written([row], tmp_path)
    kinds = {name: column.values.dtype for name, column in rows.columns.items()}
    assert kinds == {"input_ids": np.int32, "types": np.int8, "score": np.float32, "half": np.float16}


def test_the_description_is_kept(tmp_path: Path) -> None:
    assert written([{"input_ids": np.asarray([1])}], tmp_path, {"tên": [1, "a"]}).meta == {"tên": [1, "a"]}


def test_rows_are_views_of_the_file(tmp_path: Path) -> None:
    """Opening a million rows must not read them."""
    column = written([{"input_ids": np.arange(10)}] * 5, tmp_path).columns["input_ids"]
    assert isinstance(column.values, np.memmap)
    assert np.shares_memory(column[3], column.values)


@pytest.mark.parametrize("second", [{"input_ids": np.asarray([1])}, {"labels": np.int32(1)}])
def test_a_row_without_a_column_of_the_others_is_refused(second: dict[str, Any], tmp_path: Path) -> None:
    """Columns of unequal length would give a row another row's label."""
    writer = RaggedWriter(tmp_path)
    writer.append({"input_ids": np.asarray([1, 2]), "labels": np.int32(0)})
    with pytest.raises(ValueError, match="columns"):
        writer.append(second)
