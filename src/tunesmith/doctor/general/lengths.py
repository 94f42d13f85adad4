"""How long rows are in tokens, and what of them is cut away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from tunesmith.doctor.case import IGNORED, Array, Case, Encoded, Part
from tunesmith.doctor.finding import Finding, share
from tunesmith.errors import DataError

WHOLE = 1_000_000  # tokens; no row is longer
CUT_ROWS = 0.01  # share of rows from which cutting is worth a warning
QUICK, ALL = 100, 20_000  # rows that are tokenised once more, uncut


def lengths(case: Case) -> Iterator[Finding]:
    """Percentiles, rows that lose text, and rows that lose some of what is to be learned."""
    if case.task is None or case.max_length is None:
        return
    for part in case.parts.values():
        encoded = part.encoded
        if encoded is None or not len(encoded.lengths):
            continue
        longest = np.zeros(encoded.rows, np.int64)
        np.maximum.at(longest, encoded.owner, encoded.lengths)
        p50, p90, p99 = np.percentile(longest, [50, 90, 99]).round().astype(int).tolist()
        case.note(part, tokens={"p50": p50, "p90": p90, "p99": p99, "max": int(longest.max())})
        if not case.cuts:
            continue
        # A decoder keeps room for what it will write, so that a cut row can be shorter than max_length.
        suspects = np.flatnonzero(longest >= case.max_length // 2)
        looked = _sample(suspects, QUICK if case.quick else ALL)
        scale = len(suspects) / max(len(looked), 1)
        found = _compare(case, part, encoded, looked)
        rows, targets = round(len(found.cut) * scale), round(len(found.target_cut) * scale)
        case.note(part, rows_cut=rows / len(part), targets_cut=targets / len(part))
        about = "about " if scale > 1 else ""
        if found.cut and rows >= CUT_ROWS * len(part):
            yield part.finding(
                "warning", "cut", found.cut,
                f"{about}{share(rows, len(part))} rows are longer than max_length={case.max_length} and lose text ({found.lost / found.whole:.0%} of theirs)",
                f"raise --max-length (the longest has {found.longest:,} tokens) or shorten the rows", rows,
            )  # fmt: skip
        if found.target_cut:
            yield part.finding(
                "warning", "target-cut", found.target_cut,
                f"{about}{share(targets, len(part))} rows lose some of the text that is to be learned",
                "raise --max-length or shorten the rows", targets,
            )  # fmt: skip


@dataclass
class Cut:
    """What some rows lose: which of them, tokens lost and tokens there in those, the longest of them."""

    cut: list[int] = field(default_factory=list)
    target_cut: list[int] = field(default_factory=list)
    lost: int = 0
    whole: int = 0
    longest: int = 0


def _sample(indices: Array, limit: int) -> Array:
    return indices if len(indices) <= limit else indices[np.linspace(0, len(indices) - 1, limit).astype(int)]


def uncut(case: Case, part: Part, index: int) -> Encoded | None:
    """One row encoded as if there were no bound; None where that cannot be."""
    try:
        return Encoded.of([next(iter(case.task.encode([part.row(index)], case.tokenizer, WHOLE)))])
    except DataError:
        return None


def _compare(case: Case, part: Part, encoded: Encoded, rows: Array) -> Cut:
    """What rows lose, by encoding them once more without a bound."""
    kept = encoded.per_row(encoded.lengths)
    asked = encoded.count_labels(encoded.labels != IGNORED) if encoded.labels is not None else None
    found = Cut()
    for index in rows.tolist():
        full = uncut(case, part, index)
        if full is None:
            continue
        size = int(full.lengths.sum())
        if kept[index] < size:
            found.cut.append(index)
            found.lost += size - int(kept[index])
            found.whole += size
            found.longest = max(found.longest, size)
        if asked is not None and full.labels is not None and asked[index] < int((full.labels != IGNORED).sum()):
            found.target_cut.append(index)
    return found


ENCODED_CHECKS = [lengths]
