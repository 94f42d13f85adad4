"""Checks of extractive question answering: answers that stand where they are said to stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tunesmith.doctor.case import Case, Part, folded
from tunesmith.doctor.finding import Finding, Level, counted
from tunesmith.doctor.general.duplicates import conflict
from tunesmith.errors import DataError
from tunesmith.tasks._answers import nearest_place, objects, parse


def cuts(options: Any) -> bool:
    """Long contexts become windows."""
    return False


def texts(row: Mapping[str, Any]) -> list[str]:
    """Question, context and answers."""
    said = _answers(row.get("answers"), row.get("answer_start")) or []
    return [str(row.get("question") or ""), str(row.get("context") or ""), *(text for text, _ in said)]


def _answers(cell: Any, start: Any = None) -> list[tuple[str, int | None]] | None:
    """Answers and where they start, as the task reads them; None if it does not."""
    try:
        return parse(cell, start)
    except DataError:
        return None


def _rows(part: Part) -> Iterator[tuple[int, str, Any, list[tuple[str, int | None]] | None]]:
    """Index, context, cell and answers of the rows that have both."""
    starts = part.columns.get("answer_start", [None] * len(part))
    for i, (cell, start, context) in enumerate(
        zip(part.columns.get("answers", []), starts, part.columns.get("context", []), strict=False)
    ):
        if cell is not None and isinstance(context, str):
            yield i, context, cell, _answers(cell, start)


def _has_blank(cell: Any) -> bool:
    """Whether a list of answers holds one without text, which the task takes for none."""
    if isinstance(cell, str):
        cell = objects(cell)
    found = cell.get("text") if isinstance(cell, Mapping) else None
    return isinstance(found, list) and any(isinstance(text, str) and not text.strip() for text in found)


def offsets(case: Case) -> Iterator[Finding]:
    """Answers that are not in the context at their offset, or not at all."""
    mends = case.option("offsets") == "mend"
    for part in case.parts.values():
        shape, outside, wrong, absent, blank = [], [], [], [], []
        hint = ""
        unanswerable = 0
        for i, context, cell, said in _rows(part):
            if said is None:
                shape.append(i)
                continue
            unanswerable += not said
            if _has_blank(cell):
                blank.append(i)
            for text, start in said:
                there = context[start : start + len(text)] if start is not None and start >= 0 else ""
                near = nearest_place(text, context, start or 0)
                if there == text:
                    continue
                if near is None:
                    absent.append(i)
                elif start is not None and (start < 0 or start + len(text) > len(context)):
                    outside.append(i)
                else:
                    wrong.append(i)
                    hint = hint or f"; `{text[:40]}` of row {part.numbers[i]} is at {near}"
        case.note(part, unanswerable=unanswerable / max(len(part), 1))
        remedy = "count characters from 0, or set question-answering.offsets=mend"
        level: Level = "warning" if mends else "error"
        kinds: tuple[tuple[Level, str, list[int], str, str], ...] = (
            ("error", "answer-form", shape, "`answers` is not {text: [...], answer_start: [...]} with as many texts as starts", "write it in that form"),
            ("warning", "answer-empty", blank, "an answer is empty and is read as none", "leave `text` and `answer_start` empty where there is no answer"),
            ("error", "answer-absent", absent, "the answer does not stand in the context", "quote it from the context letter by letter"),
            (level, "answer-outside", outside, "the offset of an answer lies outside the context", remedy),
            (level, "answer-offset", wrong, f"another text stands at the offset of the answer{hint}", remedy),
        )  # fmt: skip
        for kind, code, rows, what, advice in kinds:
            if rows:
                yield part.finding(kind, code, rows, f"in {counted(len(set(rows)))} {what}", advice)


def easy(case: Case) -> Iterator[Finding]:
    """Rows whose answer is the whole context."""
    for part in case.parts.values():
        found = [
            i for i, context, _, said in _rows(part)
            if said and len(context) > 20 and any(folded(text) == folded(context) for text, _ in said)
        ]  # fmt: skip
        if found:
            yield part.finding(
                "warning",
                "answer-is-context",
                found,
                f"in {counted(len(found))} the answer is the whole context",
                "mark the words that answer",
            )


def windows(case: Case) -> Iterator[Finding]:
    """Answers that no window holds whole: the row is trained as if it had none."""
    null = getattr(case.task, "null", lambda length: 0)  # where the labels of a window without an answer point to
    for part in case.parts.values():
        encoded = part.encoded
        if encoded is None or encoded.labels is None or encoded.label_offsets is None:
            continue
        asked = np.zeros(len(part), bool)
        asked[[i for i, _, _, said in _rows(part) if said]] = True
        seen = np.zeros(len(part), bool)
        first = encoded.labels[encoded.label_offsets[:-1]]
        places = np.asarray([null(int(length)) for length in encoded.lengths])
        seen[encoded.owner[first != places]] = True
        lost = np.flatnonzero(asked & ~seen)
        if len(lost):
            yield part.finding(
                "warning", "answer-outside-windows", lost, f"in {counted(len(lost))} no window holds the whole answer",
                "raise --max-length or the stride",
            )  # fmt: skip


ROW_CHECKS = [offsets, easy, conflict]
ENCODED_CHECKS = [windows]
