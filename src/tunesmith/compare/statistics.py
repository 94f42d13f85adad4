"""From single runs to one honest row a technique: mean, interval, Pareto front, quality for its cost.

The interval answers "how far could the mean move with other seeds?". It covers the seeds (initialisation and row
order), not the choice of evaluation rows, and with three seeds it is wide on purpose: t(0.975, 2) = 4.30.
"""

from __future__ import annotations

import math
import statistics as exact
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

from tunesmith.metrics import LOWER

PARTS = ("strategy", "task", "setting")  # of a run of a stream or grid, beside its technique
POINTS = 100.0  # a fraction of 0.793 is spoken of as 79.3 points
COSTS = ("peak_memory_bytes", "train_seconds", "tokens_per_second", "artifact_bytes")


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and the range that it would fall in; `low`, `high`, `std` are None for one value."""

    mean: float
    low: float | None
    high: float | None
    std: float | None
    n: int


def mean_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """The mean of a few seeds with its Student t interval.

    mean ± t((1 + confidence) / 2, n - 1) · s / √n, with s the sample standard deviation (n - 1 in the denominator).
    The interval assumes that seeds scatter normally; it is not cut at 0 or 1. One value has no interval.

    Source: Student (1908), "The probable error of a mean", Biometrika 6(1).

    Args:
        values: one measurement a seed, in any unit.
        confidence: the share of such intervals that cover the true mean, between 0 and 1.

    Raises:
        ValueError: no values, a value that is not finite, or a confidence outside (0, 1).
    """
    sample = [float(value) for value in values]
    if not sample or not all(map(math.isfinite, sample)):
        raise ValueError(f"an interval needs at least one value and only finite ones; got {sample}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, exclusive; got {confidence}")
    n = len(sample)
    mean = math.fsum(sample) / n
    if n == 1:
        return Interval(mean, None, None, None, 1)
    std = exact.stdev(sample)
    # scipy.special holds the quantile itself; scipy.stats would take half a second to import.
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, (1.0 + confidence) / 2.0)) * std / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, std, n)


def pareto_front(
    costs: Sequence[float | None], qualities: Sequence[float | None], higher_is_better: bool = True
) -> set[int]:
    """The indices that nothing else beats: no other point costs at most as much and is at least as good.

    j dominates i when cost_j <= cost_i and quality_j >= quality_i and one of the two is strict, so equal points stay
    together. A point with None (or a value that is not finite) takes no part.

    Raises:
        ValueError: `costs` and `qualities` differ in length.
    """
    sign = 1.0 if higher_is_better else -1.0
    points = [
        (index, float(cost), sign * float(quality))
        for index, (cost, quality) in enumerate(zip(costs, qualities, strict=True))
        if is_number(cost) and is_number(quality)
    ]
    return {
        i
        for i, cost_i, good_i in points
        if not any(c <= cost_i and g >= good_i and (c < cost_i or g > good_i) for _, c, g in points)
    }


def aggregate(runs: Sequence[Mapping[str, Any]], protocol: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a technique or baseline (and model or strategy, where several are compared), best first, those without a finished seed last.

    Means run over finished seeds only; `n` says how many, `status` is `partial` when some did not finish.
    `quality_per_cost` = sign · 100 · (mean - reference) / (train_seconds / 60): points above the `majority` baseline
    (above the untouched model when there is none) per minute of training, sign = -1 when lower is better.
    Only techniques take part in the Pareto fronts, since baselines do not train the model.
    """
    primary = primary_metric(protocol, runs)
    higher = higher_is_better(protocol, primary)
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        kind, more = run.get("kind", "technique"), tuple(run.get(key) for key in PARTS)
        groups.setdefault((kind, run["technique"], run.get("model"), *more), []).append(run)
    rows = [_row(kind, name, model, members, primary) for (kind, name, model, *_), members in groups.items()]

    reference = reference_row(rows)
    for row in rows:
        row["quality_per_cost"] = _quality_per_cost(row, reference, higher)

    techniques = [row for row in rows if row["kind"] == "technique"]
    qualities = [mean_of(row) for row in techniques]
    for flag, cost in (("pareto_memory", "peak_memory_bytes"), ("pareto_time", "train_seconds")):
        front = pareto_front([row[cost] for row in techniques], qualities, higher)
        for row in rows:
            row[flag] = False
        for index in front:
            techniques[index][flag] = True
    return sort_rows(rows, higher)


def sort_rows(rows: Iterable[Mapping[str, Any]], higher: bool) -> list[dict[str, Any]]:
    """Best first by the mean of the primary metric, then rows without one, then failed, then refused."""

    def key(row: Mapping[str, Any]) -> tuple[int, float]:
        mean = mean_of(row)
        if mean is None:
            return ({"failed": 2, "refused": 3}.get(row["status"], 1), 0.0)
        return (0, -mean if higher else mean)

    return [dict(row) for row in sorted(rows, key=key)]


