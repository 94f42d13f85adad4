"""The figure of a study: quality over the values of a setting, parameters on a second axis, the knee ringed and named.

One line a technique (and setting of the other keys); its bars are the 95 % interval over seeds. Values that span a factor of eight or more get a
logarithmic axis, values that are no numbers a plain row of places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.compare import format as human
from tunesmith.compare.report.figures import Figure, looks, plain
from tunesmith.compare.statistics import is_number, primary_metric
from tunesmith.compare.study_table import lines, sentence, title

Study = Mapping[str, Any]
WIDE = 8.0  # largest over smallest value from which an axis is logarithmic
HEADS = ("trainable", "train time", "peak memory")


def study_figures(results: Mapping[str, Any], label: str, scale: float) -> list[dict[str, Any]]:
    """A figure for each key of the grid, with id, title and caption."""
    by_key: dict[str, list[Study]] = {}
    for entry in results.get("studies") or []:
        by_key.setdefault(entry["key"], []).append(entry)
    found = []
    primary = primary_metric(results.get("protocol") or {}, results.get("runs") or [])
    for number, (key, entries) in enumerate(by_key.items()):
        figure = curve(entries, label, scale)
        if figure is None:
            continue
        bars = any(point["low"] is not None for entry in entries for point in entry["points"])
        knees = any(entry["knee"] is not None for entry in entries)
        caption = "Solid: mean over seeds" + (", bars: its 95 % interval." if bars else ", one seed.")
        caption += " Dotted, right axis: parameters that learn." if "yaxis2" in figure["layout"] else ""
        caption += f" Ringed: the knee, {entries[0]['rule']}." if knees else ""
        found.append(
            {"id": f"figure-study-{number}", "title": f"{primary} over {key}", "caption": caption, "figure": figure}
        )
    return found


def study_views(results: Mapping[str, Any], label: str, scale: float) -> list[dict[str, Any]]:
    """Each study in words and as a table."""
    entries = results.get("studies") or []
    several = len({entry["model"] for entry in entries}) > 1
    return [
        {
            "title": title(entry, several),
            "sentence": sentence(entry, results),
            "heads": [entry["key"], label, *HEADS],
            "rows": lines(entry, scale),
        }
        for entry in entries
    ]


def curve(entries: Sequence[Study], label: str, scale: float) -> Figure | None:
    """The lines of the studies of one key; None without a point."""
    traces: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    values = [point["value"] for entry in entries for point in entry["points"]]
    numeric = all(map(is_number, values))
    several = len({entry["model"] for entry in entries}) > 1
    styles = looks([title(entry, several) for entry in entries])
    counts: list[float] = []
    for entry in entries:
        scored = [point for point in entry["points"] if point["mean"] is not None]
        if not scored:
            continue
        name = title(entry, several)
        x = [point["value"] if numeric else str(point["value"]) for point in scored]
        learn = [point["trainable_parameters"] for point in scored]
        if len(set(learn)) > 1:
            counts += learn
            traces.append(
                {
                    "x": x,
                    "y": learn,
                    "yaxis": "y2",
                    "mode": "lines+markers",
                    "line": {"width": 1, "dash": "dot", "color": styles[name]["colour"]},
                    "marker": {"size": 5, "symbol": "square-open", "color": styles[name]["colour"]},
                    "text": [f"{human.count(count)} parameters" for count in learn],
                    "hovertemplate": "<b>%{fullData.name}</b><br>%{text}<extra></extra>",
                    "name": plain(name),
                    "opacity": 0.7,
                }
            )
        line, knee = _line(entry, scored, x, styles[name], scale, name)
        traces.append(line)
        marks = {index: f"knee {scored[index]['value']}" for index in knee}
        if len(entries) > 1:  # a line is named where it ends
            own = entry["technique"] if len({each["technique"] for each in entries}) == len(entries) else name
            marks[len(scored) - 1] = ", ".join([*filter(None, [marks.get(len(scored) - 1)]), own])
        for index, text in marks.items():
            low, high = (_end(scored[index], end) * scale for end in ("low", "high"))
            place = {"x": x[index], "y": scored[index]["mean"] * scale, "low": low, "high": high}
            labels.append({**place, "text": plain(text), "of": name, "front": index in knee})
    if not traces:
        return None
    layout = {
        "xaxis": _axis(entries[0]["key"], values, numeric),
        "yaxis": {"title": {"text": label}},
        **({"yaxis2": _parameters(counts)} if counts else {}),
    }
    return {"data": traces, "layout": layout, "labels": labels, "lines": [], "outside": [], "cut": []}


def _line(
    entry: Study,
    scored: Sequence[Mapping[str, Any]],
    x: Sequence[Any],
    look: Mapping[str, str],
    scale: float,
    name: str,
) -> tuple[dict[str, Any], list[int]]:
    """The curve, and where its knee is."""
    knee = [i for i, point in enumerate(scored) if entry["knee"] is not None and point["value"] == entry["knee"]]
    means = [point["mean"] * scale for point in scored]
    trace: dict[str, Any] = {
        "x": list(x),
        "y": means,
        "mode": "lines+markers",
        "line": {"color": look["colour"], "width": 2},
        "marker": {
            "color": look["colour"],
            "symbol": look["symbol"],
            "size": [14 if i in knee else 8 for i in range(len(scored))],
            "opacity": 1.0,  # plotly.js makes marks of several sizes faint
            "rings": [2.5 if i in knee else 0 for i in range(len(scored))],
        },
        "text": [f"{point['value']}: {human.quality(point, scale)}" for point in scored],
        "hovertemplate": "<b>%{fullData.name}</b><br>%{text}<extra></extra>",
        "name": plain(name),
        "role": "study",
    }
    if any(point["low"] is not None for point in scored):
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [_end(point, "high") * scale - mean for point, mean in zip(scored, means, strict=True)],
            "arrayminus": [mean - _end(point, "low") * scale for point, mean in zip(scored, means, strict=True)],
            "thickness": 1.3,
            "width": 4,
            "color": look["colour"],
        }
    return trace, knee


def _end(point: Mapping[str, Any], end: str) -> float:
    return float(point["mean"] if point[end] is None else point[end])


def _axis(key: str, values: Sequence[Any], numeric: bool) -> dict[str, Any]:
    """The horizontal axis, ticked where values are."""
    axis: dict[str, Any] = {"title": {"text": plain(key)}}
    if not numeric:
        return {**axis, "type": "category"}
    ticks = sorted(set(values))
    axis |= {"tickvals": ticks, "ticktext": [f"{value:g}" for value in ticks], "tickangle": 0}
    if ticks[0] > 0 and ticks[-1] / ticks[0] >= WIDE:
        axis["type"] = "log"
    return axis


def _parameters(counts: Sequence[float]) -> dict[str, Any]:
    """The axis on the right: parameters that learn."""
    ticks = sorted(set(counts))
    ticks = ticks[:: max(1, -(-len(ticks) // 4))]
    axis: dict[str, Any] = {
        "title": {"text": "parameters that learn"},
        "overlaying": "y",
        "side": "right",
        "tickvals": ticks,
        "ticktext": [human.count(value) for value in ticks],
    }
    if min(counts) > 0 and max(counts) / min(counts) >= WIDE:
        axis["type"] = "log"
    return axis
