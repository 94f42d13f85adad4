"""What the seeds of a stream say of each technique and strategy: means with intervals, paired differences, shares.

A row of a strategy gets, beside what every row has:

    stream          average accuracy, backward and forward transfer, forgetting (all and for each stage) with their intervals, the mean
                    matrix R[i][j], and the strategy's state in numbers and bytes
    against_none    d = mean over seeds of (score with the strategy - score with `none`), the same seeds, with the interval of d: how far a
                    strategy helps. `tie` where that interval holds 0
    recovered       (strategy - none) / (joint - none) of the means of average accuracy: 1 keeps all that learning everything at once keeps
    against_alone   for each task, the same difference to being trained alone; `negative` where the whole interval lies below 0

Pairing takes out what seeds share (the heads they begin with, the order of rows), so it can tell apart what two intervals side by side
cannot. The intervals are Student's, over few seeds, and each is at 95 % by itself: of twenty ties one is expected to look like a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tunesmith.compare.statistics import is_number, mean_interval

Row = dict[str, Any]
Run = Mapping[str, Any]
MEASURES = ("average_accuracy", "backward_transfer", "forward_transfer", "forgetting")
NONE, JOINT, ALONE = "none", "joint", "alone"


def complete(rows: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> list[Row]:
    """The rows of a stream with what only a stream has.

    Args:
        rows: as `statistics.aggregate` made them.
        runs: all runs.
    """
    done = [run for run in runs if run.get("status") == "finished"]
    found = []
    for row in rows:
        mine = [run for run in done if _key(run) == _key(row)]
        more: Row = {}
        if row["kind"] == ALONE:
            more["primary"] = row["metrics"].get(mine[0]["metrics"]["primary"]) if mine else None
        elif mine and mine[0].get("stream"):
            more["stream"] = summarise([run["stream"] for run in mine])
        if row["kind"] == "technique":
            more |= _compared(row, mine, done)
        found.append({**row, **more})
    return sorted(found, key=lambda row: row["kind"] == ALONE)  # stable: reference rows stand last


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(name) for name in ("kind", "technique", "model", "strategy", "task"))


def summarise(streams: Sequence[Mapping[str, Any]]) -> Row:
    """The streams of several seeds as one: means with intervals, and the mean matrix."""
    first = streams[0]
    found: Row = {"stages": first["stages"], "higher_is_better": first["higher_is_better"]}
    for name in MEASURES:
        found[name] = interval(stream.get(name) for stream in streams)
    places = range(len(first.get("forgetting_per_stage") or ()))
    found["forgetting_per_stage"] = [interval(stream["forgetting_per_stage"][j] for stream in streams) for j in places]
    found["matrix"] = [
        [_mean(stream["matrix"][i][j] for stream in streams) for j in range(len(row))]
        for i, row in enumerate(first["matrix"])
    ]
    found["untouched"] = [
        _mean(column) for column in zip(*(stream.get("untouched") or [] for stream in streams), strict=True)
    ]
    if "strategy_bytes" in first:
        found["strategy_parameters"] = _mean(stream["strategy_parameters"] for stream in streams)
        found["strategy_bytes"] = {
            where: _mean(stream["strategy_bytes"][where] for stream in streams) for where in ("memory", "disk")
        }
    return found


def interval(values: Iterable[Any]) -> Row | None:
    """Mean and interval of the numbers among some values; None without one."""
    kept = [float(value) for value in values if is_number(value)]
    return {**asdict(mean_interval(kept)), "values": kept} if kept else None


def paired(mine: Sequence[Run], other: Sequence[Run], read: Callable[[Run], Any], *, sign: float = 1.0) -> Row | None:
    """The mean difference over the seeds that both have, with its interval; `tie` if that holds 0, None with one seed.

    Args:
        mine: runs of one row.
        other: runs of the row it is compared with.
        read: a run's number.
        sign: -1 where less is better: the difference is then what is better about `mine`.
    """
    theirs = {run["seed"]: read(run) for run in other}
    pairs = [(read(run), theirs.get(run["seed"])) for run in mine]
    found = interval(sign * (a - b) for a, b in pairs if is_number(a) and is_number(b))
    if found is None:
        return None
    return {**found, "tie": None if found["low"] is None else bool(found["low"] <= 0 <= found["high"])}


def _compared(row: Mapping[str, Any], mine: Sequence[Run], done: Sequence[Run]) -> Row:
    """Against `none`, against `joint`, against every task alone; of the same technique and model."""
    near = [run for run in done if (run["technique"], run["model"]) == (row["technique"], row["model"])]
    none, joint = ([run for run in near if run.get("strategy") == name] for name in (NONE, JOINT))
    found: Row = {"against_none": None, "recovered": None}
    if mine and none and row["strategy"] != NONE:
        found["against_none"] = {
            name: paired(mine, none, _of_stream(name), sign=-1.0 if name == "forgetting" else 1.0) for name in MEASURES
        }
    if mine and none and joint:
        found["recovered"] = recovered(*(_mean(map(_of_stream(MEASURES[0]), runs)) for runs in (mine, none, joint)))
    alone = [run for run in near if run["kind"] == ALONE]
    if alone and mine:
        tasks = mine[0]["stream"]["tasks"]
        found["against_alone"] = {name: against_alone(name, about, mine, alone) for name, about in tasks.items()}
    return found


def recovered(mine: float | None, none: float | None, joint: float | None) -> float | None:
    """(strategy - none) / (joint - none); None where `joint` is not above `none`, so that there is nothing to recover."""
    if mine is None or none is None or joint is None or joint <= none:
        return None
    return (mine - none) / (joint - none)


def against_alone(name: str, about: Mapping[str, Any], mine: Sequence[Run], alone: Sequence[Run]) -> Row | None:
    """A task's difference from being trained alone, so that more is better; `negative` where its interval lies below 0."""
    primary = about["primary"]

    def score(run: Run) -> Any:
        after = run["metrics"]["after"]
        return after.get(f"{name}/{primary}", after.get(primary))

    found = paired(
        mine, [run for run in alone if run["task"] == name], score, sign=1.0 if about["higher_is_better"] else -1.0
    )
    return found and {**found, "negative": found["high"] is not None and found["high"] < 0}


def _of_stream(name: str) -> Callable[[Run], Any]:
    return lambda run: (run.get("stream") or {}).get(name)


def _mean(values: Iterable[Any]) -> float | None:
    kept = [float(value) for value in values if is_number(value)]
    return sum(kept) / len(kept) if kept else None
