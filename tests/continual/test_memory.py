"""What experience replay keeps."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from tunesmith import registry
from tunesmith.continual.experience_replay import balanced, within_bytes
from tunesmith.data.sources import Rows


def kept(task: str, label: str, number: int) -> dict[str, Any]:
    return {"task": task, "row": json.dumps({"text": f"{task} {number}", "label": label}), "number": number}


def replay(**options: Any) -> Any:
    cls = registry.load("strategy", "er")
    return cls(cls.Options.model_validate(options))


class Part:
    """A task's rows, as much as the memory looks at of them."""

    def __init__(self, labels: list[str]) -> None:
        table = Dataset.from_dict({"text": [f"{label} {i}" for i, label in enumerate(labels)], "label": labels})
        train = Rows(table, "rows", "rows")
        self.roles = SimpleNamespace(train=train)


def after_stages(memory: Any, *stages: dict[str, Part], seed: int = 0, folder: Path) -> list[dict[str, Any]]:
    for number, parts in enumerate(stages):
        config = SimpleNamespace(seed=seed)
        memory.after_stage(SimpleNamespace(parts=parts, config=config, stage=f"{number:02d}", folder=folder))
    return list(memory.memory)


def test_a_balanced_memory_is_even_over_tasks_and_labels() -> None:
    rows = [kept("a", "x", i) for i in range(90)] + [kept("a", "y", i) for i in range(10)]
    rows += [kept("b", "z", i) for i in range(50)]
    found = balanced(rows)[:40]
    assert Counter(row["task"] for row in found) == {"a": 20, "b": 20}
    assert Counter(json.loads(row["row"])["label"] for row in found if row["task"] == "a") == {"x": 10, "y": 10}


def test_a_rare_label_is_kept_out_of_many_rows(tmp_path: Path) -> None:
    found = after_stages(replay(size=40), {"a": Part(["x"] * 980 + ["y"] * 20)}, folder=tmp_path)
    assert Counter(json.loads(row["row"])["label"] for row in found) == {"x": 20, "y": 20}


@pytest.mark.parametrize("limit", ["size", "bytes"])
def test_a_reservoir_keeps_every_row_with_the_same_chance(limit: str, tmp_path: Path) -> None:
    """Stages of 100 and 300 rows, the second of two tasks: three quarters of the memory are of it (40 seeds, four standard errors)."""
    room = {"size": 50} if limit == "size" else {"bytes": 50 * len(json.dumps({"text": "x 100", "label": "x"}))}
    counts: Counter[str] = Counter()
    for seed in range(40):
        stages = ({"a": Part(["x"] * 100)}, {"b": Part(["x"] * 150), "c": Part(["x"] * 150)})
        found = after_stages(replay(select="reservoir", **room), *stages, seed=seed, folder=tmp_path)
        assert len(found) == pytest.approx(50, abs=3)
        counts.update(row["task"] for row in found)
    error = 4 * (0.75 * 0.25 / counts.total()) ** 0.5
    assert (counts["b"] + counts["c"]) / counts.total() == pytest.approx(0.75, abs=error)
    assert counts["b"] / counts.total() == pytest.approx(0.375, abs=error)


def test_a_memory_of_bytes_is_as_large_as_they_allow(tmp_path: Path) -> None:
    rows = [kept("a", "x", i) for i in range(20)]
    size = len(rows[0]["row"].encode())
    assert len(within_bytes(rows, size * 5)) == 5
    for select in ("balanced", "reservoir"):
        assert len(after_stages(replay(bytes=10**9, select=select), {"a": Part(["x"] * 700)}, folder=tmp_path)) == 700


@pytest.mark.parametrize(("task", "options", "refused"), [
    ("question-answering", {}, True), ("text-classification", {"problem": "multi-label"}, True), ("language-modeling", {"objective": "masked"}, True),
    ("text-classification", {"problem": "single-label"}, False), ("token-classification", {}, False), ("instruction", {}, False),
])  # fmt: skip
def test_outputs_are_kept_where_a_row_gives_the_same_ones_again(
    task: str, options: dict[str, Any], refused: bool
) -> None:
    cls = registry.load("task", task)
    made = cls(cls.Options(**options))
    assert bool(replay(logits=True).objection(made, "encoder")) == refused
    assert replay().objection(made, "encoder") is None
