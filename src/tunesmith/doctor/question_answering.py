"""Checks of extractive question answering: answers that stand where they are said to stand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tunesmith.doctor.case import IGNORED, Case, folded
from tunesmith.doctor.finding import Finding, counted
from tunesmith.doctor.general.duplicates import conflict


def cuts(options: Any) -> bool:
    """Long contexts become windows."""
    return False


def answers(value: Any) -> tuple[list[str], list[int]] | None:
    """Texts and offsets of an answer cell (an object, or JSON text of one); None if it is neither."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return None
    if not isinstance(value, Mapping):
        return None
    found, starts = value.get("text", []), value.get("answer_start", [])
    found, starts = [x if isinstance(x, list) else [x] for x in (found, starts)]
    return [str(text) for text in found], [int(s) if isinstance(s, (int, float)) else -1 for s in starts]


def texts(row: Mapping[str, Any]) -> list[str]:
    """Question, context and answers."""
    said = answers(row.get("answers"))
    return [str(row.get("question") or ""), str(row.get("context") or ""), *(said[0] if said else [])]


def offsets(case: Case) -> Iterator[Finding]:
    """Answers that are not in the context at their offset, or not at all."""
    for part in case.parts.values():
        shape, outside, wrong, absent, blank = [], [], [], [], []
        hint: dict[int, str] = {}
        unanswerable = 0
        cells = part.columns.get("answers", [])
        contexts = part.columns.get("context", [""] * len(cells))
        for i, (cell, context) in enumerate(zip(cells, contexts, strict=True)):
            if cell is None or not isinstance(context, str):
                continue
            said = answers(cell)
            if said is None or len(said[0]) != len(said[1]):
                shape.append(i)
                continue
            unanswerable += not said[0]
            for text, start in zip(*said, strict=True):
                if not text.strip():
                    blank.append(i)
                elif text not in context:
                    absent.append(i)
                elif start < 0 or start + len(text) > len(context):
                    outside.append(i)
                elif context[start : start + len(text)] != text:
                    wrong.append(i)
                    hint[i] = (
                        f"`{context[start : start + len(text)]}` stands there, not `{text}`, which is at {context.find(text)}"
                    )
        case.note(part, unanswerable=unanswerable / max(len(part), 1))
        kinds = (
            ("answer-form", shape, "`answers` is not {text: [...], answer_start: [...]} with as many texts as offsets", "write it in that form"),
            ("answer-empty", blank, "an answer is empty", "leave `text` and `answer_start` empty where there is no answer"),
            ("answer-absent", absent, "the answer does not stand in the context", "quote it from the context as it is written there"),
            ("answer-outside", outside, "the offset of an answer lies outside the context", "count characters from 0, not bytes or tokens"),
            ("answer-offset", wrong, "another text stands at the offset of the answer" + (f" ({hint[wrong[0]]})" if wrong else ""), "count characters from 0"),
        )  # fmt: skip
        for code, rows, what, remedy in kinds:
            if rows:
                yield part.finding("error", code, rows, f"in {counted(len(set(rows)))} {what}", remedy)


def easy(case: Case) -> Iterator[Finding]:
    """Rows whose answer is the whole context."""
    for part in case.parts.values():
        found = []
        for i, cell in enumerate(part.columns.get("answers", [])):
            said, context = answers(cell), part.columns["context"][i]
            if (
                said
                and isinstance(context, str)
                and len(context) > 20
                and any(folded(t) == folded(context) for t in said[0])
            ):
                found.append(i)
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
    holds = getattr(case.task, "holds_answer", None)
    for part in case.parts.values():
        encoded = part.encoded
        if encoded is None or encoded.labels is None or encoded.label_offsets is None:
            continue
        asked = np.asarray([bool((said := answers(cell)) and said[0]) for cell in part.columns.get("answers", [])])
        seen = np.zeros(len(part), bool)
        for feature, owner in enumerate(encoded.owner.tolist()):
            span = encoded.labels[encoded.label_offsets[feature] : encoded.label_offsets[feature + 1]]
            # Without an answer both ends point at the first token, or are asked nothing.
            seen[owner] |= holds(span) if holds else bool(len(span) and span[0] != IGNORED and span.max() > 0)
        lost = np.flatnonzero(asked & ~seen)
        if len(lost):
            yield part.finding(
                "warning", "answer-outside-windows", lost, f"in {counted(len(lost))} no window holds the whole answer",
                "raise --max-length or the stride",
            )  # fmt: skip


ROW_CHECKS = [offsets, easy, conflict]
ENCODED_CHECKS = [windows]
