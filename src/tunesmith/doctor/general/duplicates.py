"""Rows that are there twice: they count double in training, and in a score."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.doctor.case import Case, plain
from tunesmith.doctor.finding import Finding, rows_that


def duplicate(case: Case) -> Iterator[Finding]:
    """The same inputs and targets as an earlier row of the same part."""
    for part in case.parts.values():
        keys = case.keys(part)
        answers = list(zip(*(map(plain, part.columns[n]) for n in case.targets if n in part.columns), strict=True))
        first: dict[tuple[object, ...], int] = {}
        found: dict[int, int] = {}
        for i, key in enumerate(keys):
            if not any(text.strip() for text in key):
                continue
            earlier = first.setdefault((*key, *(answers[i] if answers else ())), i)
            if earlier != i:
                found[i] = earlier
        if found:
            later, earlier = next(iter(found.items()))
            yield part.finding(
                "warning", "duplicate", found,
                f"{rows_that(len(found), 'repeat')} an earlier row (row {part.numbers[later]} is row {part.numbers[earlier]})",
                "remove the repetitions, unless they should weigh more",
            )  # fmt: skip


def conflict(case: Case) -> Iterator[Finding]:
    """The same inputs with other targets, in any of the parts; for tasks in which one answer is right."""
    first: dict[tuple[str, ...], tuple[str, int, tuple[str, ...]]] = {}
    for part in case.parts.values():
        names = [name for name in case.targets if name in part.columns]
        answers = list(zip(*(map(plain, part.columns[name]) for name in names), strict=True))
        found: dict[int, tuple[str, int]] = {}
        for i, (key, answer) in enumerate(zip(case.keys(part), answers, strict=False)):
            role, earlier, said = first.setdefault(key, (part.role, i, answer))
            if said != answer and any(text.strip() for text in key):
                found[i] = (role, earlier)
        if found:
            row, (role, earlier) = next(iter(found.items()))
            names_it = f"row {part.numbers[row]} and {case.parts[role].source}, row {case.parts[role].numbers[earlier]}"
            yield part.finding(
                "warning", "conflict", found, f"{rows_that(len(found), 'have')} the input of an earlier row and another target ({names_it})",
                "decide which is right and remove the others; a model can learn only one",
            )  # fmt: skip


ROW_CHECKS = [duplicate]