def primary_metric(protocol: Mapping[str, Any], runs: Iterable[Mapping[str, Any]] = ()) -> str:
    """The metric that rows are ranked by: the protocol's, else the first run's, else `loss`."""
    if protocol.get("primary"):
        return str(protocol["primary"])
    named = ((run.get("metrics") or {}).get("primary") for run in runs)
    return str(next((name for name in named if name), "loss"))


def higher_is_better(protocol: Mapping[str, Any], primary: str) -> bool:
    """Whether more of the primary metric is better; the protocol decides, the metric's name fills in."""
    stated = protocol.get("higher_is_better")
    return primary not in LOWER if stated is None else bool(stated)


def reference_row(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """What "better than nothing" means here: the `majority` baseline, else the untouched model, else None."""
    scored = [row for row in rows if mean_of(row) is not None]
    majority = (row for row in scored if row["kind"] == "baseline" and row["technique"] == "majority")
    untouched = (row for row in scored if row["kind"] == "untouched")
    return next(majority, None) or next(untouched, None)


def mean_of(row: Mapping[str, Any]) -> float | None:
    """The row's mean of the primary metric, None when no seed finished with one."""
    primary = row.get("primary")
    return None if primary is None else float(primary["mean"])


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value can be averaged: a finite int or float, and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _row(kind: str, name: str, model: str | None, members: Sequence[Mapping[str, Any]], primary: str) -> dict[str, Any]:
    ordered = sorted(members, key=lambda run: (run.get("seed") is None, run.get("seed") or 0))
    done = [run for run in ordered if run.get("status") == "finished"]
    measured = [(run.get("metrics") or {}).get("after") or {} for run in done]
    names = dict.fromkeys(metric for after in measured for metric in after)
    metrics = {metric: _summary([after.get(metric) for after in measured]) for metric in names}
    metrics = {metric: summary for metric, summary in metrics.items() if summary is not None}
    costs = [run.get("cost") or {} for run in done]
    trainable = _mean([cost.get("trainable_parameters") for cost in costs])
    total = _mean([cost.get("total_parameters") for cost in costs])
    rates = [float(run["learning_rate"]) for run in done if is_number(run.get("learning_rate"))]
    row: dict[str, Any] = {
        "technique": name,
        **{key: ordered[0][key] for key in PARTS if key in ordered[0]},
        "model": model,
        "kind": kind,
        "status": _status(ordered, done),
        "reason": _reason(ordered),
        "seeds": [run.get("seed") for run in ordered],
        "n": len(done),
        "metrics": metrics,
        "primary": metrics.get(primary),
        "trainable_parameters": None if trainable is None else round(trainable),
        "total_parameters": None if total is None else round(total),
        "trainable_share": trainable / total if trainable is not None and total else None,
        # Seeds share one chosen rate; should they differ, the median is at least a rate near what was used.
        "learning_rate": exact.median(rates) if rates else None,
    }
    kept = [run["forgetting"] for run in done if run.get("forgetting")]
    # Runs retain the same rows; of an untouched model, which measures none, nothing is said.
    row["forgetting"] = (
        {**(_summary([each["change"] for each in kept]) or {}), "metric": kept[0]["metric"]} if kept else None
    )
    for cost in COSTS:
        mean = _mean([entry.get(cost) for entry in costs])
        # A baseline reports 0 where a cost has no meaning (majority trains nothing); 0 would read as measured.
        row[cost] = None if mean == 0 and kind != "technique" else mean
    return row


def _summary(values: Iterable[Any]) -> dict[str, Any] | None:
    kept = [float(value) for value in values if is_number(value)]
    return {**asdict(mean_interval(kept)), "values": kept} if kept else None


def _mean(values: Iterable[Any]) -> float | None:
    kept = [float(value) for value in values if is_number(value)]
    return math.fsum(kept) / len(kept) if kept else None


def _status(members: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]]) -> str:
    if done:
        return "finished" if len(done) == len(members) else "partial"
    return next((s for s in ("refused", "dropped") if all(run.get("status") == s for run in members)), "failed")


def _reason(members: Sequence[Mapping[str, Any]]) -> str | None:
    """Why seeds are missing: one reason as it is, several (or some seeds only) with their seeds in front."""
    lost = [run for run in members if run.get("status") != "finished"]
    by_reason: dict[str, list[str]] = {}
    for run in lost:
        by_reason.setdefault(str(run.get("reason") or "no reason was recorded"), []).append(str(run.get("seed")))
    if not by_reason:
        return None
    if len(by_reason) == 1 and len(lost) == len(members):
        return next(iter(by_reason))
    return "; ".join(f"seed {', '.join(seeds)}: {reason}" for reason, seeds in by_reason.items())


def _quality_per_cost(row: Mapping[str, Any], reference: Mapping[str, Any] | None, higher: bool) -> float | None:
    mean, base = mean_of(row), mean_of(reference) if reference is not None else None
    seconds = row["train_seconds"]
    if mean is None or base is None or not seconds or row["kind"] == "untouched":
        return None
    sign = 1.0 if higher else -1.0
    return sign * POINTS * (mean - base) / (seconds / 60.0)
