"""From a stream of rows to one JSONL file, counting what was kept and why the rest was dropped."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import AssetError

Row = dict[str, Any]
RowReader = Callable[[Sequence[Path]], Iterable["Row | Dropped"]]
Converter = Callable[[Sequence[Path], Path], dict[str, Any]]


@dataclass(frozen=True)
class Dropped:
    """A row of the source that cannot be used, and why; the reasons are counted in `about.json`."""

    why: str


def jsonl(filename: str, read: RowReader, *, at_least: int = 1) -> Converter:
    """A converter that writes what `read` yields to `filename` and reports the counts.

    Args:
        filename: of the JSONL file.
        read: the rows of the downloaded files.
        at_least: rows below which the source has changed its shape; for sources that no sha256 pins.
    """

    def convert(archives: Sequence[Path], into: Path) -> dict[str, Any]:
        kept = 0
        dropped: Counter[str] = Counter()
        with (into / filename).open("w", encoding="utf-8", newline="\n") as file:
            for row in read(archives):
                reason = row.why if isinstance(row, Dropped) else _blank(row)
                if reason:
                    dropped[reason] += 1
                    continue
                file.write(_line(row))
                kept += 1
        if kept < at_least:
            raise AssetError(
                f"{kept or 'no'} usable rows came out for {filename}, expected at least {at_least} "
                f"(dropped: {dict(dropped)}); the package is not the one we know."
            )
        return {"rows": {"kept": kept, "dropped": dict(sorted(dropped.items()))}}

    return convert


def by_hash(rows: Iterable[Row], key: str, salt: str = "") -> list[Row]:
    """Rows in the order of a hash of one column: the same everywhere, and any head of them is a fair mixture."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{salt}{row[key]}".encode()).digest())


def _blank(row: Row | Dropped) -> str:
    assert isinstance(row, dict)
    for column, value in row.items():
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            return f"empty {column}"
    return ""


def _line(row: Row | Dropped) -> str:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    # Python's str.splitlines also cuts at these three; escaped, one row is one line for every reader.
    for mark in "\x85\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text + "\n"
