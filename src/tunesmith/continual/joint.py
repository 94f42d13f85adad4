"""Joint: all stages at once, as tasks of one stage: the upper bound of continual learning, which needs all rows together."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.continual._base import Strategy
from tunesmith.stream import Stage


class Joint(Strategy):
    """One stage made of all."""

    def plan_stream(self, stages: Sequence[Stage]) -> list[Stage]:
        """All tasks of all stages, mixed by their rows, with as many steps as the stages have together."""
        steps = [stage.max_steps for stage in stages]
        return [
            Stage.model_validate(
                {
                    "name": "joint",
                    "tasks": [task for stage in stages for task in stage.tasks],
                    "mixing": "proportional",
                    "epochs": None if all(steps) else stages[0].epochs,
                    "max_steps": sum(n for n in steps if n) if all(steps) else None,
                }
            )
        ]
