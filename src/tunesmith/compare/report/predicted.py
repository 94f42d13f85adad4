"""What runs were predicted to take beside what they took: one line a technique, means over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from tunesmith.compare import format as human

HEADS = ["technique", "memory predicted", "measured", "off by", "time predicted", "measured", "off by"]


def predicted(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Cells of each technique that was predicted; none where nothing was."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        cost = run.get("cost") or {}
        known = cost.get("predicted_memory_bytes") is not None or cost.get("predicted_seconds") is not None
        if known and run.get("status") == "finished":
            name = " with ".join(str(each) for each in (run["technique"], run.get("strategy")) if each)
            by_name.setdefault(name, []).append(cost)
    rows = []
    for name, costs in by_name.items():
        cells = [name]
        for before, after, shown in (
            ("predicted_memory_bytes", "peak_memory_bytes", human.in_bytes),
            ("predicted_seconds", "train_seconds", human.seconds),
        ):
            both = [(c[before], c[after]) for c in costs if c.get(before) is not None and c.get(after)]
            if not both:
                cells += [human.MISSING] * 3
                continue
            said, found = mean(each[0] for each in both), mean(each[1] for each in both)
            cells += [shown(said), shown(found), f"{100 * (said / found - 1):+.0f} %"]
        rows.append(cells)
    return rows
