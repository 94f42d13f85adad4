r"""Learning without forgetting: on the new rows the model keeps saying what it said before (Li & Hoiem 2016, equations 1 to 3).

    loss = new loss + strength * T^2 * KL( softmax(old logits / T) || softmax(logits / T) )

No row of an earlier stage is needed: the model as the stage before left it reads each batch of the new one, and every earlier head
is held to its answers. It costs a forward pass of the old model a batch, and one of the new one for every head that the stage does
not use itself. An earlier head that cannot read the new rows (an answer's borders in rows without a question) is left out.
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
        for each in passes:
            for head, task in self.heads.items():
                if self.reads(task, each.task):

                    def distance(this: Any, head: str = head, task: Any = task) -> torch.Tensor:
                        return self.distance(session, head, task, this)

                    found.append(
                        replace(each, part=f"lwf:{head}", weight=self.options.strength, units=self.decisions(task, each), tokens=0, loss=distance)
                    )  # fmt: skip
        return found

    def reads(self, old: Any, new: Any) -> bool:
        """Whether an earlier head can read the rows of a task: the same task, or one that says something of any text."""
        return bool(old.name == new.name or (old.owns_head and old.name != "question-answering" and new.owns_head))

    def decisions(self, task: Any, each: Any) -> float:
        """How many answers a head gives on a batch: one a row, or one a token."""
        if task.name == each.task.name:
            return float(each.units)
        return float(len(each.batch["input_ids"]) if task.reads == "sequence" else each.batch["attention_mask"].sum())

    def answers(self, model: Any, task: Any, each: Any) -> torch.Tensor:
        """Logits [n, K] of a head on a batch."""
        if task.name == each.task.name:
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
        before, now = before / heat, now / heat
        known = torch.isfinite(before).all(0) & torch.isfinite(now).all(0)
        divergence = F.kl_div(
            now[:, known].log_softmax(-1), before[:, known].log_softmax(-1), reduction="sum", log_target=True
        )
        return divergence * heat**2
