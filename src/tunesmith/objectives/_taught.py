"""A task of a stage with its teachers: the rows that are learned from, and what is said of them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tunesmith import durable
from tunesmith.cache import store
from tunesmith.cache.ragged import RaggedRows, joined
from tunesmith.console import say
from tunesmith.errors import UserError
from tunesmith.objectives import _rows, _tables
from tunesmith.objectives._base import Ground, Lesson, Pass
from tunesmith.objectives._live import Live
from tunesmith.objectives._outputs import Told, told
from tunesmith.objectives._rows import Further
from tunesmith.objectives._teacher import Teacher


class Taught:
    """What one task learns from, and from whom.

    Attributes:
        weights: of the teachers, summing to 1.
        lesson: features of all rows.
        live: the teachers, where they run beside the student; else none.
        tables: what each of them said of every feature of the lesson.

    Raises:
        UserError: a teacher cannot teach these rows.
    """

    def __init__(self, teachers: Sequence[Teacher], ground: Ground, part: Any, options: Any) -> None:
        self.teachers, self.part, self.options = list(teachers), part, options
        given = options.weights or [1.0] * len(teachers)
        self.weights = [weight / sum(given) for weight in given]
        self.sets: dict[str, Further] = {}
        self._gather(ground)
        reader = ground.reader(part)
        features = [
            part.encoded["train"] if f.rows is part.roles.train else ground.encode(reader, f.rows)
            for f in self.sets.values()
        ]
        self.lesson = self._lesson(features)
        self.live: list[Live] = []
        self.told: list[list[Told]] = []
        self.tables: list[RaggedRows] = []
        self.waited = 0.0
        if part.task.redraws or options.inside:
            self.live = [Live(teacher, ground, part, features, options, set(options.inside)) for teacher in teachers]
        elif options.alpha < 1:
            counts, started = [len(each) for each in features], time.perf_counter()
            for teacher in teachers:
                found = [
                    told(teacher, ground, part, each.rows, encoded, options)
                    for each, encoded in zip(self.sets.values(), features, strict=True)
                ]
                self.told.append(found)
                self.tables.append(joined([each.tables for each in found], counts))
                self._say(teacher, found)
            self.waited = time.perf_counter() - started

    def _gather(self, ground: Ground) -> None:
        """The sets of rows: the task's own, the teacher's, those without labels."""
        o, part, train = self.options, self.part, self.part.roles.train
        writes = part.task.aligned_by == "text" and part.task.blank(train.table[0]) is None
        if o.sequence != "off" and not writes:
            raise UserError(
                f"distillation.sequence={o.sequence} lets the teacher write targets, and {part.task.name} has none that are texts; it is for "
                "instruction, chat and summarization (rows without labels: distillation.unlabelled)."
            )
        if o.sequence != "instead":
            self.sets["labelled"] = Further(train, True)
        if o.sequence != "off":
            rows, lost = _rows.written(self.teachers[0], ground, part, train)
            self.sets["generated"] = Further(rows, True, len(rows), lost)
        if o.unlabelled:
            rows, known = _rows.unlabelled(o.unlabelled, part)
            blank = _rows.blanks(rows, part.task)
            if blank is not None:
                if o.alpha == 1 and not o.inside:
                    raise UserError(
                        "distillation.alpha=1 learns from labels alone, and unlabelled rows have none; lower it."
                    )
                self.sets["unlabelled"] = Further(blank, False, 0, known)
            else:
                texts, lost = _rows.written(self.teachers[0], ground, part, rows)
                self.sets["unlabelled"] = Further(texts, o.sequence != "off", len(texts), known + lost)

    def _lesson(self, features: Sequence[RaggedRows]) -> Lesson:
        sets = list(self.sets.values())
        first = sorted(features[0].columns)
        for each, found in zip(sets, features, strict=True):
            if sorted(found.columns) != first:
                raise UserError(
                    f"the rows of `{each.rows.source}` have other inputs ({', '.join(sorted(found.columns))}) than those of "
                    f"`{sets[0].rows.source}` ({', '.join(first)}); give them the same columns."
                )
        labelled = np.concatenate(
            [np.full(len(found), each.labelled) for each, found in zip(sets, features, strict=True)]
        )
        if len(sets) == 1:
            return Lesson(features[0], sets[0].rows.sha256)
        sha = store.key_of(rows=[each.rows.sha256 for each in sets])
        return Lesson(joined(features, [len(each.rows) for each in sets]), sha, None if labelled.all() else labelled)

    def _say(self, teacher: Teacher, found: Sequence[Told]) -> None:
        count = sum(len(each.rows) for each in self.sets.values())
        if all(each.meta["found"] for each in found):
            say(
                f"What the teacher {teacher.name} says of {count:,} rows is known from an earlier run; it is not opened."
            )
        else:
            spent = sum(each.meta["seconds"] for each in found if not each.meta["found"])
            say(
                f"The teacher {teacher.name} has read {count:,} rows in {spent:.1f} s; what it says is kept for later runs."
            )
        covered = min(each.meta["covered"] for each in found)
        if covered < 0.999:
            say(
                f"Its vocabulary is another: {covered:.1%} of what it says falls on places and tokens that the student has too."
            )

    def modules(self) -> Mapping[str, nn.Parameter]:
        """Projections."""
        return {name: weight for live in self.live for name, weight in live.own.items()}

    def begin(self, session: Any) -> None:
        """Training begins: live teachers take its dtype, others make room, and the rows that were made are shown in the run's folder."""
        if not self.live:
            for teacher in self.teachers:
                teacher.opened.clear()  # what they said is in the tables
        for live in self.live:
            live.to(session.masters.dtype)
        for kind, each in self.sets.items():
            if kind != "labelled" and each.written:
                folder = Path(session.folder) / "distillation"
                lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in each.rows.table)
                durable.write(folder / f"{self.part.name}-{kind}.jsonl", "".join(lines))

    def known(self, each: Pass, count: int) -> torch.Tensor:
        """1 for every decision of a batch that all teachers have too, [count]."""
        found = torch.ones(count, device=each.batch["input_ids"].device)
        for tables in self.tables:
            taught = _tables.gather(tables, each.places, "taught", found.device).float()
            found = found * (taught.repeat_interleave(count // max(len(taught), 1)) if len(taught) != count else taught)
        return found

    def notes(self) -> dict[str, Any]:
        """For result.json."""
        o = self.options
        rows: dict[str, Any] = {kind: len(each.rows) for kind, each in self.sets.items()}
        rows["left_out"] = sum(each.left_out for each in self.sets.values())
        outputs: dict[str, Any] = {"from": "the teacher, live" if self.live else "none"}
        if self.told:
            every = [each.meta for found in self.told for each in found]
            outputs = {
                "from": "cache" if all(meta["found"] for meta in every) else "computed",
                "seconds": sum(meta["seconds"] for meta in every),
                "waited_seconds": self.waited, "bytes": sum(meta["bytes"] for meta in every),
                "decisions": sum(meta["decisions"] for meta in every), "precision": o.precision, "top_k": o.top_k,
                "covered": min(meta["covered"] for meta in every),
            }  # fmt: skip
        return {
            "teachers": [
                {"name": teacher.name, "kind": teacher.kind, "sha256": teacher.sha256, "weight": weight}
                for teacher, weight in zip(self.teachers, self.weights, strict=True)
            ],
            "loss": {
                "alpha": o.alpha, "temperature": o.temperature, "divergence": o.divergence, "hidden": o.hidden, "embeddings": o.embeddings,
                "attention": o.attention, "sequence": o.sequence,
            },
            **({"student_layers": o.student_layers} if o.student_layers is not None else {}),
            "rows": rows,
            "outputs": outputs,
        }  # fmt: skip
