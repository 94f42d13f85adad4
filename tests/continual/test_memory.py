"""What experience replay keeps."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from tunesmith import registry
from tunesmith.continual.experience_replay import balanced, within_bytes


def kept(task: str, label: str, number: int) -> dict[str, Any]:
    return {"task": task, "row": json.dumps({"text": f"{task} {number}", "label": label}), "number": number}


def replay(**options: Any) -> Any:
    cls = registry.load("strategy", "er")
    return cls(cls.Options.model_validate(options))


def test_a_balanced_memory_is_even_over_tasks_and_labels() -> None:
    rows = [kept("a", "x", i) for i in range(90)] + [kept("a", "y", i) for i in range(10)]
    rows += [kept("b", "z", i) for i in range(50)]
    found = balanced(rows, 40)
    assert Counter(row["task"] for row in found) == {"a": 20, "b": 20}
    assert Counter(json.loads(row["row"])["label"] for row in found if row["task"] == "a") == {"x": 10, "y": 10}


def test_a_reservoir_keeps_every_row_with_the_same_chance() -> None:
    """A stage of 300 rows after one of 100: three quarters of the memory on average (40 seeds, four standard errors)."""
    shares = []
    for seed in range(40):
        memory = replay(select="reservoir", size=50)
        first = memory.select([], [kept("a", "x", i) for i in range(50)], seed, 100)
        second = memory.select(first, [kept("b", "x", i) for i in range(50)], seed, 300)
        assert len(second) == 50
        shares.append(sum(row["task"] == "b" for row in second) / 50)
    assert abs(sum(shares) / len(shares) - 0.75) < 4 * (0.75 * 0.25 / 50 / 40) ** 0.5


def test_a_memory_of_bytes() -> None:
    rows = [kept("a", "x", i) for i in range(20)]
    size = len(rows[0]["row"].encode())
    assert len(within_bytes(rows, size * 5)) == 5
    assert len(replay(bytes=size * 7).select([], rows, 0, 20)) == 7
