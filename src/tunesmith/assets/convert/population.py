"""Extractive questions on abstracts of drug trials: which people were studied?

The source is a chat sample: the system turn asks (one of ten wordings), the user turn is the abstract, the ideal answer
is a sentence that quotes one or more spans. We read the quotes back out and find each in the abstract; quotes that an
annotator changed on the way are not spans of the text and are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tunesmith.assets.archive import zip_bytes
from tunesmith.assets.rows import Dropped, Row

_MEMBER = "evals/registry/data/population_span_extraction/samples.jsonl"
_LEAD = "spans: '"


def questions(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
    """One row an abstract: `question`, `context`, `answers`; several spans are several accepted answers."""
    for line in zip_bytes(archives[0], _MEMBER).decode("utf-8").split("\n"):
        if line.strip():
            yield _row(json.loads(line))


def _row(sample: dict) -> Row | Dropped:
    turns = {turn["role"]: turn["content"] for turn in sample["input"]}
    _, lead, quoted = sample["ideal"].partition(_LEAD)
    if not lead:
        return Dropped("no quoted span")
    context = turns["user"]
    answers: dict[str, int] = {}
    for span in quoted.rstrip().removesuffix("'").split("', '"):
        text = span.strip()
        start = context.find(text)
        if text and start >= 0:
            answers.setdefault(text, start)
    if not answers:
        return Dropped("answer not found in the context")
    return {
        "question": turns["system"],
        "context": context,
        "answers": {"text": list(answers), "answer_start": list(answers.values())},
    }
