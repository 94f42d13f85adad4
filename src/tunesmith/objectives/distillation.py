r"""Distillation: a student learns what teachers say, beside or instead of what labels say (Hinton et al. 2015).

    loss = alpha * labels + (1 - alpha) * divergence(teachers || student)              rows with labels
                            (1 - alpha) * divergence(teachers || student)              rows without (`unlabelled`)
           + hidden * states + embeddings * embeddings + attention * maps              where asked for

    rows --teacher, once--> tables on disk --+
         --student---------------------------+--> divergence        (`_outputs`, `_divergences`)
         --teacher, live--> states, maps ----+--> the rest          (`_live`, `_inside`)

What teachers say is computed once and read again by every later run; a teacher runs beside the student only where inputs are drawn
anew (masks) or where its states and maps are learned from, which would take more room than they cost time. A pass that the objective knows
nothing of (rows that a strategy replays) has the labels' loss alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import nn
from torch.nn.functional import cross_entropy

from tunesmith import registry
from tunesmith.config import Options as BaseOptions
from tunesmith.config import RunConfig
from tunesmith.data.sources import open_table
from tunesmith.errors import UserError
from tunesmith.models.load import Source
from tunesmith.objectives import _student, _tables
from tunesmith.objectives._base import Ground, Lesson, Objective, Pass, labels_loss
from tunesmith.objectives._divergences import Choices, divergence, mixture
from tunesmith.objectives._gains import gains
from tunesmith.objectives._taught import Taught
from tunesmith.objectives._teacher import find, open_whole
from tunesmith.tasks._chunked import chunked

Said = Callable[[slice], torch.Tensor]
"""From places among a batch's decisions to a teacher's logits there."""
Aims = Callable[[slice, int], Choices]
"""From places and the number of the student's choices to what all teachers say together."""


