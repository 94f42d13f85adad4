"""Cells that are missing (an error) or say nothing (a warning)."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.doctor.case import Case, is_blank
from tunesmith.doctor.finding import Finding, counted


def null(case: Case) -> Iterator[Finding]:
    """A required cell that is null, or not there at all."""
    for part in case.parts.values():
        for name in case.required:
            if name not in part.columns:
                continue  # a file without the column is refused when it is read
            found = [i for i, value in enumerate(part.columns[name]) if value is None]
            if found:
                yield part.finding(
                    "error",
                    "null",
                    found,
                    f"`{name}` is null in {counted(len(found))}",
                    "fill it in or remove the rows",
                )


def empty(case: Case) -> Iterator[Finding]:
    """An input that is there and holds nothing but white space."""
    for part in case.parts.values():
        for name in case.inputs:
            if name not in case.required or name not in part.columns:
                continue
            found = [i for i, value in enumerate(part.columns[name]) if is_blank(value)]
            if found:
                yield part.finding(
                    "warning",
                    "empty",
                    found,
                    f"`{name}` is empty in {counted(len(found))}",
                    "fill it in or remove the rows",
                )


ROW_CHECKS = [null, empty]
