"""Teachers that run beside the student, on the very features that it reads: for inputs that are drawn anew in every step, and for what
is inside them (states, embeddings, attention maps), which is compared position by position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tunesmith.errors import UserError
from tunesmith.models.recorder import Recorder
from tunesmith.objectives import _alignment as alignment
from tunesmith.objectives import _inside as inside
from tunesmith.objectives._base import Ground, Pass
from tunesmith.objectives._divergences import Choices
from tunesmith.objectives._teacher import Opened, Teacher, match_labels
from tunesmith.seeding import derive
from tunesmith.tasks._base import IGNORED


class Live:
    """One teacher, opened, for one task of a stage."""

    def __init__(
        self, teacher: Teacher, ground: Ground, part: Any, features: Sequence[Any], options: Any, wanted: set[str]
    ) -> None:
        self.options, self.part = options, part
        self.opened: Opened = teacher.open(ground, part)
        self.labels = match_labels(teacher.name, part.task, self.opened.task)
        student = ground.heads[part.head]
        for found in features:
            if not alignment.reads_the_same(self.opened, part, student.tokenizer, found):
                why = "masked tokens are" if part.task.redraws else "what is inside two models is"
                raise UserError(
                    f"{why} compared position by position, and the teacher `{teacher.name}` does not read the rows as the student does (another "
                    "tokenizer, or fewer positions); name a teacher with the student's tokenizer, or learn from its answers alone."
                )
        self.recorder = Recorder(self.opened.backbone, wanted) if wanted else None
        self.own: dict[str, nn.Parameter] = {}
        if self.recorder is None:
            return
        self.recorder.install()
        mine, theirs = Recorder(student.backbone, wanted), self.recorder
        self.pairs = inside.pair_layers(mine.depths, theirs.depths, options.layers)
        self.extra = _extra(ground.technique.extra_positions(ground.heads.backbone), student.backbone)
        widths = student.backbone.hidden_size, self.opened.backbone.hidden_size
        generator = torch.Generator().manual_seed(
            derive(ground.config.seed, "projections", ground.stage, part.name, teacher.sha256)
        )
        name = ".".join(("distillation", ground.stage or "run", part.name, teacher.sha256[:8]))
        places: inside.Pairs = [[(0, 0)] for _ in mine.depths]
        self.project = inside.Projections(f"{name}.hidden", *widths, self.pairs if options.hidden else [], generator)
        self.embed = inside.Projections(f"{name}.embeddings", *widths, places if options.embeddings else [], generator)
        self.places = places
        for projections in (self.project, self.embed):
            projections.to(ground.device)
            self.own.update(projections.names)

    def run(self, each: Pass) -> Callable[[slice], torch.Tensor]:
        """Let the teacher read a batch, which leaves its states and maps in the recorder.

        Returns:
            from places among the decisions to its logits there, in the order of the student's choices; where the student's logits over a
            vocabulary are made a chunk at a time, so are these.
        """
        with torch.no_grad():
            before = self.opened.before_head(each.batch) if each.lean else None
            if before is not None:
                states, head = before.states, before.head
                return lambda places: head(states[places]).float()
            logits = self._all(each)
        return lambda places: logits[places]

    def _all(self, each: Pass) -> torch.Tensor:
        """Its logits on a batch."""
        task = self.opened.task
        logits: torch.Tensor = task.distribution(task.forward(self.opened.model, each.batch), each.batch).float()
        if self.labels is not None:
            labels = self.labels.to(logits.device)
            if getattr(task, "problem", "") == "multi-label":
                return logits.unflatten(0, (-1, len(task.labels)))[:, labels].flatten(0, 1)
            return logits[:, labels]
        return logits

    def choices(self, logits: torch.Tensor, width: int) -> Choices:
        """What the teacher says, over as many choices as the student has (vocabularies may be padded to different sizes)."""
        logits = logits[:, :width]
        log_p = (logits / self.options.temperature).log_softmax(-1)
        if log_p.shape[1] < width:
            log_p = torch.nn.functional.pad(log_p, (0, width - log_p.shape[1]), value=float("-inf"))
        return Choices(log_p)

    def inside(self, each: Pass) -> torch.Tensor:
        """What the student's states, embeddings and maps are away from the teacher's, weighted and summed over units."""
        assert self.recorder is not None
        o, task, batch = self.options, each.task, each.batch
        masks = [_mask(task, batch, stack) for stack in range(len(self.pairs))]
        arguments = each.recorder, self.recorder
        total: Any = 0.0
        if o.hidden:
            total = total + o.hidden * inside.states_distance(
                *arguments, self.pairs, self.project, masks, o.hidden_loss, self.extra
            )
        if o.embeddings:
            total = total + o.embeddings * inside.states_distance(
                *arguments, self.places, self.embed, masks, "mse", self.extra
            )
        if o.attention:
            total = total + o.attention * inside.maps_distance(
                *arguments, self.pairs, masks, o.attention_loss, self.extra
            )
        return (total * _units(task, batch)).sum()

    def to(self, dtype: torch.dtype) -> None:
        """Compute in what the student computes in."""
        for parameter in self.opened.model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)


def _extra(count: int, backbone: Any) -> inside.Extra:
    return inside.Extra(count, 0 if backbone.kind == "decoder" else 1)


def _mask(task: Any, batch: Mapping[str, torch.Tensor], stack: int) -> torch.Tensor:
    """1 at the real positions that a stack of layers sees, [B, T]; a decoder that writes sees its targets."""
    if stack and task.aligned_by == "text":
        return batch["labels"] != IGNORED
    mask = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"]) if mask is None else mask


def _units(task: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Supervised units of every feature, [B]."""
    if "weights" in batch:
        return batch["weights"].float()
    if task.aligned_by in ("word", "text"):
        return (batch["labels"] != IGNORED).sum(1).float()
    return torch.ones(len(batch["input_ids"]), device=batch["input_ids"].device)
