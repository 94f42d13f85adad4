"""The figures as plotly.js traces and layouts: plain dicts, drawn by the script in the page.

Each technique keeps one look in every figure: an Okabe-Ito colour (Okabe & Ito 2008, safe for colour-blind readers),
and, past the seventh, another dash and marker. Yellow and black are left out: one vanishes on white, the other on a
dark page. Text, grid and background colours are set in the page, which knows its colour scheme.
"""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunesmith.compare import format as human
from tunesmith.compare.statistics import is_number, mean_of

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
MOST_POINTS = 250  # a line; longer curves are averaged in equal groups of logged steps
MIB = 1024.0**2
BYTES = ("peak_memory_bytes", "state_bytes")
LADDERS = ((1, 2, 5), (1, 1.5, 2, 3, 4, 6, 8), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9))

Look = dict[str, str]
Figure = dict[str, Any]


def looks(names: Sequence[str]) -> dict[str, Look]:
    """One colour, dash and marker symbol a technique, by its place in the protocol (not by its rank)."""
    styles = {}
    for index, name in enumerate(dict.fromkeys(names)):
        round_, place = divmod(index, len(COLOURS))
        styles[name] = {
            "colour": COLOURS[place],
            "dash": DASHES[round_ % len(DASHES)],
            "symbol": SYMBOLS[round_ % len(SYMBOLS)],
        }
    return styles


