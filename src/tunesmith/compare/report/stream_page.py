"""What only the report of a stream shows: matrices as heat maps, each task over time, forgetting against cost, strategies by techniques."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.compare import format as human
from tunesmith.compare.report.figures import Figure, Look, plain, trade_off
from tunesmith.compare.statistics import is_number, pareto_front
from tunesmith.compare.stream_table import difference, footnotes, scale_of, signed
from tunesmith.compare.streams import JOINT

Row = Mapping[str, Any]
HEADS = (
    "technique + strategy", "accuracy", "against none", "of joint's gain", "forgetting", "backward", "forward", "in memory", "on disk", "train time",
    "peak memory",
)  # fmt: skip


def stream_context(results: Mapping[str, Any], styles: Mapping[str, Look]) -> dict[str, Any]:
    """Everything that the template of streams adds.

    Args:
        results: labelled, so that `technique` is the name of a row and `plain_technique` its technique.
        styles: a look for every strategy.
    """
    rows: list[Row] = list(results.get("rows") or [])
    scored = [row for row in rows if row["kind"] == "technique" and row.get("stream")]
    scale = scale_of([row["stream"] for row in scored])
    groups = grouped(scored, list(styles))
    return {
        "scale_note": "" if scale == 1.0 else " (×100)",
        "stages": scored[0]["stream"]["stages"] if scored else [],
        "heads": HEADS,
        "views": [_view(row, scale) for row in rows if row["kind"] != "alone"],
        "cross": cross(groups, list(styles), scale),
        "heat": heat(scored, groups, scale),
        "alone": alone(rows, groups, scale),
        "footnotes": footnotes(results),
        "panels": over_time(groups, rows, styles, scale) + against_cost(groups, styles, scale),
    }


def grouped(scored: Sequence[Row], order: Sequence[str]) -> dict[str, list[Row]]:
    """Rows by technique (and model, where there are several), each in the order of the strategies."""
    several = len({row["model"] for row in scored}) > 1
    found: dict[str, list[Row]] = {}
    for row in scored:
        found.setdefault(f"{row['plain_technique']}, {row['model']}" if several else row["plain_technique"], []).append(
            row
        )
    return {
        name: sorted(members, key=lambda row: order.index(row["strategy"])) for name, members in sorted(found.items())
    }


def _view(row: Row, scale: float) -> dict[str, Any]:
    """One line of the table: what each cell says, and the number it sorts by."""
    stream = row.get("stream")
    if not stream:
        return {"row": row, "cells": [], "reason": human.shorten(row["reason"] or "", 160)}
    gain = (row.get("against_none") or {}).get("average_accuracy")
    held = stream.get("strategy_bytes") or {}

    def mean(name: str) -> float | None:
        return stream[name]["mean"] if stream.get(name) else None

    cells = [
        (human.quality(stream["average_accuracy"], scale), mean("average_accuracy")),
        (difference(gain, scale), gain["mean"] if gain else None),
        (human.share(row.get("recovered")), row.get("recovered")),
        *(
            (human.quality(stream.get(name), scale).replace("-", "−"), mean(name))
            for name in ("forgetting", "backward_transfer", "forward_transfer")
        ),
        *((human.in_bytes(held.get(where)), held.get(where)) for where in ("memory", "disk")),
        (human.seconds(row["train_seconds"]), row["train_seconds"]),
        (human.in_bytes(row["peak_memory_bytes"]), row["peak_memory_bytes"]),
    ]
    return {"row": row, "cells": [{"text": text, "value": value} for text, value in cells], "reason": ""}


def cross(groups: Mapping[str, Sequence[Row]], order: Sequence[str], scale: float) -> dict[str, Any]:
    """Strategies by techniques: average accuracy, the difference to `none`, forgetting; the best of each technique stands out."""
    lines = []
    for strategy in order:
        cells: list[dict[str, Any] | None] = []
        for members in groups.values():
            row = next((row for row in members if row["strategy"] == strategy), None)
            if row is None:
                cells.append(None)
                continue
            top = max(
                r["stream"]["average_accuracy"]["mean"] for r in members if r["strategy"] != JOINT or len(members) == 1
            )
            gain, lost = (row.get("against_none") or {}).get("average_accuracy"), row["stream"]["forgetting"]
            cells.append({
                "score": human.quality(row["stream"]["average_accuracy"], scale),
                "best": strategy != JOINT and row["stream"]["average_accuracy"]["mean"] == top,
                "gain": difference(gain, scale) if gain else "",
                "lost": f"forgets {signed(lost['mean'], scale, plus=False)}" if lost else "",
            })  # fmt: skip
        lines.append({"name": strategy, "cells": cells})
    return {"heads": list(groups), "rows": lines}


def heat(scored: Sequence[Row], groups: Mapping[str, Sequence[Row]], scale: float) -> list[dict[str, Any]]:
    """A matrix a strategy, one group a technique. The colour of a cell runs from the lowest to the highest score on that stage anywhere."""
    columns: dict[int, list[float]] = {}
    for row in scored:
        for line in [*row["stream"]["matrix"], row["stream"]["untouched"]]:
            for j, value in enumerate(line):
                if value is not None:
                    columns.setdefault(j, []).append(value)

    def share(j: int, value: float, higher: bool) -> int:
        low, high = min(columns[j]), max(columns[j])
        place = (value - low) / (high - low) if high > low else 0.5
        return round(100 * (place if higher else 1 - place))

    found = []
    for name, members in groups.items():
        maps = []
        for row in members:
            stream = row["stream"]
            square = len(stream["matrix"]) == len(stream["stages"])
            lines = (
                [("0", "before the first stage", stream["untouched"])]
                if any(v is not None for v in stream["untouched"])
                else []
            )
            for i, line in enumerate(stream["matrix"]):
                lines.append(
                    (str(i + 1), f"after {stream['stages'][i]}", line) if square else ("all", "after all stages", line)
                )
            maps.append({
                "name": row["strategy"],
                "rows": [
                    {
                        "name": number,
                        "cells": [
                            {
                                "text": human.MISSING if value is None else human.number(value, scale),
                                "heat": None if value is None else share(j, value, stream["higher_is_better"][j]),
                                "ahead": square and number.isdigit() and j >= int(number),
                                "now": square and number == str(j + 1),
                                "title": f"{when}, on {stream['stages'][j]}" + ("" if value is not None else ": no head reads it yet"),
                            }
                            for j, value in enumerate(line)
                        ],
                    }
                    for number, when, line in lines
                ],
            })  # fmt: skip
        found.append({"name": name, "maps": maps})
    return found


def alone(rows: Sequence[Row], groups: Mapping[str, Sequence[Row]], scale: float) -> dict[str, Any] | None:
    """Below each technique's scores on every task trained alone, how far each strategy is from them; None where nothing was trained alone."""
    compared = [row for row in rows if row.get("against_alone")]
    if not compared:
        return None
    tasks = list(compared[0]["against_alone"])
    lines = []
    for name, members in groups.items():
        of = (members[0]["plain_technique"], members[0]["model"])
        own = {
            row["task"]: row for row in rows if row["kind"] == "alone" and (row["plain_technique"], row["model"]) == of
        }
        scores = [human.quality(own[task]["primary"], scale) if task in own else human.MISSING for task in tasks]
        lines.append(
            {
                "name": f"{name}, alone",
                "reference": True,
                "cells": [{"text": text, "negative": False} for text in scores],
            }
        )
        for row in members:
            found = [(row.get("against_alone") or {}).get(task) for task in tasks]
            cells = [{"text": difference(each, scale), "negative": bool(each and each["negative"])} for each in found]
            lines.append({"name": row["strategy"], "reference": False, "cells": cells})
    return {"tasks": tasks, "rows": lines}


