"""Answers of extractive questions: the forms they come in, and whether they stand where they say.

{"text": ["Paris"], "answer_start": [17]}     SQuAD as a table, also as JSON text; both lists empty: unanswerable
[{"text": "Paris", "answer_start": 17}]       SQuAD as nested JSON
Paris (and a column `answer_start`)           one answer a row; an empty text: unanswerable
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import DataError, called

FORM = '{"text": [...], "answer_start": [...]}'
SHOWN = 60  # characters of a text in an error message


@dataclass(frozen=True)
class Gold:
    """One accepted answer: its text and where its first character stands."""

    text: str
    start: int

    @property
    def span(self) -> tuple[int, int]:
        """Characters [start, end)."""
        return self.start, self.start + len(self.text)


def parse(value: Any, start: Any = None) -> list[tuple[str, int | None]]:
    """The texts of an answers cell and where they start (None where that is not said); none: unanswerable.

    Args:
        value: a cell in one of the forms above.
        start: the row's `answer_start`, for an answer that is plain text.

    Raises:
        DataError: it has another form; the row is named by who calls.
    """
    if isinstance(value, str):
        read = objects(value)
        if read is None:
            return [(value, _whole(start))] if value.strip() else []
        value = read
    if isinstance(value, Mapping):
        texts, places = _field(value, "text"), _field(value, "answer_start")
        if not isinstance(texts, list):
            texts, places = [texts], [places]
        places = places if places is not None else [None] * len(texts)
        if not isinstance(places, list) or len(places) != len(texts):
            count = len(places) if isinstance(places, list) else 1
            raise DataError(f"`answers` has {len(texts)} texts and {count} starts; give each text its start.")
        pairs = list(zip(texts, places, strict=True))
    elif isinstance(value, Sequence) and all(isinstance(each, Mapping) for each in value):
        pairs = [(_field(each, "text"), each.get("answer_start")) for each in value]
    else:
        raise DataError(f"`answers` is {called(value)}; it must be {FORM}.")
    for text, _ in pairs:
        if not isinstance(text, str):
            raise DataError(f"`answers` holds {called(text)} where a text is needed; it must be {FORM}.")
    return [(text, _whole(place)) for text, place in pairs if text.strip()]


def place(found: Sequence[tuple[str, int | None]], context: str, mend: bool) -> list[Gold]:
    """Answers with the places where they really stand.

    Args:
        found: from `parse`.
        context: the text that they are part of.
        mend: take the nearest place where an answer stands when it is not where it says.

    Raises:
        DataError: an answer is not where it says, or nowhere; the row is named by who calls.
    """
    golds = []
    for text, start in found:
        if start is not None and start >= 0 and context[start : start + len(text)] == text:
            golds.append(Gold(text, start))
            continue
        near = nearest_place(text, context, start or 0)
        if mend and near is not None:
            golds.append(Gold(text, near))
            continue
        raise DataError(_misplaced(text, start, near, context))
    return golds


def nearest_place(text: str, context: str, start: int) -> int | None:
    """Where a text stands nearest to a place."""
    places = []
    at = context.find(text)
    while at >= 0:
        places.append(at)
        at = context.find(text, at + 1)
    return min(places, key=lambda found: abs(found - start), default=None)


def _misplaced(text: str, start: int | None, near: int | None, context: str) -> str:
    said = f"the answer `{short(text)}`"
    remedy = "correct answer_start, or let it be found with --set question-answering.offsets=mend."
    if near is None:
        return f"{said} does not occur in the context; an extractive answer is copied from it letter by letter, so mend or remove the row."
    if start is None:
        return f"{said} has no answer_start; it stands at {near}: add the column, or let it be found with --set question-answering.offsets=mend."
    there = context[max(start, 0) : max(start, 0) + len(text)]
    what = f"at {start} stands `{short(there)}`" if there else f"{start} is outside the {len(context)} characters"
    return f"{said} does not stand at its answer_start: {what}, and it stands at {near}; {remedy}"


def short(text: str) -> str:
    """A text as an error message shows it."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _field(value: Mapping[str, Any], name: str) -> Any:
    if name == "text" and name not in value:
        raise DataError(
            f"`answers` has no `text` (it has {', '.join(map(str, value)) or 'nothing'}); it must be {FORM}."
        )
    return value.get(name)


def objects(text: str) -> Any:
    """Objects that a cell holds as JSON text, or as Python programs write them; None for a text that is an answer itself.

    Raises:
        DataError: it was meant to hold them, and they cannot be read.
    """
    if not text.lstrip().startswith(("{", "[")):
        return None
    value = None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            value = ast.literal_eval(text.strip())  # {'text': ['a'], 'answer_start': [0]}
    if isinstance(value, dict) or (isinstance(value, list) and all(isinstance(each, dict) for each in value)):
        return value
    if "answer_start" in text:
        raise DataError(
            f"`answers` is text that cannot be read as an object (`{short(text)}`); write it as JSON: {FORM}."
        )
    return None


def _whole(value: Any) -> int | None:
    if value is None or value == "":
        return None
    try:
        number = int(value)
        whole = number == float(value) and not isinstance(value, bool)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise DataError(f"the answer_start `{short(str(value))}` is not a whole number; it counts characters from 0.")
    return number