def curves(
    runs: Sequence[Mapping[str, Any]],
    styles: Mapping[str, Look],
    read: Callable[[Mapping[str, Any]], Any],
    *,
    y_title: str,
    scale: float = 1.0,
) -> Figure | None:
    """One line a technique, mean over seeds, in a band from the lowest to the highest seed; None without a point.

    Args:
        runs: the runs of results.json; only finished ones of techniques are drawn.
        styles: `looks` of the techniques, in drawing order.
        read: takes a logged point of a curve and gives the number to draw, or None.
        y_title: what the vertical axis measures.
        scale: factor from the stored to the shown value.
    """
    traces: list[dict[str, Any]] = []
    grouped = False
    for name, look in styles.items():
        lines = [_line(run, read, scale) for run in runs if _drawn(run, name)]
        steps, mean, low, high, binned = _over_seeds([line for line in lines if line])
        grouped = grouped or binned
        if not steps:
            continue
        if any(a != b for a, b in zip(low, high, strict=True)):
            traces.append(
                {
                    "x": [*steps, *reversed(steps)],
                    "y": [*high, *reversed(low)],
                    "fill": "toself",
                    "fillcolor": _faint(look["colour"], 0.13),
                    "line": {"width": 0},
                    "mode": "lines",
                    "hoverinfo": "skip",
                    "meta": name,
                    "name": plain(name),
                }
            )
        few = len(steps) <= 12
        traces.append(
            {
                "x": steps,
                "y": mean,
                "customdata": [list(pair) for pair in zip(low, high, strict=True)],
                "mode": "lines+markers" if few else "lines",
                "line": {"color": look["colour"], "width": 2, "dash": look["dash"]},
                "marker": {"color": look["colour"], "symbol": look["symbol"], "size": 7},
                "hovertemplate": "<b>%{fullData.name}</b><br>step %{x}<br>mean %{y:.4~g}<br>"
                "seeds %{customdata[0]:.4~g} to %{customdata[1]:.4~g}<extra></extra>",
                "meta": name,
                "name": plain(name),
            }
        )
    if not traces:
        return None
    layout = {
        "xaxis": {"title": {"text": "optimizer step"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": y_title}},
    }
    return {"data": traces, "layout": layout, "labels": [], "lines": [], "grouped": grouped}


def trade_off(
    rows: Sequence[Mapping[str, Any]],
    styles: Mapping[str, Look],
    *,
    cost: str,
    front: str,
    x_title: str,
    y_title: str,
    scale: float,
) -> Figure | None:
    """Quality against one cost on a log axis, intervals as bars, the Pareto front as a stair; None without a point.

    Baselines are dashed lines across. One far outside the techniques' range would squeeze them into a corner, so it is
    named in `outside` instead of drawn.

    Args:
        rows: aggregated rows, techniques and baselines.
        styles: `looks` of the techniques.
        cost: the row's key for the horizontal axis: `train_seconds`, or one of `BYTES`.
        front: the row's key that marks the Pareto front of that cost.
        x_title: what the horizontal axis measures.
        y_title: what the vertical axis measures.
        scale: factor from the stored to the shown quality.
    """
    show = human.in_bytes if cost in BYTES else human.seconds
    shown = [
        row
        for row in rows
        if row["technique"] in styles and row["kind"] == "technique" and mean_of(row) is not None
        if is_number(row[cost]) and row[cost] > 0
    ]
    if not shown:
        return None
    traces = []
    best = sorted((row for row in shown if row[front]), key=lambda row: row[cost])
    if len(best) > 1:
        traces.append(
            {
                "x": [row[cost] for row in best],
                "y": [row["primary"]["mean"] * scale for row in best],
                "mode": "lines",
                "line": {"shape": "hv", "width": 1.5, "dash": "dot"},
                "hoverinfo": "skip",
                "name": "Pareto front",
                "role": "front",
            }
        )
    labels = []
    for row in shown:
        trace, label = _point(row, styles[row["technique"]], row[cost], row[front], show, scale)
        traces.append(trace)
        labels.append(label)
    low, high, cut = _reach(labels)
    lines, outside, low, high = _baselines(rows, low, high, scale)
    pad = 0.06 * (high - low) or abs(high) * 0.02 or 1.0
    x_range = _log_range([row[cost] for row in shown])
    ticks = _log_ticks(10 ** x_range[0], 10 ** x_range[1], cost)
    layout = {
        "xaxis": {
            "type": "log",
            "title": {"text": x_title},
            "range": x_range,
            "tickvals": ticks,
            "ticktext": [_tick(show(value)) for value in ticks],
            "tickangle": 0,
        },
        "yaxis": {"title": {"text": y_title}, "range": [low - pad, high + pad]},
    }
    return {"data": traces, "layout": layout, "labels": labels, "lines": lines, "outside": outside, "cut": cut}


def _point(
    row: Mapping[str, Any], look: Look, x: float, on_front: bool, show: Callable[[float], str], scale: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    entry = row["primary"]
    mean = entry["mean"] * scale
    low, high = (mean, mean) if entry["low"] is None else (entry["low"] * scale, entry["high"] * scale)
    trace: dict[str, Any] = {
        "x": [x],
        "y": [mean],
        "mode": "markers",
        "marker": {"color": look["colour"], "symbol": look["symbol"], "size": 13 if on_front else 9},
        "hovertemplate": "<b>%{fullData.name}</b><br>%{text}<extra></extra>",
        "text": [
            plain(f"{human.quality(entry, scale)} at {show(x)}") + ("<br>on the Pareto front" if on_front else "")
        ],
        "meta": row["technique"],
        "name": plain(row["technique"]),
        "role": "on-front" if on_front else "point",
    }
    if high > low:
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [high - mean],
            "arrayminus": [mean - low],
            "thickness": 1.3,
            "width": 4,
            "color": look["colour"],
        }
    text = plain(human.shorten(row["technique"], 28))
    return trace, {"x": x, "y": mean, "low": low, "high": high, "text": text, "of": row["technique"], "front": on_front}


def _reach(labels: Sequence[Mapping[str, Any]]) -> tuple[float, float, list[str]]:
    """The range that holds every mean and every usual interval, and whose bars run past it.

    Two seeds that disagree have an interval many times wider than all others (t(0.975, 1) = 12.7); drawn in full it
    would flatten the figure, so bars may reach past the outermost means by half of the means' span and no further.
    """
    means = [label["y"] for label in labels]
    span = max(means) - min(means)
    narrow = sorted(label["high"] - label["low"] for label in labels)[(len(labels) - 1) // 2]
    room = max(0.5 * span, narrow)
    low = max(min(label["low"] for label in labels), min(means) - room)
    high = min(max(label["high"] for label in labels), max(means) + room)
    slack = 0.05 * (high - low)  # less than the axis is padded by, so nothing that fits is called cut
    return low, high, [label["of"] for label in labels if label["low"] < low - slack or label["high"] > high + slack]


def _baselines(
    rows: Sequence[Mapping[str, Any]], low: float, high: float, scale: float
) -> tuple[list[dict[str, Any]], list[str], float, float]:
    """The baselines near the techniques as lines (and the range that includes them), the others as words."""
    reach = max(0.3 * (high - low), abs(high) * 0.01, 1e-9)
    near: list[dict[str, Any]] = []
    outside: list[str] = []
    for row in rows:
        mean = mean_of(row)
        if row["kind"] == "technique" or mean is None:
            continue
        name = "untouched model" if row["kind"] == "untouched" else row["technique"]
        if low - reach <= mean * scale <= high + reach:
            near.append({"y": mean * scale, "text": plain(f"{name} {human.number(mean, scale)}")})
        else:
            outside.append(f"{name} {human.number(mean, scale)}")
    heights = [line["y"] for line in near]
    return near, outside, min([low, *heights]), max([high, *heights])


def _line(run: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Any], scale: float) -> dict[int, float]:
    points = ((point.get("step"), read(point)) for point in run.get("curve") or [])
    return {int(step): float(value) * scale for step, value in points if is_number(step) and is_number(value)}


def _drawn(run: Mapping[str, Any], name: str) -> bool:
    return run["technique"] == name and run.get("kind", "technique") == "technique" and run.get("status") == "finished"


def _over_seeds(
    lines: Sequence[Mapping[int, float]],
) -> tuple[list[float], list[float], list[float], list[float], bool]:
    """Steps, mean, lowest, highest over seeds, and whether steps were averaged in groups.

    Only steps that every seed logged count: a mean over fewer seeds at the end would jump and look like learning.
    """
    if not lines:
        return [], [], [], [], False
    common = sorted(set.intersection(*(set(line) for line in lines)))
    size = math.ceil(len(common) / MOST_POINTS) if common else 1
    steps, mean, low, high = [], [], [], []
    for start in range(0, len(common), size):
        group = common[start : start + size]
        seeds = [math.fsum(line[step] for step in group) / len(group) for line in lines]
        steps.append(_digits(sum(group) / len(group)))
        mean.append(_digits(math.fsum(seeds) / len(seeds)))
        low.append(_digits(min(seeds)))
        high.append(_digits(max(seeds)))
    return steps, mean, low, high, size > 1


def _digits(value: float) -> float:
    """Six significant digits: a tenth of a pixel, at half the bytes."""
    return float(f"{value:.6g}")


def _log_range(values: Sequence[float]) -> list[float]:
    low, high = math.log10(min(values)), math.log10(max(values))
    pad = max(0.12 * (high - low), 0.06)  # room for labels beside the outermost points
    return [low - pad, high + pad]


def _log_ticks(low: float, high: float, cost: str) -> list[float]:
    """Three to five round values between `low` and `high`: B, KiB, MiB, GiB for memory, s, min, h for time."""
    units = [1.0, 1024.0, MIB, 1024.0 * MIB, math.inf] if cost in BYTES else [0.001, 1.0, 60.0, 3600.0, math.inf]
    for ladder in LADDERS:
        found = {
            unit * step * 10**power
            for unit, following in itertools.pairwise(units)
            for power in range(3)
            for step in ladder
            if unit * step * 10**power < following
        }
        inside = sorted(value for value in found if low <= value <= high)
        if len(inside) >= 3:
            return inside[:: math.ceil(len(inside) / 5)]
    return [low * (high / low) ** part for part in (0.1, 0.5, 0.9)]


def _tick(text: str) -> str:
    """A round value without its zeros: `1 GiB` for 1.00 GiB, `5 min` for 5 min 00 s."""
    return re.sub(r"\.0+(?= )|(\.\d*[1-9])0+(?= )| 00 (?:s|min)$", r"\1", text)


def _faint(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def plain(text: str) -> str:
    """Text for plotly, which reads a small HTML: a technique called `<b>` must look like `<b>`."""
    return html.escape(text, quote=False)
