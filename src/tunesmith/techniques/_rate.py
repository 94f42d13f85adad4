"""The learning rate of a run that names none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tunesmith import config as configuration
from tunesmith import registry

if TYPE_CHECKING:
    from tunesmith.techniques._base import Technique


def usual_rate(config: Any, technique: Technique, tasks: Iterable[Any] | None = None) -> float:
    """A technique's default, or that of a model from nothing.

    Args:
        config: of the run.
        technique: that learns.
        tasks: what is learned; that of the configuration where there are none.
    """
    if configuration.is_new(config.model) and technique.name == "full":
        from tunesmith.models import new

        return float(new.LEARNING_RATE)
    return default_rate(technique, [registry.load("task", config.task)] if tasks is None else tasks)


def default_rate(technique: Technique | type[Technique], tasks: Iterable[Any]) -> float:
    """A technique's default for tasks (classes or instances): another where a language model's output layer is all that learns."""
    other = technique.output_layer_learning_rate
    return technique.default_learning_rate if other is None or all(task.owns_head for task in tasks) else other
