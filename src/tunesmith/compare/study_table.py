"""A study in a terminal: one line a value, the knee marked.

lora.rank (lora)   accuracy (%)  trainable  train time  peak memory
1                    71.0 ± 2.1      12 k      20.1 s      601 MiB
8  knee              74.9 ± 1.0      96 k      21.4 s      611 MiB
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunesmith.compare import format as human
from tunesmith.compare.statistics import higher_is_better, primary_metric

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("trainable", "train time", "peak memory")


def study_tables(results: Mapping[str, Any]) -> list[Table]:
    """A table for each study of results.json."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    primary, scale = _metric(results)
    several = len({entry["model"] for entry in results.get("studies") or []}) > 1
    found = []
    for entry in results.get("studies") or []:
        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1),
            show_edge=False,
            caption=Text(sentence(entry, results)),
            caption_justify="left",
        )
        table.add_column(Text(title(entry, several)))
        for header in (human.metric_label(primary, scale), *COLUMNS):
            table.add_column(Text(header), justify="right")
        for cells in lines(entry, scale):
            table.add_row(*map(Text, cells))
        found.append(table)
    return found


def title(entry: Mapping[str, Any], several: bool = False) -> str:
    """`lora.rank (lora, max_train_rows=100)`: what is varied, and what is held."""
    held = [entry["technique"], *([entry["model"]] if several else [])]
    held += [f"{name}={value}" for name, value in entry["fixed"].items()]
    return f"{entry['key']} ({', '.join(map(str, held))})"


def lines(entry: Mapping[str, Any], scale: float) -> list[list[str]]:
    """A study's points as cells of text."""
    found = []
    for each in entry["points"]:
        knee = entry["knee"] is not None and each["value"] == entry["knee"]
        quality = human.quality(each, scale) if each["mean"] is not None else str(each["status"])
        found.append(
            [
                f"{each['value']}{'  knee' if knee else ''}",
                quality,
                human.count(each["trainable_parameters"]),
                human.seconds(each["train_seconds"]),
                human.in_bytes(each["peak_memory_bytes"]),
            ]
        )
    return found


def sentence(entry: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """What a study found, and by which rule."""
    primary, scale = _metric(results)
    if entry["best"] is None:
        return f"{title(entry)}: no run finished."
    means = {str(each["value"]): each for each in entry["points"]}
    best = means[str(entry["best"])]
    higher = higher_is_better(results.get("protocol") or {}, primary)
    text = f"{'Highest' if higher else 'Lowest'} mean {primary} at {entry['best']} ({human.quality(best, scale)})"
    if entry["knee"] is None:
        return f"{text}; no knee is marked: {entry['why_no_knee']}."
    if str(entry["knee"]) == str(entry["best"]):
        return f"{text}, which is also the knee: nothing cheaper is within one standard error of it."
    at = means[str(entry["knee"])]
    counts = (at["trainable_parameters"], best["trainable_parameters"])
    learn = (
        f" with {human.count(counts[0])} parameters instead of {human.count(counts[1])}" if len(set(counts)) > 1 else ""
    )
    return f"{text}; the knee is {entry['knee']} ({human.quality(at, scale)}){learn}: {entry['rule']}."


def _metric(results: Mapping[str, Any]) -> tuple[str, float]:
    primary = primary_metric(results.get("protocol") or {}, results.get("runs") or [])
    return primary, human.scale_of(results, primary)
