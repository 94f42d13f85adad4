r"""Experience replay: some rows of every earlier stage are kept and learned along (Robins 1995; Chaudhry et al. 2019).

    loss = new loss + weight * mean over a batch from the memory

The memory holds `size` rows (or `bytes` of text), drawn with equal chance from all rows seen (`reservoir`, Vitter 1985) or evenly
over the tasks, and over labels within one (`balanced`). With `logits` the model's own outputs are kept beside the rows, and the loss on
them is that of DER++ (Buzzega et al. 2020, equation 6):

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

from tunesmith.config import Options as BaseOptions
from tunesmith.continual._rehearsal import Rehearsal, encoded
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
        self.seen = 0

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
            order = np.random.default_rng(derive(session.config.seed, "memory", name)).permutation(len(rows))
            for index in order[: self.options.size if self.options.bytes is None else len(rows)].tolist():
                row = {k: v for k, v in rows.table[index].items() if v is not None}
                text = json.dumps(row, ensure_ascii=False, default=str)
                fresh.append(
                    {
                        "task": name,
                        "stage": session.stage,
                        "number": rows.number(index),
                        "source": rows.source,
                        "row": text,
                        "rows": len(rows),
                    }
                )
        self.memory = self.select(
            self.memory, fresh, session.config.seed, sum(len(p.roles.train) for p in session.parts.values())
        )
        if self.options.logits:
            self._keep_logits(session)
        self._show(Path(session.folder))

    def select(
        self, old: list[dict[str, Any]], fresh: list[dict[str, Any]], seed: int, rows: int
    ) -> list[dict[str, Any]]:
        """What of old and fresh rows stays.

        Args:
            old: the memory.
            fresh: rows of the stage in random order.
            seed: of the run.
            rows: how many rows the stage had.
        """
        rng = np.random.default_rng(derive(seed, "memory size", self.seen))
        if self.options.select == "reservoir":
            # Each row seen so far has the same chance: as many of the stage's rows as its share of all.
            room = self.options.size
            share = int(rng.binomial(room, rows / (self.seen + rows))) if self.seen else room
            keep = [old[int(i)] for i in sorted(rng.permutation(len(old))[: max(room - share, 0)])]
            found = [*keep, *fresh[: room - len(keep)]]
        else:
            found = balanced([*old, *fresh], self.options.size if self.options.bytes is None else len(old) + len(fresh))
        self.seen += rows
        if self.options.bytes is not None:
            found = within_bytes(found, self.options.bytes)
        return found

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
        session.technique.set_training(session.backbone)

    def _show(self, folder: Path) -> None:
        lines = [
            json.dumps(
                {**json.loads(k["row"]), "_task": k["task"], "_source": k["source"], "_row": k["number"]},
                ensure_ascii=False,
            )
            for k in self.memory
        ]
        (folder / "memory.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        """The rows, with their logits if they are kept."""
        return {"memory": self.memory, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.memory, self.seen = list(state["memory"]), int(state["seen"])


def balanced(rows: Sequence[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """Rows taken in turn from every task, and within a task from every label, in their order, until there are `size`."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        label = str(json.loads(row["row"]).get("label", ""))
        groups.setdefault(row["task"], {}).setdefault(label, []).append(row)
    queues = {task: _in_turn(list(labels.values())) for task, labels in groups.items()}
    return _in_turn(list(queues.values()))[:size]


def _in_turn(queues: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
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
