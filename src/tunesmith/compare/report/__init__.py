"""The HTML report of a comparison: one file that opens offline and needs nothing else.

Everything is inside the file: styles, the script, the data and plotly.js. A Content-Security-Policy in its head
forbids every request, and only scripts that carry the page's nonce run, so a technique's name or a failure's text can
neither load nor execute anything even if escaping were wrong somewhere.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith import durable
from tunesmith.compare import format as human
from tunesmith.compare.models import labelled
from tunesmith.compare.report.answer import answer
from tunesmith.compare.report.facts import machine_facts, noticed, protocol_facts, self_test_facts, title
from tunesmith.compare.report.figures import Figure, Look, curves, looks, trade_off
from tunesmith.compare.report.predicted import HEADS, predicted
from tunesmith.compare.report.searched import search_table
from tunesmith.compare.report.stream_answer import stream_answer
from tunesmith.compare.report.stream_page import stream_context
from tunesmith.compare.report.study_figure import study_figures, study_views
from tunesmith.compare.statistics import higher_is_better, is_number, mean_of, primary_metric, sort_rows
from tunesmith.compare.table import FRONT, footnotes
from tunesmith.errors import SaveError

__all__ = ["render", "write_report"]

HERE = Path(__file__).parent
UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def write_report(results: Mapping[str, Any], path: Path) -> Path:
    """Write the report of `results` (the object in results.json) to `path` and return the path.

    The page is complete on disk before it takes the name `path`, so a reader never sees half of it.

    Raises:
        SaveError: the file cannot be written.
    """
    path = Path(path)
    page = render(labelled(results))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot make the folder `{path.parent}`: {error.strerror or error}.") from error
    durable.write(path, page.encode())
    return path


def render(results: Mapping[str, Any]) -> str:
    """The page as text; the same results give the same page."""
    import jinja2
    from markupsafe import Markup, escape
    from plotly.offline import get_plotlyjs

    def strong(text: str) -> Markup:
        """Names in backticks become bold; everything is escaped first."""
        return Markup(re.sub(r"`([^`]+)`", r"<strong>\1</strong>", str(escape(text))))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["strong"] = strong
    context = _stream_context(results) if results_of_stream(results) else _context(results)
    nonce = hashlib.sha256(context["data"].encode()).hexdigest()[:32]
    return environment.get_template("stream.html.j2" if results_of_stream(results) else "template.html.j2").render(
        **{**context, "data": Markup(context["data"])},  # escaped by _script_json
        nonce=nonce,
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )


def results_of_stream(results: Mapping[str, Any]) -> bool:
    """Whether what was compared is a stream."""
    return bool((results.get("protocol") or {}).get("stream"))


def _stream_context(results: Mapping[str, Any]) -> dict[str, Any]:
    """Of a stream: the same page with other tables and figures; looks tell strategies apart."""
    protocol, runs = results["protocol"], results.get("runs") or []
    rows = list(results.get("rows") or [])
    named = [row["strategy"] for row in rows if row["kind"] == "technique" and row.get("stream")]
    order = [name for name in protocol.get("strategies") or [] if name in named]
    styles = looks([*order, *named])
    own = stream_context(results, styles)
    figures = [figure for panel in own["panels"] for figure in panel["figures"]]
    panels = [
        {**panel, "figures": [{**figure, "figure": None} for figure in panel["figures"]]} for panel in own["panels"]
    ]
    primary = primary_metric(protocol, runs)
    scale = human.scale_of(results, primary)
    return {
        **own,
        "panels": panels,
        "title": title(protocol),
        "answer": stream_answer(results),
        "rows": rows,
        "failed": [row for row in rows if row["status"] in ("partial", "failed", "refused")],
        "figures": figures,
        "chips": [{"name": name, **look} for name, look in styles.items()],
        **_details(results, rows, runs, primary, scale),
        "data": _script_json({figure["id"]: figure["figure"] for figure in figures}),
    }


def _details(
    results: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    primary: str,
    scale: float,
) -> dict[str, Any]:
    """What every page ends with: protocol, machine, rates, command, every metric and every run."""
    protocol = results.get("protocol") or {}
    return {
        "label": human.metric_label(primary, scale),
        "metrics": _metric_table(results, rows),
        "runs": [_run_view(run, primary, scale) for run in runs],
        "noticed": noticed(runs),
        "examples": results.get("examples") or [],
        "searched": search_table(results),
        "self_tests": self_test_facts(protocol),
        "predicted": {"heads": HEADS, "rows": predicted(runs)},
        "protocol": protocol_facts(protocol),
        "machine": machine_facts(protocol),
        "rates": [(row["technique"], human.rate(row["learning_rate"])) for row in rows if row["learning_rate"]],
        "command": protocol.get("command"),
        "created": protocol.get("created"),
    }


def _context(results: Mapping[str, Any]) -> dict[str, Any]:
    protocol = results.get("protocol") or {}
    runs: Sequence[Mapping[str, Any]] = results.get("runs") or []
    primary = primary_metric(protocol, runs)
    higher = higher_is_better(protocol, primary)
    scale = human.scale_of(results, primary)
    label = human.metric_label(primary, scale)
    rows = sort_rows(results.get("rows") or [], higher)
    named = [row["technique"] for row in rows if row["kind"] == "technique"]
    # The protocol's order, not the rank, so that a technique keeps its colour from one report to the next.
    order = [name for name in protocol.get("techniques") or [] if name in named]
    styles = looks([*order, *named])
    figures = _figures(rows, runs, styles, primary, label, scale)
    figures = study_figures(results, label, scale) + figures
    drawn = {trace["meta"] for figure in figures for trace in figure["figure"]["data"] if "meta" in trace}
    return {
        "title": title(protocol),
        "higher": higher,
        "front": FRONT,
        "judged": any(row.get("against_best") for row in rows),
        "retained": any(row.get("forgetting") for row in rows),
        "answer": answer(results),
        "studies": study_views(results, label, scale),
        "rows": _views(rows, scale),
        "footnotes": footnotes(results),
        "failed": [row for row in rows if row["status"] in ("partial", "failed", "refused", "dropped")],
        "figures": [{**figure, "figure": None} for figure in figures],
        "chips": [{"name": name, **look} for name, look in styles.items() if name in drawn],
        **_details(results, rows, runs, primary, scale),
        "data": _script_json({figure["id"]: figure["figure"] for figure in figures}),
    }


def _figures(
    rows: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    styles: Mapping[str, Look],
    primary: str,
    label: str,
    scale: float,
) -> list[dict[str, Any]]:
    """The figures that there is something to draw for, each with its id, title and caption."""
    one = max((row["n"] for row in rows if row["kind"] == "technique"), default=0) <= 1
    bars = "" if one else " Bars are the 95 % interval over seeds."
    band = "" if one else " Line: mean over seeds; band: lowest to highest seed."
    plans: list[tuple[str, str, str, Figure | None]] = []
    for cost, front, name, axis in (
        ("peak_memory_bytes", "pareto_memory", "peak memory", "peak memory (log scale)"),
        ("train_seconds", "pareto_time", "training time", "training time (log scale)"),
    ):
        figure = trade_off(rows, styles, cost=cost, front=front, x_title=axis, y_title=label, scale=scale)
        caption = f"Large ringed marks and the dotted stair: the Pareto front.{bars} Dashed lines: baselines."
        if figure and figure["outside"]:
            caption += f" Outside the axis: {', '.join(figure['outside'])}."
        if figure and figure["cut"]:
            caption += f" Bars that run past the axis: {', '.join(figure['cut'])}."
        plans.append((cost, f"{primary} against {name}", caption, figure))
    loss = curves(runs, styles, lambda point: point.get("loss"), y_title="training loss")
    plans.append(("loss", "Training loss", f"As logged while training.{band}", loss))
    during = curves(runs, styles, lambda point: (point.get("eval") or {}).get(primary), y_title=label, scale=scale)
    plans.append(("during", f"{primary} while training", f"As measured between steps.{band}", during))
    found = []
    for key, name, caption, figure in plans:
        if figure is None:
            continue
        if figure.get("grouped"):
            caption += " Long curves are drawn as means of equal groups of steps."
        found.append({"id": f"figure-{key.replace('_', '-')}", "title": name, "caption": caption, "figure": figure})
    return found


def _views(rows: Sequence[Mapping[str, Any]], scale: float) -> list[dict[str, Any]]:
    """The table's rows: what each cell says, and the number that it sorts by."""
    along = _strip_scale(rows)
    views = []
    for row in rows:
        entry = row["primary"]
        trainable = human.count(row["trainable_parameters"])
        if row["kind"] != "technique" and not row["trainable_parameters"]:
            trainable = human.MISSING
        strip: dict[str, Any] | None = None
        if entry:
            left, right = (entry["mean"] if entry[end] is None else entry[end] for end in ("low", "high"))
            ends = {key: along(x) for key, x in (("left", left), ("mean", entry["mean"]), ("right", right))}
            off = "left" if ends["mean"] < 0 else "right" if ends["mean"] > 100 else ""
            strip = {**{key: min(100.0, max(0.0, place)) for key, place in ends.items()}, "off": off}
        cells = [
            (human.quality(entry, scale), mean_of(row), False),
            *_to_best(row, rows, scale),
            (trainable, row["trainable_parameters"], False),
            (human.in_bytes(row["peak_memory_bytes"]), row["peak_memory_bytes"], row["pareto_memory"]),
            (human.seconds(row["train_seconds"]), row["train_seconds"], row["pareto_time"]),
            (human.count(row["tokens_per_second"]), row["tokens_per_second"], False),
            (human.in_bytes(row["artifact_bytes"]), row["artifact_bytes"], False),
            (human.per_minute(row["quality_per_cost"], scale), row["quality_per_cost"], False),
            (human.rate(row["learning_rate"]), row["learning_rate"], False),
        ]
        if any(each.get("forgetting") for each in rows):
            kept = row.get("forgetting")
            cells.append((human.forgotten(kept), kept["mean"] if kept else None, False))
        views.append(
            {
                "row": row,
                "strip": strip,
                "share": human.share(row["trainable_share"]) if row["trainable_parameters"] else "",
                "cells": [{"text": text, "value": value, "front": front} for text, value, front in cells],
                "reason": human.shorten(row["reason"] or "", 160),
            }
        )
    return views


