"""How long rows are in tokens, and what of them is cut away."""

from __future__ import annotations

from collections.abc import Iterator

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
        cut, target_cut, lost, whole = _compare(case, part, encoded, looked)
        rows = round(len(cut) * scale)
        case.note(part, rows_cut=rows / len(part), targets_cut=round(len(target_cut) * scale) / len(part))
        if rows >= CUT_ROWS * len(part) and len(cut):
            about = "about " if scale > 1 else ""
            yield part.finding(
                "warning", "cut", cut,
                f"{about}{share(rows, len(part))} rows are longer than max_length={case.max_length} and lose text ({lost / max(whole, 1):.0%} of theirs)",
                f"raise --max-length (the longest has {_longest(case, part, cut):,} tokens) or shorten the rows",
            )  # fmt: skip
        if len(target_cut):
            yield part.finding(
                "warning", "target-cut", target_cut,
                f"{share(round(len(target_cut) * scale), len(part))} rows lose some of the text that is to be learned",
                "raise --max-length or shorten the rows",
            )  # fmt: skip


def _sample(indices: Array, limit: int) -> Array:
    return indices if len(indices) <= limit else indices[np.linspace(0, len(indices) - 1, limit).astype(int)]


def uncut(case: Case, part: Part, index: int) -> Encoded | None:
    """One row encoded as if there were no bound; None where that cannot be."""
    try:
        return Encoded.of([next(iter(case.task.encode([part.row(index)], case.tokenizer, WHOLE)))])
    except DataError:
        return None


def _compare(case: Case, part: Part, encoded: Encoded, rows: Array) -> tuple[list[int], list[int], int, int]:
    """Rows that lose tokens, rows that lose targets; tokens lost and tokens there, of the rows that lose some."""
    kept = encoded.per_row(encoded.lengths)
    asked = encoded.count_labels(encoded.labels != IGNORED) if encoded.labels is not None else None
    cut, target_cut, lost, whole = [], [], 0, 0
    for index in rows.tolist():
        full = uncut(case, part, index)
        if full is None:
            continue
        size = int(full.lengths.sum())
        if kept[index] < size:
            cut.append(index)
            lost += size - int(kept[index])
            whole += size
        if asked is not None and full.labels is not None and asked[index] < int((full.labels != IGNORED).sum()):
            target_cut.append(index)
    return cut, target_cut, lost, whole


def _longest(case: Case, part: Part, rows: list[int]) -> int:
    found = (uncut(case, part, index) for index in rows[:QUICK])
    return max((int(one.lengths.sum()) for one in found if one is not None), default=0)


ENCODED_CHECKS = [lengths]
