"""The rate of a run that names none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tunesmith
from tunesmith import registry
from tunesmith.config import RunConfig, build
from tunesmith.models import new
from tunesmith.techniques._base import create
from tunesmith.techniques._rate import default_rate, usual_rate
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for


@pytest.mark.parametrize("task", registry.names("task"))
def test_a_language_model_s_output_layer_has_another(task: str) -> None:
    """Heads that begin at random learn at 1e-2 on frozen features; a layer that has learned already at a tenth of it."""
    kind = registry.load("task", task)
    features = registry.load("technique", "feature-based")
    assert default_rate(features, [kind]) == (1e-2 if kind.owns_head else 1e-3)
    config = build(RunConfig, {"model": "m", "train": "rows.jsonl", "task": task})
    assert usual_rate(config, create("feature-based", None)) == default_rate(features, [kind])
    assert usual_rate(config, create("lora", None)) == registry.load("technique", "lora").default_learning_rate


def test_tasks_side_by_side_and_models_from_nothing() -> None:
    tag, write = (registry.load("task", name) for name in ("token-classification", "instruction"))
    features = registry.load("technique", "feature-based")
    assert default_rate(features, [tag, write]) == 1e-3 and default_rate(features, [tag]) == 1e-2
    config = build(RunConfig, {"model": "new:lstm", "train": "rows.jsonl"})
    assert usual_rate(config, create("full", None)) == new.LEARNING_RATE


@pytest.mark.parametrize(("task", "rate"), [("instruction", 1e-3), ("text-classification", 1e-2)])
def test_a_run_learns_at_it(task: str, rate: float, models: Path, tmp_path: Path) -> None:
    rows = rows_for(task, 16)
    run = tunesmith.train(
        str(tiny_model("llama", models / "llama")), task=task, train=rows, eval=rows[:4], technique="feature-based", max_steps=2, batch_size=8,
        device="cpu", doctor=False, output=tmp_path / "run",
    )  # fmt: skip
    assert json.loads((run.folder / "result.json").read_text(encoding="utf-8"))["training"]["learning_rate"] == rate
