"""The contract of a strategy. Every hook has a default that does nothing.

    plan_stream                                                                          once, before anything is read
    before_stage -> [ extra_batches -> backward -> after_backward -> penalty -> clipping, optimiser step -> after_step ]*
                 -> after_stage                                                          for every stage

What a strategy needs of the run (parameters and their gradients, rows, the model of the stage before, a training loop of its own)
it reaches through the `session`, never by import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from tunesmith.config import Options, RunConfig
from tunesmith.stream import Stage


class Strategy:
    """How earlier stages are kept."""

    family: ClassVar[str] = "strategy"
    Options: ClassVar[type[Options]] = Options
    trains_earlier_heads: ClassVar[bool] = False
    """Whether heads that the stage's own rows do not use go on learning (from a memory, or from what they said before)."""

    looks_back: ClassVar[bool] = True
    """Whether it needs to have been there when earlier stages were learned."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def further_inputs(self, config: RunConfig) -> dict[str, str]:
        """Hashes of what it reads beside the run's rows and model, under what that is for and how it is named."""
        return {}

    def plan_stream(self, stages: Sequence[Stage]) -> list[Stage]:
        """The stages as they are trained (`joint` makes one of all)."""
        return list(stages)

    def steps_by_task(self, rows: Mapping[str, int], epochs: float, batch_size: int) -> Mapping[str, float] | None:
        """How many steps' worth of each task's rows the coming stage draws, where its mixing and length do not say.

        Args:
            rows: what each task of the stage learns from, by name.
            epochs: passes over the rows, where the stream does not say.
            batch_size: rows in a step.
        """
        return None

    def objection(self, task: Any, kind: str) -> str | None:
        """Why it cannot keep stages of a task, if it cannot.

        Args:
            task: what the rows are for.
            kind: of the model: `encoder`, `decoder` or `encoder-decoder`.
        """
        return None

    def before_model(self, heads: Any, stage_number: int, parts: Mapping[str, Any]) -> None:
        """Called with the stage's heads in place and the technique attached, before anything is set up to learn.

        Raises:
            TechniqueError: the strategy cannot keep such a stage.
        """

    def before_stage(self, session: Any) -> None:
        """Called before the first step of a stage; `session.stage_number` counts from 0."""

    def extra_batches(self, session: Any, passes: Sequence[Any]) -> list[Any]:
        """Further forward passes (`Pass`) of the coming step beside its own, each with its `part` and `weight`."""
        return []

    def after_backward(self, session: Any) -> None:
        """Called with the raw gradient of the losses in the masters, before penalty and clipping."""

    def penalty(self, session: Any) -> None:
        """Add the gradient of a penalty on the parameters to the masters' gradients."""

    def after_step(self, session: Any) -> None:
        """Called when the parameters have changed."""

    def after_stage(self, session: Any) -> None:
        """Called after the last step of a stage, with the weights that are kept."""

    def mark(self) -> Any:
        """What of its state belongs to the weights as they are now, in case these are the ones that are kept; tensors in any nesting."""
        return None

    def return_to(self, marked: Any) -> None:
        """The weights are those again that were marked."""

    def modules(self) -> Mapping[str, nn.Parameter]:
        """Parameters of its own that learn along."""
        return {}

    def held(self) -> Any:
        """What is in memory beside the model and its optimiser: tensors, modules, rows, in any nesting."""
        return {name: value for name, value in vars(self).items() if name != "options"}

    def files(self, folder: Path) -> list[Path]:
        """Files and folders of a run that the next stage needs beside the state: that is written for it."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What the next stage and a checkpoint must know, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
