"""The comparison in a terminal: one row a technique, best first, readable at 100 columns.

                                                 peak       train   tokens              gain
technique    accuracy (%)        trainable     memory        time       /s   artifact   /min
lora           84.4 ± 0.7   33.0 k  0.75 %  ◆ 620 MiB    ◆ 41.2 s   10.3 k    131 KiB   27.3
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunesmith.compare import format as human
from tunesmith.compare.models import labelled
from tunesmith.compare.statistics import higher_is_better, primary_metric, reference_row, sort_rows

if TYPE_CHECKING:
    from rich.table import Table

FRONT = "◆"  # on a cost: nothing else is both better and cheaper in it
REASON_LENGTH = 84  # characters of a failure that the terminal shows; the report has all of it


def comparison_table(results: Mapping[str, Any]) -> Table:
    """The rows of results.json as a rich table, sorted best first; baselines dim, failures with their reason below."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    results = labelled(results)
    protocol = results.get("protocol") or {}
    primary = primary_metric(protocol, results.get("runs") or [])
    scale = human.scale_of(results, primary)
    rows = sort_rows(results.get("rows") or [], higher_is_better(protocol, primary))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False, caption_justify="left")
    table.add_column("technique", min_width=12, max_width=32, overflow="fold", vertical="bottom")
    # Headers are Text, not markup: a metric name in square brackets must not vanish.
    quality = human.metric_label(primary, scale)
    judged = any(row.get("against_best") for row in rows)
    middle = "to the\nbest" if judged else "tokens\n/s"  # both would not fit 100 columns; the report has both
    for header in (quality, "trainable", "peak\nmemory", "train\ntime", middle, "artifact", "gain\n/min"):
        table.add_column(Text(header), justify="right", vertical="bottom", no_wrap=True)
    kept = any(row.get("forgetting") for row in rows)
    if kept:
        table.add_column(Text("forgot"), justify="right", vertical="bottom", no_wrap=True)
    for row in rows:
        cells = [
            *_cells(row, scale, judged),
            *([human.forgotten(row.get("forgetting")) if row["n"] else ""] if kept else []),
        ]
        table.add_row(Text(str(row["technique"])), *cells, style=_style(row))
    missing = [f"{row['technique']}: {_reason(row)}" for row in rows if row["status"] != "finished"]
    if missing:
        table.caption = Text("\n".join(["", *missing]), style="yellow")
    return table


def _style(row: Mapping[str, Any]) -> str:
    if row["status"] in ("failed", "refused"):
        return "yellow"
    return "" if row["kind"] == "technique" else "dim"


def _reason(row: Mapping[str, Any]) -> str:
    ended = f"{row['n']} of {len(row['seeds'])} seeds" if row["status"] == "partial" else row["status"]
    return human.shorten(f"{ended}, {row['reason'] or 'no reason was recorded'}", REASON_LENGTH)


def _cells(row: Mapping[str, Any], scale: float, judged: bool) -> list[str]:
    if not row["n"]:
        return [row["status"], *[""] * 6]
    trainable = human.MISSING
    if row["trainable_parameters"] or row["kind"] == "technique":
        trainable = human.count(row["trainable_parameters"])
        if row["trainable_share"] is not None:
            trainable += f" {human.share(row['trainable_share']):>7}"
    return [
        human.quality(row["primary"], scale),
        trainable,
        _marked(human.in_bytes(row["peak_memory_bytes"]), row["pareto_memory"]),
        _marked(human.seconds(row["train_seconds"]), row["pareto_time"]),
        _to_best(row, scale) if judged else human.count(row["tokens_per_second"]),
        human.in_bytes(row["artifact_bytes"]),
        human.per_minute(row["quality_per_cost"], scale),
    ]


def _to_best(row: Mapping[str, Any], scale: float) -> str:
    """`tie` alone where it is one: the difference stands in the report."""
    found = row.get("against_best")
    return "tie" if found and found["tie"] else human.to_best(found, scale)


