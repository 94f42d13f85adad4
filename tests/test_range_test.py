"""The range test tells a rate that learns from those that do not, and keeps nothing of what it learned."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tunesmith import range_test
from tunesmith.config import RunConfig, TrainingOptions, build
from tunesmith.errors import UserError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for
from tunesmith.training.optim import DECADES, factor


def curve(steps: int = 150) -> tuple[list[float], list[float]]:
    """A loss that stays, falls from 1e-3 on, and rises from 3e-2 on."""
    rates = [10 ** (-DECADES * (1 - i / (steps - 1))) for i in range(steps)]
    losses = [2.0 - min(1.5, max(0.0, math.log10(rate / 1e-3))) + max(0.0, 20 * (rate - 3e-2)) for rate in rates]
    return rates, losses


def test_the_rate_grows_by_a_constant_factor() -> None:
    options = TrainingOptions(schedule="range", warmup=0.0)
    shares = [factor(step, 50, options) for step in range(50)]
    ratios = [b / a for a, b in itertools.pairwise(shares)]
    assert shares[0] == pytest.approx(10**-DECADES) and shares[-1] == 1.0
    assert max(ratios) == pytest.approx(min(ratios))


def test_what_is_proposed_lies_below_the_lowest_loss() -> None:
    found = range_test.judge(*curve(), default=5e-5)
    assert 2e-2 < found.lowest < 8e-2
    assert found.proposed == pytest.approx(found.lowest / 4, rel=0.5)
    assert f"--learning-rate {found.proposed:g}" in found.sentence() and "rose beyond it" in found.sentence()


def test_a_flat_curve_proposes_nothing() -> None:
    rates, _ = curve()
    found = range_test.judge(rates, [0.7 + 0.01 * (-1) ** i for i in range(len(rates))], default=2e-4)
    assert found.proposed is None
    assert "keep the default, --learning-rate 0.0002" in found.sentence()


def test_too_few_steps_tell_nothing() -> None:
    with pytest.raises(UserError, match="ended after 3 steps"):
        range_test.judge([1e-5] * 3, [1.0] * 3, default=1e-4)


def config(models: Path, output: Path, kind: str = "bert", task: str = "text-classification", **more: Any) -> RunConfig:
    rows = output.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in rows_for(task, 64)), encoding="utf-8")
    given = {"model": str(tiny_model(kind, models / kind)), "task": task, "train": str(rows), "technique": "adapter", "output": str(output), "batch_size": 16,
             "dtype": "float32", "device": "cpu", "doctor": False, **more}  # fmt: skip
    return build(RunConfig, given)


def test_on_a_model(tmp_path: Path, models: Path, cli: Any) -> None:
    output = tmp_path / "run"
    found, plot = range_test.find(config(models, output))
    assert found.proposed is not None and 1e-4 < found.proposed < 1.0
    assert min(found.smoothed) < 0.9 * found.smoothed[0]
    page = plot.read_text(encoding="utf-8")
    assert "smoothed" in page and "cdn.plot.ly" not in page.split("<body>")[1][:2000]
    assert json.loads((output / "learning_rate.json").read_text())["proposed"] == found.proposed
    assert sorted(each.name for each in output.iterdir()) == ["learning_rate.html", "learning_rate.json"]
    # The folder is free for the run itself, from the command line.
    rows = str(tmp_path / "rows.jsonl")
    words = [
        "train",
        "--model",
        str(models / "bert"),
        "--train",
        rows,
        "--technique",
        "adapter",
        "--output",
        str(output),
        "--device",
        "cpu",
        "--no-doctor",
    ]
    answer = cli(*words, "--find-learning-rate", "--json")
    assert answer.code == 0 and answer.json["proposed"] and answer.json["plot"] == str(output / "learning_rate.html")
    assert not (output / "artifact").exists()
    assert cli(*words, "--learning-rate", str(found.proposed), "--max-steps", "2").code == 0


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("llama", "instruction"),
        ("t5", "summarization"),
        ("lstm", "language-modeling"),
        ("bert", "token-classification"),
    ],
)
def test_on_other_models_and_tasks(kind: str, task: str, tmp_path: Path, models: Path) -> None:
    found, _ = range_test.find(config(models, tmp_path / "run", kind=kind, task=task, technique="full"))
    assert found.proposed is not None
    assert min(found.smoothed) < 0.9 * found.smoothed[0]


def test_a_stream_has_no_one_rate(tmp_path: Path, models: Path) -> None:
    stages = {"stages": [{"name": "a", "train": str(tmp_path / "rows.jsonl")}]}
    with pytest.raises(UserError, match="give --train instead of a stream"):
        range_test.find(config(models, tmp_path / "run", train=None, stream=stages))
