"""Rows beside the labelled ones: those without labels, and those that a teacher writes.

    unlabelled            any data form; the columns that a row is asked with, no targets. Where a target is part of what the student
                          reads (a completion, a summary, an answer of a chat) the teacher writes it.
    sequence `instead`    the teacher's texts in the place of the rows' own (Kim & Rush 2016, section 3.2: the mode of the teacher's
                          distribution over sequences, found by its search)
    sequence `beside`     both

A row that is measured is never trained on: unlabelled rows with the input of a training, validation or eval row are left out, so that
the file that the others were drawn from may be named as it is. What a teacher writes is kept in the cache and shown in the run's
folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.cache import store
from tunesmith.data import sources
from tunesmith.data.sources import Rows
from tunesmith.errors import UserError
from tunesmith.objectives._base import Ground
from tunesmith.objectives._teacher import Teacher

CODE = 1  # part of the key: raise it when texts are written otherwise


@dataclass
class Further:
    """Rows beside the labelled ones.

    Attributes:
        rows: with targets, real or not.
        labelled: whether the loss may look at them.
        written: how many the teacher wrote.
        left_out: rows that are known already, or of which it wrote nothing.
    """

    rows: Rows
    labelled: bool
    written: int = 0
    left_out: int = 0


def unlabelled(spec: str, part: Any) -> tuple[Rows, int]:
    """Rows of a file without targets, and how many were left out because the run has them already.

    Raises:
        DataError: the file lacks a column.
        UserError: nothing is left.
    """
    task = part.task
    table, _ = sources.open_table(spec, task.plain_text)
    there = {
        name: column
        for name, column in part.spec.columns.items()
        if name not in task.targets and column in table.column_names
    }
    needed = [name for name in task.required if name not in task.targets]
    optional = [name for name in task.optional if name not in task.targets]
    for name, other in task.stand_ins.items():
        known = sources.with_synonyms(table.column_names, there, needed, task.synonyms)
        if known.get(name, name) not in table.column_names and other in table.column_names:
            needed[needed.index(name)] = other
    rows = sources.read(spec, there, needed, optional, task.synonyms, task.plain_text)
    taken = {signature(row, task) for _, found in part.roles.present() for row in asked(found, task)}
    kept = [i for i, row in enumerate(rows.table) if signature(row, task) not in taken]
    if not kept:
        raise UserError(
            f"distillation.unlabelled: every row of `{spec}` is a training, validation or eval row already; name other rows."
        )
    return rows.select(kept, "unlabelled"), len(rows) - len(kept)


def asked(rows: Rows, task: Any) -> Iterable[Mapping[str, Any]]:
    """Rows as they are asked."""
    return (task.question_of(row) for row in rows.table)


def signature(row: Mapping[str, Any], task: Any) -> str:
    """What says that two rows are the same: the content of their inputs."""
    if task.made_of_text and any(name in row for name in task.stand_ins):
        return " ".join(task.words(row)) if hasattr(task, "words") else str(task.text_of(row))
    return str([task.question_of(row).get(name) or "" for name in task.inputs])


def blanks(rows: Rows, task: Any) -> Rows | None:
    """Rows with stand-ins for targets; None where the targets must be written."""
    from datasets import Dataset

    records = [task.blank(row) for row in rows.table]
    if any(record is None for record in records):
        return None
    return Rows(
        Dataset.from_list(records), rows.source, store.key_of(parent=rows.sha256, blank=task.state_dict()), rows.numbers
    )


def written(teacher: Teacher, ground: Ground, part: Any, rows: Rows) -> tuple[Rows, int]:
    """Rows with the teacher's texts as targets, from the cache if they are there, and how many it wrote nothing for.

    Raises:
        UserError: it wrote nothing at all.
    """
    task = part.task
    options = task.options.model_dump(mode="json")
    key = store.key_of(
        code=CODE, teacher=teacher.sha256, rows=rows.sha256, columns=rows.table.column_names, task=task.name, options=options,
        state=task.state_dict(), seed=ground.config.seed if options.get("sample") else None,
    )  # fmt: skip

    def make(folder: Path) -> None:
        opened = teacher.open(ground, part)
        # It writes as the student's task says (length, beams), with the frame and the end tokens that it was trained with.
        before, opened.task.options = opened.task.options, opened.task.options.model_copy(update=_writing(options))
        questions = list(asked(rows, task))
        try:
            answers = ground.answers(opened, questions)
        finally:
            opened.task.options = before
        records = [
            task.with_answer(question, answer)
            for question, answer in zip(questions, answers, strict=True)
            if str(answer.shown["prediction"] or "").strip()
        ]
        if not records:
            raise UserError(
                f"the teacher `{teacher.name}` wrote nothing for any row of `{rows.source}`; raise {task.name}.max_new_tokens or name another."
            )
        sources.write_objects(records, folder / "rows.jsonl")

    folder = store.folder("teacher-rows", key, make)
    found = sources.read(str(folder / "rows.jsonl"), {}, task.required, task.optional)
    return found, len(rows) - len(found)


def _writing(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say how a text is written."""
    names = ("max_new_tokens", "beams", "sample", "temperature", "top_p", "top_k", "no_repeat", "repetition_penalty")
    return {name: options[name] for name in names if name in options}
