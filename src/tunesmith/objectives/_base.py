"""The contract of an objective: from a model and a batch to a loss summed over the batch's supervised units.

    student                                        before a model is loaded: where it comes from, if the objective makes it
    prepare -> lesson, modules -> before_stage -> [ loss -> backward -> optimiser step ]* -> notes        for every stage
    judge                                          with what was kept, opened again

Every hook but `loss` has a default that does nothing. What an objective needs of the run (rows, other models, measurements) it reaches
through the `Ground` and the `session` it is handed, never by import.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn

from tunesmith.cache.ragged import RaggedRows
from tunesmith.config import Options, RunConfig
from tunesmith.data.sources import Rows
from tunesmith.models.load import Source
from tunesmith.tasks._base import Answer, Batch, Task


class Pass(Protocol):
    """What of a forward pass an objective sees (`training.feed.Pass`)."""

    task: Task
    model: Any
    batch: Batch
    units: float
    rows: Any
    places: Any
    labelled: bool
    recorder: Any
    part: str
    lean: bool


class Reader(Protocol):
    """A model ready to read rows (`artifacts.use.Artifact` is one)."""

    @property
    def model(self) -> Any:
        """The transformers model."""

    @property
    def task(self) -> Any:
        """What its head is for."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""

    @property
    def max_length(self) -> int:
        """Tokens that a row is cut to."""


class Ground(Protocol):
    """What stands before anything is set up to learn, and after the artifact was opened again (`training.session.Ground`)."""

    config: RunConfig
    folder: Path
    heads: Any
    technique: Any
    parts: Mapping[str, Any]
    device: torch.device
    stage: str
    open: Callable[[str], Any]

    def reader(self, part: Any) -> Reader:
        """The model as it stands, reading the rows of a task."""

    def encode(self, reader: Reader, rows: Rows) -> RaggedRows:
        """The features of rows, as a reader's task makes them."""

    def answers(self, reader: Reader, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """What a reader says of rows without targets."""

    def score(self, reader: Reader, rows: Rows) -> dict[str, float]:
        """A reader's metrics on labelled rows."""

    def race(self, readers: Mapping[str, Reader], rows: Rows) -> dict[str, dict[str, float]]:
        """How fast readers are on the same rows."""


@dataclass(frozen=True)
class Lesson:
    """What a task learns from, where an objective puts something else in the place of its training rows.

    Attributes:
        features: encoded.
        sha256: of what they were made from.
        labelled: for each feature, whether its targets are real; None: all are.
    """

    features: RaggedRows
    sha256: str
    labelled: np.ndarray[Any, Any] | None = None


class Objective(ABC):
    """What is minimised."""

    family: ClassVar[str] = "objective"
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Any) -> None:
        self.options = options

    def required_outputs(self) -> set[str]:
        """What a pass must leave in its `recorder` beside logits (`hidden_states`, `attentions`)."""
        return set()

    def further_inputs(self, config: RunConfig) -> dict[str, str]:
        """Hashes of what it reads beside the run's rows and model, under what that is for and how it is named."""
        return {}

    def student(self, config: RunConfig, task: Task, folder: Path, open: Callable[[str], Any]) -> Source | None:
        """The model that a run starts from, where the objective makes it; None: the one that `--model` names.

        Args:
            config: the run's.
            task: the first task, fitted to its rows.
            folder: the run's.
            open: opens an artifact for use.
        """
        return None

    def prepare(self, ground: Ground) -> None:  # noqa: B027
        """Called with a stage's heads in place and the technique attached, before anything is set up to learn.

        Raises:
            UserError: the objective cannot be reached on these rows and models.
        """

    def lesson(self, part: str) -> Lesson | None:
        """What a task of the stage learns from in place of its own features; None: those."""
        return None

    def modules(self) -> Mapping[str, nn.Parameter]:
        """Parameters of its own that learn along, under names that no other stage uses."""
        return {}

    def before_stage(self, session: Any) -> None:  # noqa: B027
        """Called before the first step."""

    @abstractmethod
    def loss(self, each: Pass) -> torch.Tensor:
        """Loss of one forward pass, summed over its units."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must know beside the values of `modules`, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore it."""

    def notes(self) -> dict[str, Any]:
        """What there is to say of a stage's training, by task, for result.json."""
        return {}

    def judge(self, ground: Ground, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """What there is to say of the kept artifact beside its metrics, by task, for result.json.

        Args:
            ground: with the artifact's model under its heads.
            metrics: of every task, on its eval rows.
        """
        return {}


def labels_loss(each: Pass) -> torch.Tensor:
    """The loss of a pass against its labels, summed over units, by the leaner way where the pass may take it."""
    if not each.lean:
        return each.task.loss(each.task.forward(each.model, each.batch), each.batch)
    found = each.task.lean_loss(each.model, each.batch)
    assert found is not None
    return found
