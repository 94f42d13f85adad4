"""What a fit works with, and what strategies and objectives reach of the run: they import none of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from tunesmith.cache.ragged import ListedColumn, RaggedColumn, RaggedRows
from tunesmith.config import RunConfig
from tunesmith.continual._base import Strategy
from tunesmith.continual._size import size
from tunesmith.data.encode import encode, refuse_nothing
from tunesmith.data.sources import Rows
from tunesmith.evaluation.evaluate import evaluate
from tunesmith.evaluation.speed import Runner, race
from tunesmith.models.backbone import Backbone
from tunesmith.models.heads import Heads
from tunesmith.objectives._base import Objective, Reader
from tunesmith.seeding import derive
from tunesmith.tasks._base import Answer, Batch, Task
from tunesmith.techniques._base import Technique
from tunesmith.training.feed import Feed, MixedFeed, Pass
from tunesmith.training.group import Alone, current
from tunesmith.training.log import MetricsLog
from tunesmith.training.precision import Masters
from tunesmith.training.weighting import Weighting


class Part(Protocol):
    """One task of a stage, ready (`stage.Part`)."""

    @property
    def name(self) -> str:
        """Of the task in the stream."""

    @property
    def head(self) -> str:
        """Which model reads its rows."""

    @property
    def roles(self) -> Any:
        """Its rows."""

    @property
    def encoded(self) -> Mapping[str, Any]:
        """Their features by role."""

    @property
    def max_length(self) -> int:
        """Tokens that a row is cut to."""

    @property
    def task(self) -> Task:
        """What the rows are for."""


@dataclass(frozen=True)
class Standing:
    """A model as it stands, ready to read rows."""

    model: Any
    task: Task
    tokenizer: Any
    max_length: int


@dataclass
class Ground:
    """What an objective reaches of a run before anything is set up to learn, and when what was kept is judged."""

    config: RunConfig
    folder: Path
    heads: Heads
    technique: Technique
    parts: Mapping[str, Part]
    device: torch.device
    open: Callable[[str], Any]
    """Opens an artifact for use (`artifacts.use.Artifact`)."""
    stage: str = ""

    def reader(self, part: Part) -> Reader:
        """The model as it stands, reading the rows of a task."""
        return Standing(self.heads[part.head].model, part.task, self.heads.first.tokenizer, part.max_length)

    def encode(self, reader: Reader, rows: Rows) -> RaggedRows:
        """The features of rows, as a reader's task makes them."""
        found = encode(reader.task, rows, reader.tokenizer, reader.max_length)
        refuse_nothing(found, rows, reader.max_length)
        return found

    def answers(self, reader: Reader, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """What a reader says of rows without targets."""
        return answer(reader, rows, self.config.eval_batch_size, self.device, "the teacher answers")

    def score(self, reader: Reader, rows: Rows) -> dict[str, float]:
        """A reader's metrics on labelled rows."""
        found = evaluate(
            reader.model, reader.task, rows.table, self.encode(reader, rows), batch_size=self.config.eval_batch_size, device=self.device,
            pad_id=int(reader.tokenizer.pad_token_id), title="the teacher",
        )  # fmt: skip
        return found.metrics

    def race(self, readers: Mapping[str, Reader], rows: Rows) -> dict[str, dict[str, float]]:
        """How fast readers are on the same rows, in turns."""
        runners = {
            name: Runner(r.model, r.task, self.encode(r, rows), int(r.tokenizer.pad_token_id), len(rows)) for name, r in readers.items()
        }  # fmt: skip
        return race(runners, self.config.eval_batch_size, self.device)


def answer(
    reader: Reader, rows: Sequence[Mapping[str, Any]], batch_size: int, device: torch.device, title: str
) -> list[Answer]:
    """What a reader says of rows without targets."""
    pieces = reader.task.encode(rows, reader.tokenizer, reader.max_length)
    features = [{**feature, "row": i} for i, several in enumerate(pieces) for feature in several]
    columns: dict[str, RaggedColumn] = {
        name: ListedColumn([feature[name] for feature in features]) for name in (features[0] if features else ())
    }
    return evaluate(
        reader.model, reader.task, rows, RaggedRows(columns), batch_size=batch_size, device=device,
        pad_id=int(reader.tokenizer.pad_token_id), title=title, predicting=True,
    ).answers  # fmt: skip


@dataclass
class Session:
    """Everything a fit works with; strategies and objectives reach the run through it."""

    config: RunConfig
    folder: Path
    heads: Heads
    technique: Technique
    objective: Objective
    strategy: Strategy
    weighting: Weighting
    feed: Feed | MixedFeed
    masters: Masters
    device: torch.device
    learning_rate: float
    total_steps: int
    log: MetricsLog
    measure: Callable[[], dict[str, float]] | None = None
    measured_on: str = "eval"
    primary: str = "loss"
    higher_is_better: bool = False
    evaluate_every: int | None = None
    resume: bool = False
    title: str = ""
    """What people read beside the bar."""
    stage: str = ""
    stage_number: int = 0
    parts: Mapping[str, Part] = field(default_factory=dict)
    """The stage's tasks by name."""
    earlier: Mapping[str, Part] = field(default_factory=dict)
    """The tasks of the stages before."""
    known: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Parameters that were there before this stage, by name, with their shapes then (a head may have grown since)."""
    fresh: frozenset[str] = frozenset()
    """Parameters of heads that begin at random in this stage."""
    head_rate: float | None = None
    """Peak rate that heads have at least: the fresh ones, or all of them if it was asked for; None: the run's."""
    snapshot: Callable[[], Any] | None = None
    """The model as the stage before left it (`artifacts.store.Opened`), opened anew; None in the first stage."""
    nested: Callable[[Mapping[str, Any], str], str] | None = None
    """A training run of its own: settings and a name in, the path of its artifact out."""
    open: Callable[[str], Any] | None = None
    """Opens an artifact for use (`artifacts.use.Artifact`)."""
    group: Alone = field(default_factory=current)
    """The processes that this run is learned by."""
    step: int = 0
    kept: tuple[int, int] = (0, 0)
    """The most that the strategy held in memory in this stage: numbers in tensors, bytes."""

    def weigh(self) -> None:
        """Look at what the strategy holds now."""
        self.kept = max(self.kept, size(self.strategy.held()), key=lambda found: found[1])

    @property
    def backbone(self) -> Backbone:
        """The backbone that all heads share."""
        return self.heads.backbone

    @property
    def checkpoints(self) -> Path:
        """Where this stage's resumable states lie."""
        return self.folder / "checkpoints" / self.stage if self.stage else self.folder / "checkpoints"

    @property
    def pad_id(self) -> int:
        """Token id of padding."""
        return int(self.heads.first.tokenizer.pad_token_id)

    def make_generator(self) -> torch.Generator:
        """For what a strategy draws: a new one, which begins the same at the same step of the same stage. Make one and go on with it."""
        return torch.Generator().manual_seed(derive(self.config.seed, "strategy", self.stage, self.step))

    def train_mode(self) -> None:
        """Every head into training mode, the backbone as the technique wants it."""
        for loaded in self.heads.loaded.values():
            self.technique.set_training(loaded.backbone)

    def collate(self, task: Task, features: Sequence[Any], rng: np.random.Generator | None = None) -> Batch:
        """Features as one batch on the device; what is drawn anew depends on the step alone, or comes from `rng`."""
        rng = rng or np.random.default_rng(derive(self.config.seed, "strategy rows", self.stage, self.step))
        return {name: tensor.to(self.device) for name, tensor in task.collate(features, self.pad_id, rng).items()}

    def make_pass(self, task: Task, model: Any, features: Sequence[Any], *, part: str, weight: float) -> Pass:
        """A forward pass over features that a strategy brings."""
        batch = self.collate(task, features)
        tokens = sum(len(each["input_ids"]) for each in features)
        return Pass(task, model, batch, task.units(batch), tokens, np.arange(len(features)), part=part, weight=weight)

    def answers(self, part: Part, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """What the model says of rows without targets, as it stands."""
        return answer(self.reader(part), rows, self.config.eval_batch_size, self.device, f"labels of {part.name}")

    def reader(self, part: Part) -> Reader:
        """The model as it stands, reading the rows of a task."""
        return Standing(self.heads[part.head].model, part.task, self.heads.first.tokenizer, part.max_length)

    def single_rows(self, most: int) -> Iterator[tuple[Any, Task, Batch]]:
        """(model, task, batch) of single training rows of this stage, at most so many, drawn once for the stage."""
        places = [(part, i) for part in self.parts.values() for i in range(len(part.encoded["train"]))]
        rng = np.random.default_rng(derive(self.config.seed, "single rows", self.stage))
        order = rng.permutation(len(places))
        for place in order[:most]:
            part, index = places[int(place)]
            yield self.heads[part.head].model, part.task, self.collate(part.task, [part.encoded["train"][index]], rng)
