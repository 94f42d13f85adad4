"""Several models in one comparison: which techniques each one gets, where its runs lie, what its rows are called.

A model that starts from random weights has nothing to adapt, so it learns in full whatever techniques the others are
given. Baselines that do not look inside a model run once, with the first one's tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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


def labelled(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results as tables and figures show them: with several models, each row is called `technique, model`.

    What stands in results.json keeps `technique` and `model` apart.
    """
    protocol = dict(results.get("protocol") or {})
    if len(protocol.get("models") or []) < 2:
        return dict(results)

    def named(entry: Mapping[str, Any]) -> dict[str, Any]:
        alone = entry.get("kind") == "baseline" and not _reads_model(entry["technique"])
        return {**entry, "technique": entry["technique"] if alone else f"{entry['technique']}, {entry['model']}"}

    rows, runs = ([named(entry) for entry in results.get(key) or []] for key in ("rows", "runs"))
    order = list(dict.fromkeys(run["technique"] for run in runs if run.get("kind") == "technique"))
    protocol |= {"model": ", ".join(protocol.pop("models")), "techniques": order}
    return {**results, "protocol": protocol, "rows": rows, "runs": runs}
