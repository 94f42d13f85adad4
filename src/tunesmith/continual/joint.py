"""Joint: all stages at once, as tasks of one stage: the upper bound of continual learning, which needs all rows together.

    steps of task t = steps of its stage * its share there          steps in all = their sum

Every row is thus seen as often as in the stream, by a model that sees all of them in every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.continual._base import Strategy
from tunesmith.stream import Stage


class Joint(Strategy):
    """One stage made of all."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.stages: list[Stage] = []

    def plan_stream(self, stages: Sequence[Stage]) -> list[Stage]:
        """All tasks of all stages."""
        self.stages = list(stages)
        return [Stage.model_validate({"name": "joint", "tasks": [task for stage in stages for task in stage.tasks]})]

    def steps_by_task(self, rows: Mapping[str, int], epochs: float, batch_size: int) -> Mapping[str, float] | None:
        """Those of every task in its own stage."""
        found: dict[str, float] = {}
        for stage in self.stages:
            total = sum(rows[task.name] for task in stage.tasks)
            steps = stage.max_steps or total * (stage.epochs or epochs) / batch_size
            found |= {name: steps * share for name, share in stage.shares(rows).items()}
        return found

    def held(self) -> Any:
        """Nothing."""
        return ()
