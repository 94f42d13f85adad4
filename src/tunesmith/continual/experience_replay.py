r"""Experience replay: some rows of every earlier stage are kept and learned along (Robins 1995; Chaudhry et al. 2019).

    loss = new loss + weight * mean over a batch from the memory

The memory holds `size` rows (or `bytes` of text), drawn with equal chance from all rows seen (`reservoir`, Vitter 1985; here by the
smallest of random lots, which draws the same) or evenly over the tasks, and over labels within one (`balanced`). With `logits` the model's
own outputs are kept beside the rows, and the loss on them is that of DER++ (Buzzega et al. 2020, equation 6):

    alpha * mean squared distance to the kept logits + weight * mean loss on the labels

`memory.jsonl` in the run's folder shows what is kept: the row, its task, stage and number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from tunesmith import durable
from tunesmith.config import Options as BaseOptions
from tunesmith.continual._rehearsal import Rehearsal, encoded
from tunesmith.errors import TechniqueError
from tunesmith.seeding import derive


class Options(BaseOptions):
    """Options of experience replay."""

    size: int = Field(200, ge=1, description="rows that are kept, of all earlier stages together")
    bytes: int | None = Field(None, ge=1, description="keep as many rows as fit into these bytes, instead of `size`")
    select: Literal["balanced", "reservoir"] = Field(
        "balanced", description="evenly over tasks and labels, or over all rows seen"
    )
    share: float = Field(0.5, gt=0, description="rows from the memory in a step, as a share of the batch size")
    weight: float = Field(1.0, gt=0, description="factor of the memory's loss on labels")
    logits: bool = Field(False, description="also hold the outputs that the model gave when a row was kept (DER++)")
    alpha: float = Field(0.5, ge=0, description="factor of the distance to those outputs")


class ExperienceReplay(Rehearsal):
    """A memory of earlier rows."""

    Options = Options

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.memory: list[dict[str, Any]] = []

    def objection(self, task: Any, kind: str) -> str | None:
        """Outputs are kept where a row gives the same ones whenever it is read: classes of a row, tags, words that are written."""
        varies = task.redraws or task.name == "question-answering" or getattr(task, "problem", "") == "multi-label"
        if self.options.logits and varies:
            return (
                f"experience-replay keeps no outputs of {task.name} of this kind; set experience-replay.logits=false."
            )
        return None

    def before_model(self, heads: Any, stage_number: int, parts: Mapping[str, Any]) -> None:
        """Refuse what it cannot keep.

        Raises:
            TechniqueError: outputs of a task that cannot be compared later.
        """
        for part in parts.values():
            reason = self.objection(part.task, heads.backbone.kind)
            if reason is not None:
                raise TechniqueError(reason)

    def before_stage(self, session: Any) -> None:
        """Encode what is kept with the tasks as they are now."""
        parts = [session.earlier[kept["task"]] for kept in self.memory]
        self.features = [
            (part, encoded(session, part, json.loads(kept["row"])))
            for part, kept in zip(parts, self.memory, strict=True)
        ]

    def beside(self, session: Any, each: Any, members: Sequence[int]) -> list[Any]:
        """The distance to the outputs that were kept with the rows."""
        if not (self.options.logits and self.options.alpha):
            return []
        kept = torch.cat([self.memory[i]["logits"] for i in members]).to(session.device)

        def distance(this: Any) -> torch.Tensor:
            logits = this.task.distribution(this.task.forward(this.model, this.batch), this.batch).float()
            target = kept.float()
            finite = torch.isfinite(target)
            return (logits[:, : target.shape[-1]] - target)[finite].square().sum() / target.shape[-1]

        name, weight = each.part.removeprefix("replay:"), self.options.alpha * each.weight / self.options.weight
        return [replace(each, part=f"held:{name}", weight=weight, units=float(len(kept)), tokens=0, loss=distance)]

    # ---- what is kept

    def after_stage(self, session: Any) -> None:
        """Take rows of this stage into the memory, and make room for them."""
        fresh = []
        for name, part in session.parts.items():
            rows = part.roles.train
            rng = np.random.default_rng(derive(session.config.seed, "memory", name))
            order, lots = rng.permutation(len(rows)).tolist(), np.sort(rng.random(len(rows))).tolist()
            if self.options.select == "balanced":
                order = over_labels(rows.table, order)
            most = self.options.size if self.options.bytes is None else len(rows)
            for index, lot in zip(order[:most], lots, strict=False):
                row = {k: v for k, v in rows.table[index].items() if v is not None}
                text = json.dumps(row, ensure_ascii=False, default=str)
                fresh.append(
                    {
                        "task": name,
                        "stage": session.stage,
                        "number": rows.number(index),
                        "source": rows.source,
                        "row": text,
                        "lot": lot,
                    }
                )
        self.memory = self.select(self.memory, fresh)
        if self.options.logits:
            self._keep_logits(session)
        self._show(Path(session.folder))

    def select(self, old: list[dict[str, Any]], fresh: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What of old and fresh rows stays.

        Every row has drawn a lot, uniform in 0..1, when it was seen; those with the smallest of all lots are a sample of all rows in which
        each has the same chance, whatever the order and sizes of the stages.

        Args:
            old: the memory.
            fresh: rows of the stage, those of each task by rising lots.
        """
        everything = [*old, *fresh]
        if self.options.select == "reservoir":
            ordered = sorted(everything, key=lambda kept: kept["lot"])
        else:
            ordered = balanced(everything)
        return ordered[: self.options.size] if self.options.bytes is None else within_bytes(ordered, self.options.bytes)

    def _keep_logits(self, session: Any) -> None:
        for kept in self.memory:
            if "logits" in kept or kept["task"] not in session.parts:
                continue
            part = session.parts[kept["task"]]
            model = session.heads[part.head].model
            batch = session.collate(part.task, encoded(session, part, json.loads(kept["row"])))
            model.eval()
            with torch.no_grad():
                kept["logits"] = part.task.distribution(part.task.forward(model, batch), batch).float().cpu()
        session.train_mode()

    def _show(self, folder: Path) -> None:
        lines = [
            json.dumps(
                {**json.loads(k["row"]), "_task": k["task"], "_source": k["source"], "_row": k["number"]},
                ensure_ascii=False,
            )
            for k in self.memory
        ]
        durable.write(folder / "memory.jsonl", "".join(line + "\n" for line in lines))

    def state_dict(self) -> dict[str, Any]:
        """The rows, with their logits if they are kept."""
        return {"memory": self.memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.memory = list(state["memory"])


def over_labels(table: Any, order: Sequence[int]) -> list[int]:
    """Row numbers in turn from every label, in their order within each."""
    if "label" not in table.column_names:
        return list(order)
    labels = [str(label) for label in table["label"]]
    groups: dict[str, list[int]] = {}
    for index in order:
        groups.setdefault(labels[index], []).append(index)
    return _in_turn(list(groups.values()))


def balanced(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows taken in turn from every task, and within a task from every label, in their order."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        label = str(json.loads(row["row"]).get("label", ""))
        groups.setdefault(row["task"], {}).setdefault(label, []).append(row)
    queues = {task: _in_turn(list(labels.values())) for task, labels in groups.items()}
    return _in_turn(list(queues.values()))


def _in_turn(queues: Sequence[Sequence[Any]]) -> list[Any]:
    longest = max((len(queue) for queue in queues), default=0)
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)]


def within_bytes(rows: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """As many rows from the front as fit."""
    found, total = [], 0
    for row in rows:
        total += len(row["row"].encode())
        if total > limit:
            break
        found.append(row)
    return found
