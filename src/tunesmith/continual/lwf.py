r"""Learning without forgetting: on the new rows the model keeps saying what it said before (Li & Hoiem 2016, equations 1 to 3).

    loss = new loss + strength * T^2 * KL( softmax(old logits / T) || softmax(logits / T) )

(of several labels a row the distance of each one's yes and no; of a number the squared difference). No row of an earlier stage is
needed: the model as the stage before left it reads each batch of the new one, and every earlier head is held to its answers. It costs a
forward pass of the old model a batch, and one of the new one for every head that the stage does not use itself. Tasks that write have one
head, which is held on whatever is written next. An earlier head that cannot read the new rows (an answer's borders in rows without a
question) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch.nn import functional as F

from tunesmith.config import Options as BaseOptions
from tunesmith.continual._base import Strategy


class Options(BaseOptions):
    """Options of learning without forgetting."""

    strength: float = Field(1.0, ge=0, description="factor of the distance to the old answers")
    temperature: float = Field(2.0, gt=0, description="softens both, so that small probabilities count")


class LearningWithoutForgetting(Strategy):
    """Old answers as soft targets."""

    Options = Options
    looks_back: ClassVar[bool] = False
    trains_earlier_heads: ClassVar[bool] = True

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.old: Any = None
        self.heads: dict[str, Any] = {}

    def before_stage(self, session: Any) -> None:
        """Open the model of the stage before."""
        self.old, self.heads = None, {}
        if session.snapshot is None:
            return
        self.old = session.snapshot()
        for name, loaded in self.old.heads.loaded.items():
            for parameter in loaded.model.parameters():
                parameter.requires_grad_(False)
                if parameter.is_floating_point():
                    parameter.data = parameter.data.to(session.masters.dtype)
            loaded.model.eval()
            if loaded.model not in [other.model for other in map(self.old.heads.__getitem__, self.heads)]:
                self.heads[name] = self.old.readings[name].task

    def held(self) -> Any:
        """The old model."""
        return [loaded.model for loaded in self.old.heads.loaded.values()] if self.old is not None else []

    def extra_batches(self, session: Any, passes: Sequence[Any]) -> list[Any]:
        """For every pass and every earlier head that can read it, the distance of new answers to old ones."""
        found = []
        for each in passes if self.options.strength else ():
            for head, task in self.heads.items():
                if self.reads(task, each.task):

                    def distance(this: Any, head: str = head, task: Any = task) -> torch.Tensor:
                        return self.distance(session, head, task, this)

                    found.append(
                        replace(each, part=f"lwf:{head}", weight=self.options.strength, units=self.decisions(task, each), tokens=0, loss=distance)
                    )  # fmt: skip
        return found

    def reads(self, old: Any, new: Any) -> bool:
        """Whether an earlier head can read the rows of a task: the same task, one that says something of any text, or one that writes."""
        if not (old.owns_head or new.owns_head):
            return True
        return bool(old.name == new.name or (old.owns_head and old.name != "question-answering" and new.owns_head))

    def decisions(self, task: Any, each: Any) -> float:
        """How many answers a head gives on a batch: one a row, or one a token."""
        if task.name == each.task.name or not task.owns_head:
            return float(each.units)
        return float(len(each.batch["input_ids"]) if task.reads == "sequence" else each.batch["attention_mask"].sum())

    def answers(self, model: Any, task: Any, each: Any) -> torch.Tensor:
        """Logits [n, K] of a head on a batch."""
        problem = getattr(task, "problem", "")
        if not task.owns_head:  # what is written, in the new task's rows
            task = each.task
        if task.name == each.task.name and problem not in ("regression", "multi-label"):
            logits: torch.Tensor = task.distribution(task.forward(model, each.batch), each.batch)
            return logits
        logits = model(**each.task.model_inputs(each.batch)).logits
        return logits[each.batch["attention_mask"] != 0] if logits.dim() == 3 else logits

    def distance(self, session: Any, head: str, task: Any, each: Any) -> torch.Tensor:
        """T^2 KL, summed over answers; labels that are new since then are left out of the comparison."""
        heat = self.options.temperature
        with torch.no_grad():
            before = self.answers(self.old.heads[head].model, task, each).float()
        now = self.answers(session.heads[head].model, task, each).float()[:, : before.shape[-1]]
        problem = getattr(task, "problem", "")
        if problem == "regression":
            return F.mse_loss(now, before, reduction="sum")
        if problem == "multi-label":  # yes and no of every label, the mean over labels as in the task's own loss
            labels = before.shape[-1]
            before, now = (torch.stack([torch.zeros_like(each), each], -1).flatten(0, 1) for each in (before, now))
            return divergence(before / heat, now / heat) * heat**2 / labels
        return divergence(before / heat, now / heat) * heat**2


def divergence(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    """KL(softmax(before) || softmax(now)) summed over rows, over what is finite in both of a row (an answer's candidates, known labels)."""
    known = torch.isfinite(before) & torch.isfinite(now)
    rows = known.any(-1)
    known, before, now = known[rows], before[rows], now[rows]
    low = torch.finfo(before.dtype).min
    target, log_q = (each.masked_fill(~known, low).log_softmax(-1) for each in (before, now))
    return (target.exp() * (target - log_q)).masked_fill(~known, 0.0).sum()