class Options(BaseOptions):
    """Options of distillation."""

    alpha: float = Field(0.5, ge=0, le=1, description="share of the labels' own loss; the teachers have the rest")
    temperature: float = Field(2.0, gt=0, description="T, which softens both distributions before they are compared")
    divergence: Literal["forward", "reverse", "jensen-shannon"] = Field(
        "forward",
        description="forward: KL(teacher || student); reverse: KL(student || teacher); jensen-shannon: both against their mean",
    )
    weights: list[float] | None = Field(
        None, description="of several teachers' probabilities, in their order (default: all alike)"
    )
    hidden: float = Field(0.0, ge=0, description="weight of the distance between states of paired layers")
    hidden_loss: Literal["mse", "cosine"] = Field("mse", description="mean squared difference, or 1 - cosine")
    embeddings: float = Field(0.0, ge=0, description="weight of the distance between what enters the first layers")
    attention: float = Field(0.0, ge=0, description="weight of the distance between attention maps of paired layers")
    attention_loss: Literal["kl", "mse"] = Field(
        "kl", description="KL(teacher || student) of each query, or mean squared difference"
    )
    layers: Literal["uniform", "last"] | list[int] = Field(
        "uniform",
        description="evenly spread, the last alone, or the teacher's layer for each of the student's (from 1; 0: none)",
    )
    unlabelled: str | None = Field(
        None, description="further rows without targets, in any data form; teachers' losses alone"
    )
    sequence: Literal["off", "instead", "beside"] = Field(
        "off",
        description="tasks that write: learn the first teacher's own texts in place of the rows' targets, or beside them",
    )
    top_k: int = Field(64, ge=1, description="choices of a distribution that are kept; all others are one more")
    precision: Literal["float32", "float16"] = Field("float32", description="what kept log-probabilities are stored in")
    min_coverage: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the teacher's probability that must fall on tokens that the student has too",
    )
    student_layers: int | list[int] | None = Field(
        None, description="the student is the first teacher with so many layers (or these, from 1), in place of --model"
    )
    measure: bool = Field(True, description="open the teachers after training, and compare quality, size and speed")

    @field_validator("weights")
    @classmethod
    def _positive(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and (not value or min(value) <= 0):
            raise ValueError("must be a number above 0 for each teacher")
        return value

    @property
    def inside(self) -> set[str]:
        """What of the models' insides is compared."""
        found = {"hidden_states"} if self.hidden or self.embeddings else set()
        return found | ({"attentions"} if self.attention else set())


class Distillation(Objective):
    """Labels and teachers."""

    Options: ClassVar[type[BaseOptions]] = Options

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.taught: dict[str, Taught] = {}

    def required_outputs(self) -> set[str]:
        """States and maps, where they are learned from."""
        return set(self.options.inside)

    def further_inputs(self, config: RunConfig) -> dict[str, str]:
        """Teachers, and rows without labels."""
        tasks = [task for stage in config.stream.stages for task in stage.tasks] if config.stream is not None else []
        names = dict.fromkeys([*config.teacher, *(name for task in tasks for name in task.teacher or ())])
        found = {f"teacher {name}": find(name).sha256 for name in names}
        if self.options.unlabelled:
            found[f"unlabelled {self.options.unlabelled}"] = open_table(
                self.options.unlabelled, registry.load("task", config.task).plain_text
            )[1]
        return found

    def student(self, config: RunConfig, task: Any, folder: Path, open: Callable[[str], Any]) -> Source | None:
        """The first teacher with layers dropped, if that was asked for."""
        layers = self.options.student_layers
        if layers is None:
            return None
        teacher = find(config.teacher[0])
        return _student.make(
            teacher.name, lambda: open_whole(teacher, task, config, open), layers, folder, teacher.sha256
        )

    def prepare(self, ground: Ground) -> None:
        """Find the teachers of every task, and what they say of its rows.

        Raises:
            UserError: nothing would be learned from them, or they cannot teach these rows.
        """
        o = self.options
        if o.alpha == 1 and not o.inside and o.sequence == "off":
            raise UserError(
                "distillation.alpha=1 learns from labels alone, so the teacher would say nothing; lower it, or use --objective supervised."
            )
        self.taught = {}
        for name, part in ground.parts.items():
            named = part.spec.teacher if part.spec.teacher is not None else ground.config.teacher
            if named:
                teachers = [find(teacher) for teacher in named]
                if o.weights is not None and len(o.weights) != len(teachers):
                    raise UserError(
                        f"distillation.weights has {len(o.weights)} numbers for {len(teachers)} teachers; give one for each."
                    )
                self.taught[name] = Taught(teachers, ground, part, o)

    def lesson(self, part: str) -> Lesson | None:
        """The task's rows, with those beside them."""
        return self.taught[part].lesson if part in self.taught else None

    def modules(self) -> Mapping[str, nn.Parameter]:
        """Projections between different widths."""
        return {name: weight for taught in self.taught.values() for name, weight in taught.modules().items()}

    def before_stage(self, session: Any) -> None:
        """Compute in what the student computes in, and show the rows that were made."""
        for taught in self.taught.values():
            taught.begin(session)

    def loss(self, each: Pass) -> torch.Tensor:
        """Labels, teachers' answers and teachers' insides, by their weights."""
        o, taught = self.options, self._of(each)
        if taught is None:
            return labels_loss(each)
        total = self._by_chunks(taught, each) if each.lean else self._at_once(taught, each)
        for live, weight in zip(taught.live if o.inside else (), taught.weights, strict=False):
            total = total + weight * live.inside(each)
        assert isinstance(total, torch.Tensor)
        return total

    def _at_once(self, taught: Taught, each: Pass) -> Any:
        """What the student's logits cost, all of them there at a time."""
        o, task, batch = self.options, each.task, each.batch
        outputs, total = task.forward(each.model, batch), 0.0
        if o.alpha > 0 and each.labelled:
            total = total + o.alpha * task.loss(outputs, batch)
        if o.alpha < 1 or o.inside:
            said = [live.run(each) for live in taught.live]
        if o.alpha < 1:
            student = task.distribution(outputs, batch).float()
            total = total + (1 - o.alpha) * self._answers(taught, each, student, said)
        return total

    def _by_chunks(self, taught: Taught, each: Pass) -> Any:
        """The same of a language model, whose logits are made and let go a chunk at a time."""
        o, before = self.options, each.task.before_head(each.model, each.batch)
        assert before is not None
        asks, compares = o.alpha > 0 and each.labelled, o.alpha < 1
        said = [live.run(each) for live in taught.live] if compares or o.inside else []
        if not (asks or compares):
            return 0.0
        if compares:
            aims = self._aims(taught, each, said)
            weights = self._weights(taught, each, len(before.labels))

        def loss_of(logits: torch.Tensor, places: slice) -> torch.Tensor:
            logits, total = logits.float(), torch.zeros((), device=logits.device)
            if asks:
                labels = cross_entropy(logits, before.labels[places], reduction="sum")
                total = total + o.alpha * labels
            if compares:
                total = total + (1 - o.alpha) * (self._distances(aims, logits, places) * weights[places]).sum()
            return total

        return chunked(before.states, before.head, loss_of)

    def _of(self, each: Pass) -> Taught | None:
        """What is known of a pass's rows; None for rows that a strategy brings, and tasks that nobody teaches."""
        if each.places is None:
            return None
        return self.taught.get(each.part) if each.part else next(iter(self.taught.values()), None)

    def _answers(self, taught: Taught, each: Pass, student: torch.Tensor, said: Sequence[Said]) -> torch.Tensor:
        """The distance of the student's answers from the teachers', summed over units."""
        every = slice(None)
        if student.shape[-1] == 1:  # a number: the teachers' mean is what to say (Chen et al. 2017, section 3.3)
            numbers = [say(every) for say in said]
            numbers = numbers or [
                _tables.gather(t, each.places, "value", student.device)[:, None] for t in taught.tables
            ]
            aim = sum(w * number for w, number in zip(taught.weights, numbers, strict=True))
            return (student - aim).square().sum()
        distances = self._distances(self._aims(taught, each, said), student, every)
        return (distances * self._weights(taught, each, len(distances))).sum()

    def _aims(self, taught: Taught, each: Pass, said: Sequence[Said]) -> Aims:
        """What all teachers say together, from places among the decisions and the number of the student's choices."""
        heat = self.options.temperature
        if not said:
            tables = [_tables.choices(t, each.places, each.task, each.batch, heat) for t in taught.tables]
            whole = mixture(tables, taught.weights)
            return lambda places, width: whole.at(places)

        def aims(places: slice, width: int) -> Choices:
            several = [live.choices(say(places), width) for live, say in zip(taught.live, said, strict=True)]
            return mixture(several, taught.weights)

        return aims

    def _distances(self, aims: Aims, student: torch.Tensor, places: slice) -> torch.Tensor:
        """Of the student's logits at some places from what teachers say there, one a decision."""
        o = self.options
        log_p, log_q = aims(places, student.shape[1]).pair(student, o.temperature)
        return divergence(o.divergence, log_p, log_q, o.temperature)

    def _weights(self, taught: Taught, each: Pass, count: int) -> torch.Tensor:
        """Of the decisions, [count]: the units that each is, 0 where a teacher has none there."""
        return _tables.shares(each.task, each.batch, count) * taught.known(each, count)

    def notes(self) -> dict[str, Any]:
        """Teachers, rows, where their outputs came from and what they cover."""
        return {name: taught.notes() for name, taught in self.taught.items()}

    def judge(self, ground: Ground, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """Quality kept, size and speed gained, of every task that had a teacher."""
        found = {}
        for name, part in ground.parts.items() if self.options.measure else ():
            named = part.spec.teacher if part.spec.teacher is not None else ground.config.teacher
            if named:
                found[name] = gains([find(teacher) for teacher in named], ground, part, metrics[name])
        return found