def over_time(
    groups: Mapping[str, Sequence[Row]], rows: Sequence[Row], styles: Mapping[str, Look], scale: float
) -> list[dict[str, Any]]:
    """For every technique a panel with one figure a stage: its score after each stage, one line a strategy."""
    panels = []
    for number, (name, members) in enumerate(groups.items()):
        stages = members[0]["stream"]["stages"]
        if len(stages) < 2:
            continue
        figures = []
        for j, stage in enumerate(stages):
            figure = _line_figure(members, j, stages, styles, scale)
            figures.append(
                {"id": f"figure-time-{number}-{j}", "title": f"{j + 1} {stage}", "caption": "", "figure": figure}
            )
        caption = (
            "Mean score over seeds on one stage, after each. A line begins where a head can read the stage; the large mark is right after it was "
            "learned. joint has one score, after all."
        )
        panels.append({"title": f"Each stage over time: {name}", "caption": caption, "small": True, "figures": figures})
    return panels


def _line_figure(
    members: Sequence[Row], j: int, stages: Sequence[str], styles: Mapping[str, Look], scale: float
) -> Figure:
    traces = []
    for row in members:
        stream, look = row["stream"], styles[row["strategy"]]
        column = [stream["untouched"][j] if stream["untouched"] else None, *(line[j] for line in stream["matrix"])]
        places: Sequence[int] = range(len(column))
        if len(stream["matrix"]) < len(stages):
            column, places = [stream["matrix"][-1][j]] * 2, [1, len(stages)]
        points = [(x, value * scale) for x, value in zip(places, column, strict=True) if value is not None]
        learned = [9 if x == j + 1 else 5 for x, _ in points]
        traces.append({
            "x": [x for x, _ in points], "y": [float(f"{y:.6g}") for _, y in points], "mode": "lines" if row["strategy"] == JOINT else "lines+markers",
            "line": {"color": look["colour"], "width": 2, "dash": "dot" if row["strategy"] == JOINT else look["dash"]},
            "marker": {"color": look["colour"], "symbol": look["symbol"], "size": learned},
            "hovertemplate": "<b>%{fullData.name}</b><br>%{y:.4~g}<extra></extra>", "meta": row["strategy"], "name": plain(row["strategy"]),
        })  # fmt: skip
    first = 0 if any(0 in trace["x"] for trace in traces) else 1
    ticks = list(range(first, len(stages) + 1))
    layout = {
        "xaxis": {
            "title": {"text": "after stage"},
            "tickvals": ticks,
            "ticktext": [str(t) for t in ticks],
            "range": [first - 0.3, len(stages) + 0.3],
        },
        "yaxis": {"title": {"text": ""}},
    }
    return {"data": traces, "layout": layout, "labels": [], "lines": []}


