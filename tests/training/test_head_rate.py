"""A rate for heads: they learn at it and nothing else does, and where the run's own is higher it changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tunesmith
from tunesmith.errors import ConfigError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows
from tunesmith.training.optim import with_head_rate


def trained(models: Path, place: Path, rate: float | None, **more: Any) -> dict[str, torch.Tensor]:
    """The tensors of a run's artifact."""
    settings: dict[str, Any] = {
        "train": toy_rows(32), "eval": toy_rows(8), "technique": "lora", "max_steps": 6, "batch_size": 8, "learning_rate": 1e-12, "dtype": "float32", "device": "cpu",
        "doctor": False, "training": {"head_learning_rate": rate} if rate else {}, **more,
    }  # fmt: skip
    kind = settings.pop("kind", "bert")
    run = tunesmith.train(str(tiny_model(kind, models / kind)), output=place, **settings)
    return load_file(next((run.folder / "artifact").glob("*.safetensors")))


def moved(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> dict[str, float]:
    """By how much each tensor differs."""
    return {name: float((a[name] - b[name]).abs().max()) for name in a}


@pytest.mark.parametrize(
    ("kind", "technique", "head"),
    [("bert", "lora", "classifier"), ("bert", "adapter", "classifier"), ("bert", "full", "classifier"), ("llama", "lora", "score"),
     ("llama", "full", "score"), ("t5", "lora", "classification_head")],
)  # fmt: skip
def test_the_head_alone_learns_at_it(kind: str, technique: str, head: str, models: Path, tmp_path: Path) -> None:
    plain = trained(models, tmp_path / "plain", None, technique=technique, kind=kind)
    quick = trained(models, tmp_path / "quick", 1e-2, technique=technique, kind=kind)
    far = {name for name, distance in moved(plain, quick).items() if distance > 1e-6}
    assert far and all(head in name for name in far)
    assert max(moved(plain, quick).values()) > 1e-2  # six steps of up to a hundredth


def test_a_higher_rate_of_the_run_stays(models: Path, tmp_path: Path) -> None:
    plain, floor = (
        trained(models, tmp_path / str(rate), rate, learning_rate=1e-2, technique="feature-based")
        for rate in (None, 5e-3)
    )
    assert max(moved(plain, floor).values()) == 0.0


def test_every_head_of_a_run_has_it(models: Path, tmp_path: Path) -> None:
    """Of two tasks that learn together both heads move, the second of which is not part of the first one's model."""
    tasks = [
        {"name": name, "task": task, "train": rows_for(task, 16), "eval": rows_for(task, 8)}
        for name, task in (("mood", "text-classification"), ("names", "token-classification"))
    ]
    found = []
    for rate in (None, 1e-2):
        run = tunesmith.train(
            str(tiny_model("bert", models / "bert")), stream={"stages": [{"name": "both", "tasks": tasks}]}, technique="lora", max_steps=6, batch_size=8,
            learning_rate=1e-12, dtype="float32", device="cpu", doctor=False, training={"head_learning_rate": rate} if rate else {}, output=tmp_path / str(rate),
        )  # fmt: skip
        files = sorted((run.folder / "artifact").rglob("*.safetensors"))
        found.append({f"{file.name} {name}": tensor for file in files for name, tensor in load_file(file).items()})
    far = {name for name, distance in moved(*found).items() if distance > 1e-6}
    heads = {name for name in found[0] if "classifier" in name}
    assert len(heads) >= 4 and far == heads


def test_the_output_layer_of_a_checkpoint_is_no_such_head(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task: dict[str, Any] = {
        "kind": "gpt2",
        "task": "instruction",
        "train": rows_for("instruction", 16),
        "eval": rows_for("instruction", 4),
        "technique": "full",
    }
    plain, given = (trained(models, tmp_path / str(rate), rate, **task) for rate in (None, 1e-2))
    assert max(moved(plain, given).values()) == 0.0
    assert "head_learning_rate has no effect" in capsys.readouterr().err


def test_groups() -> None:
    groups = [
        {"names": ["a", "head.w"], "lr": 0.1},
        {"names": ["b", "head.v"], "lr": 0.5},
        {"names": ["head.u"], "lr": 0.1},
    ]
    assert with_head_rate(groups, {"head.w", "head.v", "head.u"}, None) == groups
    assert with_head_rate(groups, {"head.w", "head.v", "head.u"}, 0.2) == [
        {"names": ["a"], "lr": 0.1}, {"names": ["head.w"], "lr": 0.2}, groups[1], {"names": ["head.u"], "lr": 0.2},
    ]  # fmt: skip


def test_it_is_above_nothing(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="head_learning_rate"):
        trained(models, tmp_path, -1.0)
