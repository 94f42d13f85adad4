"""A stream is an ordered list of stages; a stage trains on one or several tasks.

A plain run is a stream of one stage with one task, multitask learning is one stage with several tasks, and
continual learning is several stages. Everything above works on streams, so none of the three is special.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tunesmith.config import RunConfig


@dataclass(frozen=True)
class TaskSpec:
    """One task of a stage: which rows it takes and how much its loss weighs."""

    name: str
    task: str
    train: str | None
    validation: str | None = None
    eval: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True)
class Stage:
    """The tasks that are trained together."""

    name: str
    tasks: tuple[TaskSpec, ...]


@dataclass(frozen=True)
class Stream:
    """The stages in the order they are trained."""

    stages: tuple[Stage, ...]


def from_config(config: RunConfig) -> Stream:
    """The stream a configuration describes."""
    spec = TaskSpec(config.task, config.task, config.train, config.validation, config.eval, config.columns)
    return Stream((Stage(config.task, (spec,)),))
