"""Rows of a data set one after the other, never all of them in memory, as their file has them.

Rows are read twice: a survey finds everything that can be wrong with them before any work is done on the first one, and then
they are handed out. A table (`data.sources`) is for rows that are read again and again; this is for rows that pass by once.
Only `.json`, which is one value, is held whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.console import counted
from tunesmith.data import sources
from tunesmith.data.formats import records
from tunesmith.errors import DataError, called

MESSAGES = "chat messages"
BLOCK = 1000  # rows of a hub data set taken at a time, and between two steps of a progress bar


@dataclass
class Column:
    """What a survey saw of a column.

    Attributes:
        null: number of the first row in which it is null or missing.
        nested: number of the first row in which it is a list or an object, and what it is there ("chat messages" among it).
    """

    null: int | None = None
    nested: tuple[int, str] | None = None


@dataclass
class Survey:
    """How many rows there are, and their columns."""

    count: int = 0
    columns: dict[str, Column] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        """Look at the next row."""
        self.count += 1
        for name, value in row.items():
            if name not in self.columns:  # the rows before did not have it
                self.columns[name] = Column(null=1 if self.count > 1 else None)
            column = self.columns[name]
            if value is None:
                column.null = column.null or self.count
            elif column.nested is None and isinstance(value, (list, tuple, dict, bytes)):
                column.nested = (self.count, _kind(value))
        if len(row) < len(self.columns):
            for name, column in self.columns.items():
                if name not in row:
                    column.null = column.null or self.count


def _kind(value: Any) -> str:
    messages = (
        isinstance(value, list) and value and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in value)
    )
    return MESSAGES if messages else called(value)


class RowStream:
    """The rows of a file, an asset or a hub data set; every iteration begins anew.

    Args:
        spec: a file, `asset:NAME`, or a hub id as `name` or `name:split`.
        plain: how a plain text file is read ("lines", "conll"), if it can be.

    Raises:
        DataError: there is no such data.
    """

    def __init__(self, spec: str, plain: str | None = None) -> None:
        self.spec, self.file = spec, sources.data_file(spec, plain)
        self.table = None if self.file else sources.open_table(spec, plain)[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.file is not None:
            try:
                yield from records(*self.file, self.spec)
            except OSError as error:
                raise DataError(
                    f"cannot read `{self.spec}`: {error.strerror or error}; check the file and its permissions."
                ) from error
            return
        assert self.table is not None
        for start in range(0, len(self.table), BLOCK):
            block = self.table[start : start + BLOCK]
            yield from (dict(zip(block, values, strict=True)) for values in zip(*block.values(), strict=True))

    def survey(self) -> Survey:
        """Look at all rows.

        Raises:
            DataError: a row cannot be read or written again, or there is none.
        """
        found = Survey()
        with counted("look at the rows", None) as advance:
            for row in self:
                found.add(row)
                try:
                    line_of(row)
                except UnicodeEncodeError as error:
                    raise DataError(
                        f"`{self.spec}`, row {found.count} holds half a character (a lone surrogate such as \\ud83d); mend or remove the row."
                    ) from error
                if found.count % BLOCK == 0:
                    advance(BLOCK)
        if not found.count:
            raise DataError(f"`{self.spec}` holds no rows; give a file with at least one row of data.")
        return found


def line_of(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON.

    Raises:
        UnicodeEncodeError: a text in it is none.
    """
    return (json.dumps(row, ensure_ascii=False, default=str) + "\n").encode()


class Digest:
    """Hash of the rows that went by, however their file is called and whatever follows them."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()

    def add(self, row: Mapping[str, Any]) -> None:
        """The next row."""
        self._sum.update(line_of(row))

    @property
    def value(self) -> str:
        """Of all rows so far."""
        return self._sum.hexdigest()
