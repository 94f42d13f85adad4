"""A stage of tasks whose metrics rise and fall."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.outcome import Outcome


def part(primary: str, rises: bool) -> Any:
    return SimpleNamespace(task=SimpleNamespace(primary=primary, higher_is_better=rises))


PARTS = {"films": part("accuracy", True), "texts": part("bits_per_byte", False), "last": part("accuracy", True)}


def stage(name: str, *tasks: str) -> Any:
    return SimpleNamespace(name=name, tasks=[SimpleNamespace(name=task) for task in tasks])


def outcome(first: tuple[str, ...], *scores: dict[str, float]) -> dict[str, Any]:
    done = [
        {
            "after": {name: {PARTS[name].task.primary: value} for name, value in found.items()}, "before": {}, "untouched": {}, "stage": "x",
            "strategy": {"parameters": 0, "memory": 0, "disk": 0},
        }
        for found in scores
    ]  # fmt: skip
    config: Any = SimpleNamespace(stream="stages.yaml", continue_from=None, strategy="none")
    found = Outcome(config, [stage("first", *first), stage("second", "last")], done, PARTS, "").stream()
    assert found is not None
    return found


def test_what_falls_counts_with_a_minus_beside_what_rises() -> None:
    """Both tasks get better with the second stage: nothing is forgotten, and the score of the stage rises."""
    before, after = {"films": 0.6, "texts": 2.0}, {"films": 0.7, "texts": 1.5, "last": 0.9}
    found = outcome(("films", "texts"), before, after)
    assert found["matrix"][0][0] == pytest.approx((0.6 - 2.0) / 2)
    assert found["matrix"][1][0] == pytest.approx((0.7 - 1.5) / 2)
    assert found["forgetting"] == 0
    assert found["backward_transfer"] == pytest.approx(0.3)
    assert found["higher_is_better"] == [True, True]


def test_a_stage_that_only_falls_keeps_its_own_numbers() -> None:
    found = outcome(("texts",), {"texts": 2.0}, {"texts": 2.5, "last": 0.9})
    assert [row[0] for row in found["matrix"]] == [2.0, 2.5]
    assert found["forgetting"] == pytest.approx(0.5) and found["higher_is_better"] == [False, True]
    assert found["average_accuracy"] == pytest.approx((0.9 - 2.5) / 2)
