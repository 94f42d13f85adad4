"""Short texts with a human sentiment rating, from the archive of Hutto and Gilbert, ICWSM 2014 (VADER).

Each file has three tab-separated columns: id, mean rating of some twenty people in -4..4, text. A rating between the
two thresholds is nobody's clear opinion, so those rows are dropped from the two-class data.

The movie file lists its positive texts first, then its negative ones, and we keep the file's order: shuffle, or split
by content, before taking a head of it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from tunesmith.assets.archive import tar_bytes
from tunesmith.assets.rows import Dropped, Row, RowReader

POSITIVE_FROM = 0.5
NEGATIVE_TO = -0.5
_INNER = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"


def ratings(filename: str) -> RowReader:
    """A reader of one `*_GroundTruth.txt` of the archive."""

    def read(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
        inner = io.BytesIO(tar_bytes(archives[0], _INNER))
        content = tar_bytes(inner, f"hutto_ICWSM_2014/{filename}").decode("utf-8")
        for line in content.replace("\r\n", "\n").split("\n"):
            if line:
                yield _row(line)

    return read


def _row(line: str) -> Row | Dropped:
    fields = line.split("\t")
    if len(fields) != 3:
        return Dropped("not three columns")
    number, rating, text = fields
    score = float(rating)
    if NEGATIVE_TO < score < POSITIVE_FROM:
        return Dropped(f"mean rating between {NEGATIVE_TO} and {POSITIVE_FROM}")
    label = "positive" if score > 0 else "negative"
    return {"text": text.strip(), "label": label, "score": score, "id": number}