def _to_best(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], scale: float) -> list[tuple[str, Any, bool]]:
    """The cell of the difference to the best row, where any row has one; the best itself is at 0."""
    if not any(each.get("against_best") for each in rows):
        return []
    found = row.get("against_best")
    return [(human.to_best(found, scale), found["difference"] if found else None, False)]


def _strip_scale(rows: Sequence[Mapping[str, Any]]) -> Callable[[float], float]:
    """Where a value lies on the table's strips, 0 to 100 over the techniques' means with some room for intervals.

    A baseline far below gets an arrow at the edge: with it inside, the techniques would share one corner.
    """
    scored = [row for row in rows if row["primary"]]
    means = [row["primary"]["mean"] for row in scored if row["kind"] == "technique"]
    means = means or [row["primary"]["mean"] for row in scored] or [0.0]
    span = 1.5 * (max(means) - min(means)) or 1.0
    middle = (max(means) + min(means)) / 2.0
    return lambda value: round(50.0 + 100.0 * (value - middle) / span, 1)


def _metric_table(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every metric of every row, each in one unit."""
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    scales = {name: human.scale_of(results, name) for name in names}
    return {
        "heads": [human.metric_label(name, scales[name]) for name in names],
        "rows": [
            [row["technique"], *(human.quality(row["metrics"].get(name), scales[name]) for name in names)]
            for row in rows
            if row["metrics"]
        ],
    }


def _run_view(run: Mapping[str, Any], primary: str, scale: float) -> list[str]:
    """One run as cells: who, how it ended, before and after, cost, where its folder is."""
    metrics, cost = run.get("metrics") or {}, run.get("cost") or {}
    cells = []
    for when in ("before", "after"):
        value = (metrics.get(when) or {}).get(primary)
        cells.append(human.number(value, scale) if is_number(value) else human.MISSING)
    seed = run.get("seed")
    return [
        str(run["technique"]),
        human.MISSING if seed is None else str(seed),
        str(run.get("status")),
        *cells,
        human.rate(run.get("learning_rate")),
        human.seconds(cost.get("train_seconds") or None),
        human.in_bytes(cost.get("peak_memory_bytes") or None),
        human.in_bytes(cost.get("predicted_memory_bytes")),
        str(run.get("folder") or human.MISSING),
    ]


def _script_json(value: object) -> str:
    """JSON that may stand inside a script element: no character that could end it, and no NaN."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(UNSAFE)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
