"""What a check found: how bad it is, in which rows, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["error", "warning"]
NAMED = 5  # rows that a sentence names; --json has more
LISTED = 1000  # row numbers of one finding in --json


@dataclass(frozen=True)
class Finding:
    """One kind of trouble in one file.

    Attributes:
        level: errors stop a run, warnings do not.
        code: a short name that stays the same (`duplicate`).
        role: train, validation or eval.
        source: the file, as the user called it.
        rows: row numbers as a person counts them; none where the file as a whole is meant.
        what: what is wrong, as the end of a sentence that began with the place.
        remedy: what to do.
        estimate: how many rows, where only some were looked at.
    """

    level: Level
    code: str
    role: str
    source: str
    rows: tuple[int, ...]
    what: str
    remedy: str
    estimate: int | None = None

    @property
    def count(self) -> int:
        """How many rows; 0 where the file as a whole is meant."""
        return len(self.rows) if self.estimate is None else self.estimate

    @property
    def sentence(self) -> str:
        """Place, trouble and remedy."""
        place = f"{self.source} ({self.role})" if not self.rows else f"{self.source}, {numbered(self.rows)}"
        return f"{place}: {self.what}; {self.remedy}."

    def as_json(self) -> dict[str, Any]:
        """For programs; `rows` is limited, `count` is not."""
        return {
            "level": self.level,
            "code": self.code,
            "role": self.role,
            "file": self.source,
            "rows": list(self.rows[:LISTED]),
            "count": self.count,
            "message": self.sentence,
            "remedy": self.remedy,
        }


def numbered(rows: Sequence[int]) -> str:
    """`row 3`, `rows 3, 7`, `rows 1, 2, 3, 4, 5 (and 12 more)`."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    more = f" (and {len(rows) - NAMED:,} more)" if len(rows) > NAMED else ""
    return f"rows {', '.join(map(str, rows[:NAMED]))}{more}"


def counted(count: int, word: str = "row") -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def rows_that(count: int, verb: str) -> str:
    """`1 row holds`, `2 rows hold`."""
    singular = "has" if verb == "have" else f"{verb}s"
    return f"{counted(count)} {singular if count == 1 else verb}"


def share(part: int, whole: int) -> str:
    """`12 of 80 (15 %)`."""
    percent = 100 * part / max(whole, 1)
    return f"{part:,} of {whole:,} ({percent:.0f} %)" if percent >= 1 else f"{part:,} of {whole:,} ({percent:.1g} %)"
