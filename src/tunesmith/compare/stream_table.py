"""Streams in a terminal: the matrix of a run, and one row a technique and strategy of a comparison.

learned        films    posts   entities          score (x100) on each stage after each
(untouched)     51.2     48.9          –
films           81.0     60.1          –
posts           75.0     80.0          –
entities        70.3     77.4       35.1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.compare import format as human
from tunesmith.compare.models import models_of_rows, shown_name

if TYPE_CHECKING:
    from rich.table import Table

REASON_LENGTH = 84
NEGATIVE = "▼"


def scale_of(streams: Sequence[Mapping[str, Any]]) -> float:
    """100 for fractions, 1 where a score of any stream is none."""
    values = [abs(v) for stream in streams for row in stream["matrix"] for v in row if v is not None]
    return human.metric_scale("score", values)


def matrix_table(stream: Mapping[str, Any], title: str = "") -> Table:
    """The scores on every stage after every stage; what was just learned stands out, what is still to come is dim."""
    from rich.table import Table
    from rich.text import Text

    scale = scale_of([stream])
    unit = " (×100)" if scale != 1.0 else ""
    table = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column(Text(f"score{unit} after"))
    for name in stream["stages"]:
        table.add_column(Text(name), justify="right")

    def cell(value: float | None, style: str) -> Text:
        return Text(human.MISSING if value is None else human.number(value, scale), style=style)

    if any(value is not None for value in stream.get("untouched") or []):
        table.add_row("(untouched)", *(cell(value, "dim") for value in stream["untouched"]))
    square = len(stream["matrix"]) == len(stream["stages"])
    for i, row in enumerate(stream["matrix"]):
        name = stream["stages"][i] if square else "all stages"
        styles = ["" if not square or j < i else "bold" if j == i else "dim" for j in range(len(row))]
        table.add_row(Text(name), *(cell(value, style) for value, style in zip(row, styles, strict=True)))
    return table


def sentence(stream: Mapping[str, Any]) -> str:
    """What the matrix amounts to, on one line."""
    scale = scale_of([stream])
    names = (("average accuracy", "average_accuracy"), ("forgetting", "forgetting"), ("backward transfer", "backward_transfer"),
             ("forward transfer", "forward_transfer"))  # fmt: skip
    parts = [
        f"{shown} {signed(stream[name], scale, plus='transfer' in name)}"
        for shown, name in names
        if stream.get(name) is not None
    ]
    held = stream.get("strategy_bytes") or {}
    kept = (
        f"; the strategy keeps {human.in_bytes(held['disk'])} on disk, {human.in_bytes(held['memory'])} in memory"
        if any(held.values())
        else ""
    )
    return ", ".join(parts) + kept


def signed(value: float, scale: float, *, plus: bool = True) -> str:
    """A difference with its sign: +1.2, −0.3; without `plus` only what is negative has one."""
    text = human.number(abs(value), scale)
    return f"−{text}" if value < 0 and float(text) else f"+{text}" if plus and float(text) else text


def stream_table(results: Mapping[str, Any]) -> Table:
    """One row a technique and strategy, best first; reference rows (tasks trained alone) below."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = [row for row in results["rows"] if row["kind"] != "alone"]
    scale = scale_of([row["stream"] for row in rows if row.get("stream")])
    unit = "\n(×100)" if scale != 1.0 else ""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False, caption_justify="left")
    table.add_column("technique + strategy", min_width=28, overflow="fold", vertical="bottom")
    for header in (
        f"average\naccuracy{unit}",
        "against\nnone",
        "of joint's\ngain",
        "forgetting",
        "state\nin memory",
        "train\ntime",
    ):
        table.add_column(Text(header), justify="right", vertical="bottom", no_wrap=True)
    several = models_of_rows(rows) > 1
    for row in rows:
        style = "yellow" if row["status"] in ("failed", "refused") else "" if row["kind"] == "technique" else "dim"
        table.add_row(Text(shown_name(row, several)), *_cells(row, scale), style=style)
    lost = [f"{shown_name(row, several)}: {_reason(row)}" for row in results["rows"] if row["status"] != "finished"]
    if lost:
        table.caption = Text("\n".join(["", *lost]), style="yellow")
    return table


