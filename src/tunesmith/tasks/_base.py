"""The contract of a task. A task owns everything about rows and the head, and never sees a technique.

    rows --fit--> labels --encode--> features --collate--> batch --forward--> outputs --loss
                                                                                 |--read--> records --join--> answer a row --metric

A row becomes one feature, or several where it is cut into windows; `read` takes from the model's outputs what is needed of
each feature, and `join` makes one answer of a row's features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch

from tunesmith.config import Options
from tunesmith.data.sources import Rows
from tunesmith.errors import DataError
from tunesmith.metrics import higher_is_better
from tunesmith.tasks._chunked import BeforeHead, chunked_cross_entropy

Batch = dict[str, torch.Tensor]
Features = Mapping[str, Any]
"""One encoded piece of a row: `input_ids`, targets under `labels` where the row has them, and what else the task stores."""
IGNORED = -100
"""The label of positions that nothing is asked of."""


@dataclass(frozen=True)
class Answer:
    """What a model says of one row.

    Attributes:
        value: as the task's metric takes it.
        shown: as a person or program reads it: `prediction`, and `score` or `spans`.
        numbers: scores that a second scoring of the same artifact must repeat.
    """

    value: Any
    shown: dict[str, Any]
    numbers: Sequence[float] = field(default_factory=list)


class Metric(Protocol):
    """Streams answers into named numbers."""

    def update(self, predicted: Any, true: Any) -> None:
        """Add one row."""

    def compute(self) -> dict[str, float]:
        """Metrics over everything added."""

    # A metric whose rows can be drawn again has `counts` and `from_counts` too (`tunesmith.metrics.counts`).


class Task(ABC):
    """What a run is for. `fit` learns from the training rows (labels); the rest is a function of that."""

    family: ClassVar[str] = "task"
    Options: ClassVar[type[Options]] = Options

    required: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]]
    """Columns whose content says that two rows are the same."""
    groups: ClassVar[tuple[str, ...]] = ()
    """Columns whose content keeps rows on one side when a part is cut off, where that is less than all inputs (a passage with
    several questions)."""
    targets: ClassVar[tuple[str, ...]]
    """Columns that hold what is to be predicted: rows to predict for need not have them."""
    structured: ClassVar[tuple[str, ...]] = ()
    """Columns whose cells are lists or objects; those of all others are text, or a number that is read as text."""
    synonyms: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Other common names of a column, taken when the column is not there (`messages`: `conversations`)."""
    stand_ins: ClassVar[Mapping[str, str]] = {}
    """A column that rows to predict for may have instead of a required one (`tokens`: `text`)."""
    plain_text: ClassVar[Literal["lines", "conll"] | None] = None
    """How a .txt file is read, where the task can use one."""
    auto_class: ClassVar[str]
    reads: ClassVar[Literal["sequence", "tokens"]]
    """Whether the head reads one vector a row or one a token."""
    owns_head: ClassVar[bool] = True
    """Whether the head belongs to the task and always learns; a language model's own output layer is part of the model."""
    default_max_length: ClassVar[int] = 256
    code_version: ClassVar[int] = 1
    """Part of the cache key of encoded rows: raise it when `encode` changes."""
    made_of_text: ClassVar[bool] = False
    """Whether a row's input is one text, so that a language model can make rows up (`text_of`, `row_of_text`, `with_answer`)."""
    wraps: ClassVar[bool] = False
    """Whether it is another task in another form."""
    learns_labels: ClassVar[bool] = False
    """Whether `fit` learns labels although the head does not belong to the task."""
    aligned_by: ClassVar[Literal["row", "word", "character", "text"]] = "row"
    """What two models with different tokenizers have in common of a decision that the loss is about: the row, the word, the character
    where an answer begins or ends, the text before a token."""
    verify_rows: ClassVar[int] = 100
    """At most this many eval rows, spread evenly over all of them, are scored again behind a run; `tunesmith verify` takes them all."""

    positions: int | None = None
    """Tokens that the model can hold beside what the technique takes; None where nothing bounds it."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    def name(self) -> str:
        """The registry name."""
        return type(self).__module__.rsplit(".", 1)[-1].replace("_", "-")

    @property
    @abstractmethod
    def primary(self) -> str:
        """The metric that results are compared by."""

    @property
    def higher_is_better(self) -> bool:
        """Direction of the primary metric."""
        return higher_is_better(self.primary)

    # ---- what the training rows say

    @property
    def num_labels(self) -> int | None:
        """Labels, one of which a row has; None where rows as a whole have none, several or a number."""
        return None

    @abstractmethod
    def fit(self, train: Rows) -> None:
        """Learn what must be known before a model can be built (the labels), refusing rows that cannot be trained on."""

    @abstractmethod
    def check(self, rows: Rows, role: str) -> None:
        """Refuse rows that do not fit what `fit` learned, naming the first of them."""

    def extend(self, train: Rows) -> None:
        """Learn further labels from the rows of a later stage; those that are known keep their numbers.

        Raises:
            DataError: this task has no labels to add.
        """
        raise DataError(f"{self.name} has no labels, so its head cannot be extended; use head: shared or own.")

    def text_of(self, row: Mapping[str, Any]) -> str:
        """A row's input as one text, where that is all there is to it (`made_of_text`)."""
        raise NotImplementedError

    def row_of_text(self, text: str) -> dict[str, Any] | None:
        """The row, without targets, whose input a text is; None where it makes none."""
        raise NotImplementedError

    def with_answer(self, row: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        """A row with a model's answer as its target."""
        raise NotImplementedError

    def question_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row without what is to be predicted."""
        return {name: value for name, value in row.items() if name not in self.targets}

    def blank(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """A row without targets, with some valid ones in their place that no loss will look at; None where a target is part of what
        the model reads, so that it must be written first (`with_answer`).
        """
        return None

    def chooses(self, train: Rows) -> bool:
        """Whether something of the task itself is chosen on validation rows (`tune`)."""
        return False

    def tune(self, answers: Sequence[Answer], rows: Any) -> None:  # noqa: B027
        """Choose it, from a trained model's answers to the validation rows."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What `fit` and `tune` learned, as JSON."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `fit` and `tune` learned."""

    # ---- the model

    def model_class(self, config: Any) -> str:
        """The transformers class that carries this task's head on a model of this configuration.

        Raises:
            ModelError: the task makes no sense on such a model.
        """
        return self.auto_class

    @abstractmethod
    def config_overrides(self) -> dict[str, Any]:
        """Model configuration entries that the head needs."""

    def bind(self, model: Any, tokenizer: Any, kind: str) -> None:
        """Take what encoding and decoding need of the opened model, and mend what the task needs mended there.

        Args:
            model: the transformers model.
            tokenizer: its tokenizer.
            kind: "encoder", "decoder" or "encoder-decoder".
        """
        self.tokenizer, self.kind = tokenizer, kind

    def encoding_key(self) -> dict[str, Any]:
        """What encoded rows depend on beside rows, options, state, tokenizer and length."""
        return {}

    # ---- rows to batches

    @property
    def redraws(self) -> bool:
        """Whether a row's inputs differ from step to step (masks), so that nothing of them can be kept."""
        return False

    @property
    def packs(self) -> bool:
        """Whether several short features may share a training sequence (`pack`)."""
        return False

    def pack(self, features: Sequence[Features]) -> dict[str, Any]:
        """Several features as one, apart from each other by `position_ids` that start again."""
        raise NotImplementedError

    @abstractmethod
    def encode(
        self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
    ) -> Iterator[Sequence[dict[str, Any]]]:
        """The features of each row (none where nothing of it can be used); all arrays, keys the same for every feature."""

    @abstractmethod
    def collate(self, features: Sequence[Features], pad_id: int, rng: np.random.Generator | None = None) -> Batch:
        """Pad features into one batch; targets under `labels` where the rows have them.

        Args:
            features: encoded pieces of rows.
            pad_id: token id of padding.
            rng: for what is drawn anew in every step of training (masks); None where nothing may be drawn.
        """

    def model_inputs(self, batch: Batch) -> Batch:
        """The part of a batch that the model takes."""
        return {name: value for name, value in batch.items() if name not in ("labels", "weights")}

    @abstractmethod
    def units(self, batch: Batch) -> float:
        """How many supervised units a batch holds (rows, or the sum of their weights; tokens).

        Known before the forward pass, so that the gradient of a step is sum / units over the whole accumulation
        window, however the window is cut into forward passes.
        """

    # ---- loss, metrics, predictions

    def forward(self, model: Any, batch: Batch) -> Any:
        """Outputs whose `logits` are those that the loss is about."""
        return model(**self.model_inputs(batch))

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The supervised loss as a sum over the batch's units, in fp32."""

    def before_head(self, model: Any, batch: Batch) -> BeforeHead | None:
        """What the output layer would read for `distribution` of `forward`, in place of its logits over a vocabulary; None where a task, or
        this model's head, knows no such thing.
        """
        return None

    def lean_loss(self, model: Any, batch: Batch) -> torch.Tensor | None:
        """`loss` of `forward` a chunk of logits at a time: the labels' cross-entropy; None without `before_head`."""
        found = self.before_head(model, batch)
        return None if found is None else chunked_cross_entropy(found.states, found.head, found.labels)

    @abstractmethod
    def distribution(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Logits [n, K] of the n choices that the loss is about (rows, tokens, borders of answers), for a loss between distributions."""

    def sampled_loss(self, outputs: Any, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """-log p of targets drawn from the model's own distribution, summed: what the Fisher information is about."""
        logits = self.distribution(outputs, batch).float()
        with torch.no_grad():
            drawn = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator).squeeze(-1).to(logits.device)
        return torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")

    @abstractmethod
    def read(
        self, model: Any, outputs: Any, batch: Batch, features: Sequence[Features], *, predicting: bool = False
    ) -> list[Any]:
        """What `join` needs of each feature: a few numbers, never logits over a vocabulary.

        Args:
            model: for tasks that let it write.
            outputs: from `forward`.
            batch: what it was given.
            features: the batch's features.
            predicting: an answer is wanted for every row; else rows are scored, and costly answers may be limited to some.
        """

    @abstractmethod
    def join(self, records: Sequence[Any], row: Mapping[str, Any]) -> Answer:
        """One answer from the records of a row's features, in their order."""

    @abstractmethod
    def truth(self, row: Mapping[str, Any]) -> Any:
        """The target of a labelled row in the form that `metric` takes."""

    @abstractmethod
    def metric(self) -> Metric:
        """A fresh accumulator of this task's metrics."""


def pad(rows: Sequence[Features], name: str, value: int, left: bool = False) -> torch.Tensor:
    """Features of unequal length as one tensor [rows, longest], filled on the right (or left)."""
    longest = max(len(row[name]) for row in rows)
    table = np.full((len(rows), longest), value, np.int64)
    for i, row in enumerate(rows):
        length = len(row[name])
        table[i, longest - length if left else 0 : longest if left else length] = row[name]
    return torch.from_numpy(table)


def attention_mask(rows: Sequence[Features], name: str = "input_ids", left: bool = False) -> torch.Tensor:
    """1 at real positions, 0 at padding, [rows, longest]."""
    lengths = np.asarray([len(row[name]) for row in rows])
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    return torch.from_numpy((mask[:, ::-1] if left else mask).astype(np.int64))
