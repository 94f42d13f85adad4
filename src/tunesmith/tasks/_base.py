"""The contract of a task. A task owns everything about rows and the head, and never sees a technique.

rows --fit--> labels --encode--> token ids --collate--> batch --model--> outputs --loss / metrics / decode-->
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch

from tunesmith.config import Options
from tunesmith.data.sources import Rows

Batch = dict[str, torch.Tensor]


class Metric(Protocol):
    """Streams batches of decoded values into named numbers."""

    def update(self, predicted: np.ndarray[Any, Any], true: np.ndarray[Any, Any]) -> None:
        """Add one batch."""

    def compute(self) -> dict[str, float]:
        """Metrics over everything added."""


class Task(ABC):
    """What a run is for. `fit` learns from the training rows (labels); the rest is a function of that."""

    family: ClassVar[str] = "task"
    Options: ClassVar[type[Options]] = Options

    required: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]]
    """Columns whose content says that two rows are the same."""
    auto_class: ClassVar[str]
    reads: ClassVar[Literal["sequence", "tokens"]]
    default_max_length: ClassVar[int] = 256
    code_version: ClassVar[int] = 1
    """Part of the cache key of encoded rows: raise it when `encode` changes."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    @abstractmethod
    def name(self) -> str:
        """The registry name."""

    @property
    @abstractmethod
    def primary(self) -> str:
        """The metric that results are compared by."""

    @property
    def higher_is_better(self) -> bool:
        """Direction of the primary metric."""
        return True

    @abstractmethod
    def fit(self, train: Rows) -> None:
        """Learn what must be known before a model can be built (the labels), refusing rows that cannot be trained on."""

    @abstractmethod
    def check(self, rows: Rows, role: str) -> None:
        """Refuse rows that do not fit what `fit` learned, naming the first of them."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What `fit` learned, as JSON."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `fit` learned."""

    @abstractmethod
    def config_overrides(self) -> dict[str, Any]:
        """Model configuration entries that the head needs."""

    @abstractmethod
    def encode(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int) -> Iterator[dict[str, Any]]:
        """Token ids (and targets where the row has them) for each row; all arrays, keys the same for every row."""

    @abstractmethod
    def collate(self, rows: Sequence[Mapping[str, Any]], pad_id: int) -> Batch:
        """Pad encoded rows into one batch; targets under `labels` where the rows have them."""

    def model_inputs(self, batch: Batch) -> Batch:
        """The part of a batch that the model takes."""
        return {name: value for name, value in batch.items() if name not in ("labels", "weights", "row")}

    @abstractmethod
    def units(self, batch: Batch) -> float:
        """How many supervised units a batch holds (rows, or the sum of their weights; tokens).

        Known before the forward pass, so that the gradient of a step is sum / units over the whole accumulation
        window, however the window is cut into forward passes.
        """

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The supervised loss as a sum over the batch's units, in fp32."""

    @abstractmethod
    def metric(self) -> Metric:
        """A fresh accumulator of this task's metrics."""

    @abstractmethod
    def decode(self, outputs: Any, batch: Batch) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(prediction, score) arrays of a batch, one entry a row."""

    @abstractmethod
    def truth(self, batch: Batch) -> np.ndarray[Any, Any]:
        """The targets of a batch in the form that `metric` takes."""

    @abstractmethod
    def present(self, predicted: Any, score: Any) -> dict[str, Any]:
        """One row's prediction as a person or program reads it (`prediction`, `score`)."""


def pad(rows: Sequence[Mapping[str, Any]], name: str, value: int) -> torch.Tensor:
    """Rows of unequal length as one tensor [rows, longest], filled on the right."""
    longest = max(len(row[name]) for row in rows)
    table = np.full((len(rows), longest), value, np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row[name])] = row[name]
    return torch.from_numpy(table)


def attention_mask(rows: Sequence[Mapping[str, Any]], name: str = "input_ids") -> torch.Tensor:
    """1 at real positions, 0 at padding, [rows, longest]."""
    lengths = np.asarray([len(row[name]) for row in rows])
    return torch.from_numpy((np.arange(lengths.max())[None, :] < lengths[:, None]).astype(np.int64))