def _reason(row: Mapping[str, Any]) -> str:
    ended = f"{row['n']} of {len(row['seeds'])} seeds" if row["status"] == "partial" else row["status"]
    return human.shorten(f"{ended}, {row['reason'] or 'no reason was recorded'}", REASON_LENGTH)


def _cells(row: Mapping[str, Any], scale: float) -> list[str]:
    stream = row.get("stream")
    if not stream:
        return [row["status"], *[""] * 5]
    held = stream.get("strategy_bytes")
    return [
        human.quality(stream["average_accuracy"], scale),
        difference((row.get("against_none") or {}).get("average_accuracy"), scale),
        human.MISSING if row.get("recovered") is None else human.share(row["recovered"]),
        human.quality(stream["forgetting"], scale),
        human.MISSING if held is None else human.in_bytes(held["memory"]),
        human.seconds(row["train_seconds"]),
    ]


def difference(found: Mapping[str, Any] | None, scale: float) -> str:
    """A paired difference: `+3.1 ± 0.8`, with ` tie` where its interval holds 0."""
    if found is None:
        return human.MISSING
    text = signed(found["mean"], scale)
    if found["low"] is None:
        return text
    half = human.number((found["high"] - found["low"]) / 2, scale)
    return f"{text} ± {half}" + (" tie" if found["tie"] else "")


def negative_transfer(results: Mapping[str, Any]) -> list[str]:
    """How many tasks are worse than trained alone, the whole interval below 0."""
    found = [each for row in results["rows"] for each in (row.get("against_alone") or {}).values() if each]
    worse = sum(each["negative"] for each in found)
    return (
        [
            f"{NEGATIVE} negative transfer: worse than trained alone, the whole interval below 0 ({worse} of {len(found)})."
        ]
        if worse
        else []
    )


def alone_table(results: Mapping[str, Any]) -> Table | None:
    """Each task's difference from being trained alone; None if none was."""
    from rich.table import Table
    from rich.text import Text

    rows = [row for row in results["rows"] if row.get("against_alone")]
    if not rows:
        return None
    scale = scale_of([row["stream"] for row in rows])
    tasks = list(rows[0]["against_alone"])
    table = Table(
        title="against each task trained alone", title_justify="left", box=None, header_style="bold", pad_edge=False
    )
    table.add_column("technique + strategy")
    for task in tasks:
        table.add_column(Text(task), justify="right")
    several = models_of_rows(rows) > 1
    for row in rows:
        found = [row["against_alone"].get(task) for task in tasks]
        worse = [bool(each and each["negative"]) for each in found]
        texts = [f"{NEGATIVE} " * bad + difference(each, scale) for each, bad in zip(found, worse, strict=True)]
        cells = [Text(text, style="red" if bad else "") for text, bad in zip(texts, worse, strict=True)]
        table.add_row(Text(shown_name(row, several)), *cells)
    return table


def footnotes(results: Mapping[str, Any]) -> list[str]:
    """What the numbers mean, one sentence each."""
    seeds = len((results.get("protocol") or {}).get("seeds") or [])
    rows = results["rows"]
    notes = [
        "average accuracy: mean over stages of the primary metric after the last one"
        + (
            f", over {seeds} seeds ± half the 95 % Student t interval."
            if seeds > 1
            else "; one seed, so no interval can be given."
        ),
        "forgetting: best score less the last, mean over the earlier stages (0 is none). State in memory: what the strategy holds beside model and optimiser at most.",
    ]
    if any(row.get("against_none") for row in rows):
        tie = " `tie`: the interval holds 0." if seeds > 1 else ""
        notes.append(f"against none: mean difference to the strategy `none` over the same seeds.{tie}")
    if any(row.get("recovered") is not None for row in rows):
        notes.append("of joint's gain: share of the distance from `none` to learning all stages at once.")
    if any(row["kind"] == "baseline" for row in rows):
        notes.append("Baselines are fitted to each task by itself.")
    return [*notes, *negative_transfer(results)]
