"""Checks of language modelling: documents that hold text, and text that is not the same everywhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from tunesmith.doctor.case import IGNORED, Case
from tunesmith.doctor.finding import Finding, counted, rows_that

SHORTEST = 8  # tokens that are predicted in a document
LINE = 20  # characters from which a line is no chance
OFTEN = 0.05  # share of the documents that a line may stand in
LEAST = 5  # documents that a line must stand in to count as repeated
TENTH = 0.1  # share of a document that such lines must make up; a salutation is none
HALF = 0.5  # share of a document's lines that may be repeated within it
UNPRINTED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd\ue000-\uf8ff]")
DIRTY = 0.02  # share of unprintable characters
RUN = re.compile(r"[A-Za-z0-9+/=_\-]{400,}")  # base64 and its like


def cuts(options: Any) -> bool:
    """Long documents become windows."""
    return False


def short(case: Case) -> Iterator[Finding]:
    """Documents of a few tokens, in which there is hardly anything to predict."""
    for part in case.parts.values():
        if part.encoded is None or part.encoded.labels is None:
            continue
        counts = part.encoded.count_labels(part.encoded.labels != IGNORED)
        found = np.flatnonzero((counts > 0) & (counts < SHORTEST))
        if len(found):
            yield part.finding(
                "warning", "short-document", found, f"{rows_that(len(found), 'have')} fewer than {SHORTEST} tokens to predict",
                "join them with their neighbours or remove them",
            )  # fmt: skip


def not_text(case: Case) -> Iterator[Finding]:
    """Documents that are bytes of something else."""
    for part in case.parts.values():
        found = []
        for i, text in enumerate(case.texts(part)):
            odd = len(UNPRINTED.findall(text)) if not text.isprintable() or "\ufffd" in text else 0
            if odd > max(1, DIRTY * len(text)) or RUN.search(text):
                found.append(i)
        if found:
            yield part.finding(
                "warning", "not-text", found, f"{rows_that(len(found), 'hold')} bytes that are no text (unprintable characters or long runs without a space)",
                "remove them, or extract the text first",
            )  # fmt: skip


def repeated(case: Case) -> Iterator[Finding]:
    """Lines that stand in many documents, and documents that repeat their own lines."""
    for part in case.parts.values():
        holders: Counter[str] = Counter()
        own: list[int] = []
        lined: list[set[str]] = []
        for i, text in enumerate(case.texts(part)):
            lines = [line.strip() for line in text.splitlines() if len(line.strip()) >= LINE]
            unique = set(lines)
            lined.append(unique)
            holders.update(unique)
            if len(lines) >= 4 and len(lines) - len(unique) >= HALF * len(lines):
                own.append(i)
        limit = max(LEAST, OFTEN * len(part))
        everywhere = {line for line, count in holders.items() if count >= limit}
        # A document that is nothing but the line is a duplicate, and said to be one.
        sizes = [sum(map(len, unique & everywhere)) for unique in lined]
        found = [i for i, text in enumerate(case.texts(part)) if sizes[i] and sizes[i] >= TENTH * len(text)]
        if found:
            line = max(lined[found[0]] & everywhere, key=lambda text: holders[text])
            yield part.finding(
                "warning", "boilerplate", found, f"the same line stands in {counted(holders[line], 'document')} (`{line[:50]}`)",
                "remove it; it is learned once and then only costs time",
            )  # fmt: skip
        if own:
            yield part.finding(
                "warning",
                "repeated-lines",
                own,
                f"{rows_that(len(own), 'repeat')} their own lines (half of them or more)",
                "remove the repetitions",
            )


ROW_CHECKS = [not_text, repeated]
ENCODED_CHECKS = [short]
