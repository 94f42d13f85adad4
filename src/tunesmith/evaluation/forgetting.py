"""The sign of forgetting: positive is lost, whatever the direction of the metric.

    change = before - after     where higher is better (accuracy, F1)
    change = after - before     where lower is better (bits per byte, a loss, a distance)

`before` is the pretrained model, or the run that this one continues; `after` is what was saved, opened again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.metrics import higher_is_better

LOWER = frozenset({"cosine_distance"})


def change(metric: str, before: float, after: float) -> float:
    """How much was forgotten, in the metric's own unit."""
    return after - before if metric in LOWER or not higher_is_better(metric) else before - after


def record(kind: str, source: str, rows: int, sha256: str, before: Mapping[str, float], after: Mapping[str, float], metric: str,
           how: str) -> dict[str, Any]:  # fmt: skip
    """The `forgetting` entry of result.json.

    Args:
        kind: `general text`, `representation` or a task's name.
        source: what the user named.
        rows: how many rows or passages were measured.
        sha256: of them.
        before: metrics before the run.
        after: metrics after it.
        metric: the one that forgetting is told by.
        how: what the metric is, in words.
    """
    further = {
        name: {"before": before[name], "after": after[name]} for name in after if name != metric and name in before
    }
    return {
        "source": source, "kind": kind, "metric": metric, "before": before[metric], "after": after[metric],
        "change": change(metric, before[metric], after[metric]), "sign": "positive = forgotten", "how": how, "rows": rows,
        "sha256": sha256, "further": further,
    }  # fmt: skip


def sentence(found: Mapping[str, Any]) -> str:
    """What was forgotten, for a person."""
    unit = "passages" if found["kind"] in ("general text", "representation") else "rows"
    metric, before, after, moved = found["metric"].replace("_", " "), found["before"], found["after"], found["change"]
    start = f"Retained, {found['source']} ({found['rows']:,} {unit}): {metric} {before:.4f} before, {after:.4f} after; "
    if moved == 0:
        return f"{start}nothing is forgotten."
    if found["kind"] == "representation":
        cka = found["further"]["cka"]["after"]
        return f"{start}its representations moved (linear CKA {cka:.3f}), and no loss can be told without a language-model head."
    share = f" ({moved / abs(before):.1%})" if before and moved > 0 else ""
    return f"{start}{moved:.4f} forgotten{share}." if moved > 0 else f"{start}{-moved:.4f} better than before."