def against_cost(groups: Mapping[str, Sequence[Row]], styles: Mapping[str, Look], scale: float) -> list[dict[str, Any]]:
    """For every technique forgetting against training time and against the bytes that a strategy holds in memory."""
    figures = []
    for number, (name, members) in enumerate(groups.items()):
        for cost, what, axis in (
            ("train_seconds", "training time", "training time (log scale)"),
            ("state_bytes", "the strategy's state in memory", "state in memory (log scale)"),
        ):
            shown = _as_points(members, cost)
            figure = trade_off(
                shown,
                styles,
                cost=cost,
                front="front",
                x_title=axis,
                y_title="forgetting" + (" (×100)" if scale != 1.0 else ""),
                scale=scale,
            )
            if figure is None:
                continue
            caption = "Lower is better. Large ringed marks and the dotted stair: the Pareto front."
            idle = [row["technique"] for row in shown if row["kind"] != "technique"]
            if idle:
                caption += f" Dashed: what keeps nothing ({', '.join(idle)})."
            if figure["outside"]:
                caption += f" Outside the axis: {', '.join(figure['outside'])}."
            if figure["cut"]:
                caption += f" Bars that run past the axis: {', '.join(figure['cut'])}."
            key = f"figure-cost-{number}-{'time' if cost == 'train_seconds' else 'state'}"
            figures.append(
                {"id": key, "title": f"{name}: forgetting against {what}", "caption": caption, "figure": figure}
            )
    return [{"title": "Forgetting against cost", "caption": "", "small": False, "figures": figures}] if figures else []


def _as_points(members: Sequence[Row], cost: str) -> list[dict[str, Any]]:
    """Rows as `trade_off` reads them: strategies with forgetting as what is measured; one that costs nothing is a line."""
    found: list[dict[str, Any]] = []
    for row in members:
        lost, held = row["stream"]["forgetting"], row["stream"].get("strategy_bytes") or {}
        value = row["train_seconds"] if cost == "train_seconds" else held.get("memory")
        if lost is None or not is_number(value):
            continue
        kind = "technique" if value > 0 else "baseline"
        found.append({"technique": row["strategy"], "kind": kind, "primary": lost, cost: value, "front": False})
    drawn = [row for row in found if row["kind"] == "technique"]
    for index in pareto_front(
        [row[cost] for row in drawn], [row["primary"]["mean"] for row in drawn], higher_is_better=False
    ):
        drawn[index]["front"] = True
    return found
