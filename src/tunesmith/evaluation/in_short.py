"""Answers in a few numbers: which is the most common, how common it is, and how often it is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.tasks._base import Answer, Task


def in_short(task: Task, answers: Sequence[Answer], table: Any) -> dict[str, Any] | None:
    """The most common answer (for people), its share among answers, its share among what is true, and the rows; None where answers are numbers.

    Labels of a text's words count as the set of them, so that "no entity in any row" is one answer.

    Args:
        task: whose answers they are.
        answers: of rows in order.
        table: the rows.
    """
    said = [
        (answer, task.truth(row))
        for answer, row in zip(answers, table, strict=True)
        if _is_words(answer.shown.get("prediction"))
    ]
    if not said:
        return None
    counts = Counter(_key(answer.value) for answer, _ in said)
    top, count = counts.most_common(1)[0]
    shown = next(answer.shown["prediction"] for answer, _ in said if _key(answer.value) == top)
    true = sum(_is(top, truth) for _, truth in said)
    words = ", ".join(sorted(set(map(str, shown)))) if isinstance(shown, (list, tuple)) else str(shown)
    return {"answer": words[:60], "most": count / len(said), "true": true / len(said), "rows": len(said)}


def _is_words(value: Any) -> bool:
    return isinstance(value, (str, int, list, tuple))


def _key(value: Any) -> Any:
    """What makes two answers the same."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return frozenset(map(str, value)) if isinstance(value, (list, tuple)) else value


def _is(answer: Any, truth: Any) -> bool:
    """Whether an answer is right; of a question, one of the accepted ones, or none where there is none."""
    if isinstance(answer, str) and isinstance(truth, (list, tuple)):
        return answer in truth or (not answer and not truth)
    return bool(_key(truth) == answer)