def _marked(text: str, front: bool) -> str:
    return f"{FRONT} {text}" if front else text


def judged_notes(protocol: Mapping[str, Any], rows: list[Any]) -> list[str]:
    """What a tie is, and which self-tests failed."""
    notes, about = [], protocol.get("judging")
    if about and any(row.get("against_best") for row in rows):
        what = f"{about['rows']:,} eval rows" + (" and seeds" if about["seeds"] > 1 else "")
        notes.append(
            f"to the best: difference to {about['best']}; tie: its 95 % interval over {about['resamples']:,} resamples of the {what} (paired) holds 0. Of "
            "twenty ties one is expected to look like a difference."
        )
    failed = [f"{each['name']} ({each['what']})" for each in protocol.get("self_tests") or [] if not each["passed"]]
    if failed:
        notes.append(f"SELF-TESTS OF THE METRICS FAILED, do not trust these numbers: {'; '.join(failed)}.")
    return notes


def footnotes(results: Mapping[str, Any]) -> list[str]:
    """What the table's numbers mean, one sentence each: interval, seeds, mark, gain, memory."""
    results = labelled(results)
    rows = list(results.get("rows") or [])
    protocol = results.get("protocol") or {}
    primary = primary_metric(protocol, results.get("runs") or [])
    seeds = max((len(row["seeds"]) for row in rows if row["kind"] == "technique"), default=0)
    direction = "higher" if higher_is_better(protocol, primary) else "lower"
    notes = []
    if any(row["primary"] and row["primary"]["low"] is not None for row in rows):
        notes.append(
            f"{primary} ({direction} is better): mean over {seeds} seeds ± half the width of the 95 % Student t "
            "interval; it covers seeds and row order, not another choice of evaluation rows."
        )
    else:
        notes.append(
            f"{primary} ({direction} is better): one seed, so no interval can be given and small differences may be "
            "chance; repeat with at least three seeds."
        )
    notes += judged_notes(protocol, rows)
    partial = [row["technique"] for row in rows if row["status"] == "partial"]
    if partial:
        notes.append(f"Means of {', '.join(partial)} run over the finished seeds only.")
    if any(row["pareto_memory"] or row["pareto_time"] for row in rows):
        notes.append(
            f"{FRONT} on a cost: on the Pareto front of {primary} and that cost, no other technique is at least as "
            "good for less (baselines take no part)."
        )
    reference = reference_row(rows)
    if reference is not None and any(row["quality_per_cost"] is not None for row in rows):
        unit = "points" if human.scale_of(results, primary) != 1.0 else primary
        above = f"the {reference['technique']} baseline" if reference["kind"] == "baseline" else "the untouched model"
        notes.append(f"gain/min: {unit} gained over {above} per minute of training.")
    kept = list(dict.fromkeys(row["forgetting"]["metric"] for row in rows if row.get("forgetting")))
    if kept:
        notes.append(
            f"forgot: how much {' (another model: '.join(kept)}{')' * (len(kept) - 1)} on what was to be retained got worse in the run; positive "
            "is forgotten, 0 is as before."
        )
    if protocol.get("jobs"):
        notes.append(
            f"Up to {protocol['jobs']} runs shared the machine, with {protocol['threads']} thread{'s' * (protocol['threads'] > 1)} each: train times and "
            "tokens/s are those of a shared machine and compare with each other only; peak memory is still each run's own."
        )
    if protocol.get("ray"):
        notes.append(
            f"Runs ran on the {protocol['ray']['nodes']} nodes of a Ray cluster: train times and tokens/s compare where those are alike (each run's "
            "result.json says its hardware)."
        )
    notes.append(
        "Peak memory is the highest of the run's own process (resident on CPU, allocated on CUDA), not of the whole "
        "comparison; train time is without loading and evaluation, with the one pass of a frozen backbone."
    )
    return notes
