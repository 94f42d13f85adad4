"""Rows of unequal length in flat memory-mapped arrays: reading a row is a slice, opening a million rows is free.

    values.npy   all rows' positions one after the other, [positions] or [positions, width]
    offsets.npy  where each row starts, [rows + 1]

A column whose rows all have one value (a label, a score) is stored without offsets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class RaggedColumn:
    """One column: `column[i]` is the row's array (a view into the memory map)."""

    def __init__(self, values: Array, offsets: Array | None) -> None:
        self.values = values
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def __getitem__(self, index: int) -> Array:
        if self.offsets is None:
            return self.values[index]
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> Array:
        """Positions in each row, [rows]."""
        return np.ones(len(self), np.int64) if self.offsets is None else np.diff(self.offsets)


class ListedColumn(RaggedColumn):
    """Rows held in a list, where they are not worth a cache entry."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]

    @property
    def lengths(self) -> Any:
        """Elements of each row."""
        return np.asarray([len(row) for row in self.rows])


class JoinedColumn(RaggedColumn):
    """Several columns one after the other; `shifts` are added to what each of them holds (row numbers)."""

    def __init__(self, columns: Sequence[RaggedColumn], shifts: Sequence[int] | None = None) -> None:
        self.parts = list(columns)
        self.ends = np.cumsum([len(column) for column in self.parts])
        self.shifts = shifts

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Any:
        place = int(np.searchsorted(self.ends, index, side="right"))
        found = self.parts[place][index - (int(self.ends[place - 1]) if place else 0)]
        return found if self.shifts is None else found + self.shifts[place]

    @property
    def lengths(self) -> Array:
        """Positions in each row, [rows]."""
        return np.concatenate([column.lengths for column in self.parts])


class RaggedRows:
    """Named columns of one data set; `rows[i]` is a mapping from column to the row's array."""

    def __init__(self, columns: Mapping[str, RaggedColumn], meta: Mapping[str, Any] | None = None) -> None:
        self.columns = dict(columns)
        self.meta = dict(meta or {})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __getitem__(self, index: int) -> dict[str, Array]:
        return {name: column[index] for name, column in self.columns.items()}

    @property
    def lengths(self) -> Array:
        """Tokens of each row, [rows]."""
        return self.columns["input_ids"].lengths if self.columns else np.zeros(0, np.int64)


def joined(sets: Sequence[RaggedRows], rows: Sequence[int]) -> RaggedRows:
    """The features of several data sets as those of one, whose rows are numbered through.

    Args:
        sets: with the same columns.
        rows: how many rows each data set has.
    """
    shifts = [0, *np.cumsum(rows[:-1]).tolist()]
    columns: dict[str, RaggedColumn] = {
        name: JoinedColumn([each.columns[name] for each in sets], shifts if name == "row" else None)
        for name in sets[0].columns
    }
    return RaggedRows(columns, sets[0].meta)


class RaggedWriter:
    """Append rows, then `close`; keeps one row in memory at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.streams: dict[str, Any] = {}
        self.offsets: dict[str, list[int]] = {}
        self.kinds: dict[str, tuple[str, tuple[int, ...], bool]] = {}

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row; every row must have the same columns."""
        if self.kinds and row.keys() != self.kinds.keys():
            raise ValueError(f"a row has the columns {sorted(row)}, the rows before it {sorted(self.kinds)}")
        for name, value in row.items():
            array = np.asarray(value)
            if name not in self.streams:
                dtype: np.dtype[Any]
                if array.dtype == np.int64 and name != "row":
                    dtype = np.dtype(np.int32)
                else:
                    dtype = array.dtype if array.dtype != np.float64 else np.dtype(np.float32)
                ragged = array.ndim > 0
                self.kinds[name] = (dtype.str, array.shape[1:], ragged)
                self.streams[name] = (self.folder / f"{name}.bin").open("wb")
                self.offsets[name] = [0]
            dtype_name, _, ragged = self.kinds[name]
            self.streams[name].write(np.ascontiguousarray(array, dtype=dtype_name).tobytes())
            if ragged:
                self.offsets[name].append(self.offsets[name][-1] + len(array))

    def close(self, meta: Mapping[str, Any] | None = None) -> None:
        """Write the offsets and the description."""
        for name, stream in self.streams.items():
            stream.close()
            if self.kinds[name][2]:
                np.save(self.folder / f"{name}.offsets.npy", np.asarray(self.offsets[name], np.int64))
        _describe(self.folder, self.kinds, meta)


class RaggedTable:
    """One column whose rows' lengths are known beforehand: `table[i] = row` in any order, then `close`.

    Args:
        folder: where it is written.
        name: of the column.
        lengths: positions of each row, [rows].
        shape: of a position.
        dtype: of what is stored.
    """

    def __init__(self, folder: Path, name: str, lengths: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.folder, self.name, self.shape, self.dtype = folder, name, tuple(shape), np.dtype(dtype)
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.stream = (folder / f"{name}.bin").open(
            "wb"
        )  # a full disk is an error here, where a memory map would crash

    def __setitem__(self, index: int, row: Array) -> None:
        start, end = self.offsets[index : index + 2].tolist()
        if row.shape != (end - start, *self.shape):
            raise ValueError(f"row {index} has shape {row.shape}, not {(end - start, *self.shape)}")
        self.stream.seek(start * math.prod(self.shape) * self.dtype.itemsize)
        self.stream.write(np.ascontiguousarray(row, self.dtype).tobytes())

    def close(self, meta: Mapping[str, Any] | None = None) -> None:
        """Write the offsets and the description."""
        self.stream.close()
        np.save(self.folder / f"{self.name}.offsets.npy", self.offsets)
        _describe(self.folder, {self.name: (self.dtype.str, self.shape, True)}, meta)


def _describe(
    folder: Path, kinds: Mapping[str, tuple[str, tuple[int, ...], bool]], meta: Mapping[str, Any] | None
) -> None:
    description = {
        "columns": {n: {"dtype": d, "shape": list(s), "ragged": r} for n, (d, s, r) in kinds.items()},
        "meta": dict(meta or {}),
    }
    (folder / "rows.json").write_text(json.dumps(description, ensure_ascii=False), encoding="utf-8")


def open_rows(folder: Path) -> RaggedRows:
    """Open what a `RaggedWriter` wrote, memory-mapped."""
    description = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    columns = {}
    for name, kind in description["columns"].items():
        path = folder / f"{name}.bin"
        shape = tuple(kind["shape"])
        if path.stat().st_size == 0:
            values = np.empty((0, *shape), kind["dtype"])
        else:
            values = np.memmap(path, dtype=kind["dtype"], mode="r")
            values = values.reshape(-1, *shape) if shape else values
        offsets = np.load(folder / f"{name}.offsets.npy") if kind["ragged"] else None
        columns[name] = RaggedColumn(values, offsets)
    return RaggedRows(columns, description["meta"])
