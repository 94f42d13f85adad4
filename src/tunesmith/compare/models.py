"""Several models in one comparison: which techniques each one gets, where its runs lie, what its rows are called.

A model that starts from random weights has nothing to adapt, so it learns in full whatever techniques the others are
given. Baselines that do not look inside a model run once, with the first one's tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith import registry
from tunesmith.config import CompareConfig, is_new


def models_of(config: CompareConfig) -> list[str]:
    """The models that are compared."""
    return config.models or [config.model]


def techniques_of(config: CompareConfig, model: str) -> list[str]:
    """The techniques that a model is trained with."""
    return ["full"] if is_new(model) and len(models_of(config)) > 1 else config.techniques


def baselines_of(config: CompareConfig, model: str) -> list[str]:
    """The baselines that run with a model: all with the first, then those that read the model itself."""
    names = config.baselines or []
    if model == models_of(config)[0]:
        return [n for n in names if not (is_new(model) and _reads_model(n) and len(models_of(config)) > 1)]
    return [n for n in names if _reads_model(n) and not is_new(model)]


def _reads_model(baseline: str) -> bool:
    return bool(registry.load("baseline", baseline).reads_model)


def place_of(config: CompareConfig, folder: Path, model: str, name: str, seed: int) -> Path:
    """The folder of a run: runs/<technique>/<seed>, under the model's name where there are several."""
    parts = [] if len(models_of(config)) == 1 else [re.sub(r"[^\w.-]+", "-", model).strip("-")]
    return Path(folder, "runs", *parts, name.replace(":", "-"), str(seed))


def shown_name(entry: Mapping[str, Any], several: bool) -> str:
    """What tables call a row: its technique, with the strategy or task of a stream, and the model where there are several."""
    technique = str(entry.get("plain_technique", entry["technique"]))
    name = technique
    if entry.get("strategy") and entry.get("kind") == "technique":
        name += f" + {entry['strategy']}"
    elif entry.get("task"):
        name += f", {entry['task']} alone"
    if entry.get("setting"):
        name += (
            f"@{entry['setting'].replace(', ', ',')}"
            if "," in entry["setting"]
            else f"@{entry['setting'].partition('=')[2]}"
        )
    fixed = entry.get("kind") == "baseline" and not _reads_model(technique)
    return f"{name}, {entry['model']}" if several and not fixed else name


def models_of_rows(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many models rows are of."""
    return len({row.get("model") for row in rows})


def labelled(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results as tables and figures show them: with several models or strategies, each row is called by all that tells it apart.

    What stands in results.json keeps `technique`, `strategy` and `model` apart.
    """
    protocol = dict(results.get("protocol") or {})
    several = len(protocol.get("models") or []) > 1
    if not several and not protocol.get("stream") and not protocol.get("grid"):
        return dict(results)

    def named(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {**entry, "technique": shown_name(entry, several), "plain_technique": entry["technique"]}

    rows, runs = ([named(entry) for entry in results.get(key) or []] for key in ("rows", "runs"))
    order = list(dict.fromkeys(run["technique"] for run in runs if run.get("kind") == "technique"))
    if several:
        protocol["model"] = ", ".join(protocol.pop("models"))
    return {**results, "protocol": {**protocol, "techniques": order}, "rows": rows, "runs": runs}
