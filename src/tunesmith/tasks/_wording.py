"""A task's rows in words and back: what text-to-text puts before the model and what it makes of what is written.

                            reads                           writes
    text-classification     the text (and its pair)         the label; several apart by commas, or none; a number
    token-classification    the words                       TYPE: words; TYPE: words (or none); plain tags, one a word
    question-answering      question, blank line, context   the answer, or unanswerable

What is written is compared without case, spaces and punctuation. What fits nothing is a wrong answer and counted as unread.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.errors import DataError
from tunesmith.metrics.entities import entities
from tunesmith.tasks._base import Task
from tunesmith.tasks._words import spans

NONE, UNANSWERABLE = "none", "unanswerable"
LISTED = 30  # labels that an instruction names


def plain(text: str) -> str:
    """Letters and digits alone, in lower case."""
    return "".join(c for c in text.casefold() if c.isalnum())


class Wording(ABC):
    """A fitted task's rows in words.

    Args:
        task: says what its rows hold.
        given: the word that stands for a label or type, where its name does not.
    """

    def __init__(self, task: Any, given: Mapping[str, str]) -> None:
        self.task, self.given = task, given

    @property
    @abstractmethod
    def instruction(self) -> str:
        """What the model is told where the user says nothing."""

    @abstractmethod
    def material(self, row: Mapping[str, Any]) -> str:
        """What the model reads of a row."""

    @abstractmethod
    def target(self, row: Mapping[str, Any]) -> str:
        """What it should write."""

    @abstractmethod
    def value(self, text: str, row: Mapping[str, Any]) -> tuple[Any, bool]:
        """What was written as the task's metric takes it, and whether it could be read as an answer."""

    @abstractmethod
    def shown(self, value: Any, row: Mapping[str, Any]) -> dict[str, Any]:
        """The answer as the task itself shows it."""

    def names(self, labels: Sequence[str]) -> dict[str, str]:
        """A word for each label.

        Raises:
            DataError: two labels would be written alike, or one as nothing.
        """
        found: dict[str, str] = {}
        seen = {plain(NONE): "nothing"}
        for label in labels:
            word = self.given.get(label) or label.replace("_", " ").replace("-", " ")
            if not plain(word) or plain(word) in seen:
                alike = f"like `{seen[plain(word)]}`" if plain(word) in seen else "as nothing"
                raise DataError(
                    f"the label `{label}` would be written {alike}; give it a word with text-to-text.words."
                )
            found[label] = word
            seen[plain(word)] = label
        return found


class Labels(Wording):
    """One label, several, or a number."""

    def __init__(self, task: Any, given: Mapping[str, str]) -> None:
        super().__init__(task, given)
        self.words = self.names(task.labels)
        self.index = {plain(word): i for i, word in enumerate(self.words.values())}

    @property
    def instruction(self) -> str:
        """Names the labels."""
        if self.task.problem == "regression":
            return "Write the number that fits the text."
        listed = ", ".join(list(self.words.values())[:LISTED])
        what = (
            "Which of these fit the text, or none"
            if self.task.problem == "multi-label"
            else "Which of these fits the text"
        )
        return f"{what}: {listed}{', ...' if len(self.words) > LISTED else ''}?"

    def material(self, row: Mapping[str, Any]) -> str:
        """The text, and its pair below it."""
        return "\n".join(str(row[name]) for name in ("text", "text_pair") if row.get(name) is not None)

    def target(self, row: Mapping[str, Any]) -> str:
        """The label's word."""
        found, words = self.task.target(row["label"]), list(self.words.values())
        if self.task.problem == "regression":
            return f"{float(found):.6g}"
        if self.task.problem == "multi-label":
            return ", ".join(words[int(i)] for i in np.flatnonzero(found)) or NONE
        return words[int(found)]

    def value(self, text: str, row: Mapping[str, Any]) -> tuple[Any, bool]:
        """Index (-1: no label), 0/1 vector, or number (0 where none was written)."""
        if self.task.problem == "regression":
            try:
                number = float(text.split()[0].rstrip(",;."))
            except (ValueError, IndexError):
                number = math.nan
            return (np.float32(number), True) if math.isfinite(number) else (np.float32(0), False)
        if self.task.problem == "multi-label":
            pieces = [plain(piece) for piece in text.split(",")]
            vector = np.zeros(len(self.index), np.int64)
            known = [self.index[piece] for piece in pieces if piece in self.index]
            vector[known] = 1
            return vector, pieces == [plain(NONE)] or len(known) == len(pieces)
        written = plain(text)
        if written in self.index:
            return self.index[written], True
        begun = [word for word in self.index if written.startswith(word)]
        return (self.index[max(begun, key=len)], True) if begun else (-1, False)

    def shown(self, value: Any, row: Mapping[str, Any]) -> dict[str, Any]:
        """The label, or null where none could be read."""
        if self.task.problem == "single-label" and value < 0:
            return {"prediction": None}
        prediction = self.task.join([(value, np.ones(np.shape(value)))], row).shown["prediction"]
        return {"prediction": prediction}


class Spans(Wording):
    """Entities with their types, or a tag a word."""

    def __init__(self, task: Any, given: Mapping[str, str]) -> None:
        super().__init__(task, given)
        self.bio = task.scheme == "bio"
        labels = sorted({tag[2:] for tag in task.labels if tag != "O"}) if self.bio else list(task.labels)
        self.words = self.names(labels)
        self.known = {plain(word): label for label, word in self.words.items()}

    @property
    def instruction(self) -> str:
        """Names the types or tags."""
        listed = ", ".join(list(self.words.values())[:LISTED])
        return f"List the {listed} in the text, or none." if self.bio else f"Write a tag for each word: {listed}."

    def material(self, row: Mapping[str, Any]) -> str:
        """The words."""
        return " ".join(self.task.words(row))

    def target(self, row: Mapping[str, Any]) -> str:
        """The entities in order."""
        tags, words = self.task.truth(row), self.task.words(row)
        if not self.bio:
            return " ".join(self.words[tag] for tag in tags)
        found = [f"{self.words[kind]}: {' '.join(words[first:last])}" for kind, first, last in entities(tags)]
        return "; ".join(found) or NONE

    def value(self, text: str, row: Mapping[str, Any]) -> tuple[Any, bool]:
        """A tag for each word: each entity stands at its first place that is still free."""
        words = self.task.words(row)
        if not self.bio:
            written = [self.known.get(plain(piece)) for piece in text.split()]
            tags = [tag or self.task.usual for tag in written[: len(words)]]
            whole = len(written) == len(words) and None not in written
            return tags + [self.task.usual] * (len(words) - len(tags)), whole
        tags, readable = ["O"] * len(words), True
        pieces = [] if plain(text) == plain(NONE) else text.split(";")
        for piece in pieces:
            name, _, span = piece.partition(":")
            kind = self.known.get(plain(name))
            place = find(plain(span), [plain(word) for word in words], tags) if kind else None
            if place is None:
                readable = False
                continue
            tags[place[0] : place[1]] = [f"{'I' if i else 'B'}-{kind}" for i in range(place[1] - place[0])]
        return tags, readable

    def shown(self, value: Any, row: Mapping[str, Any]) -> dict[str, Any]:
        """Tags, and entities with their places."""
        prediction = [int(tag) for tag in value] if self.task.numeric else value
        if not self.bio:
            return {"prediction": prediction}
        words = self.task.words(row)
        found = spans(value, [1.0] * len(words), words, row)
        return {"prediction": prediction, "spans": [{k: v for k, v in each.items() if k != "score"} for each in found]}


def find(span: str, words: Sequence[str], tags: Sequence[str]) -> tuple[int, int] | None:
    """The first run of untagged words that a span is written with."""
    for first in range(len(words)) if span else ():
        joined = ""
        for last in range(first, len(words)):
            if tags[last] != "O" or len(joined) > len(span):
                break
            joined += words[last]
            if joined == span:
                return first, last + 1
    return None


class Answers(Wording):
    """The text of an answer."""

    @property
    def instruction(self) -> str:
        """Says what to do where there is no answer, if that can be."""
        return f"Answer the question from the text{f', or write {UNANSWERABLE}' if self.task.unanswerable else ''}."

    def material(self, row: Mapping[str, Any]) -> str:
        """The question first: what is too long loses its end."""
        return f"{str(row['question']).strip()}\n\n{row['context']}"

    def target(self, row: Mapping[str, Any]) -> str:
        """The first accepted answer."""
        return next(iter(self.task.truth(row)), UNANSWERABLE)

    def value(self, text: str, row: Mapping[str, Any]) -> tuple[Any, bool]:
        """The text; "" for none."""
        return ("" if plain(text) == UNANSWERABLE else text), bool(text.strip())

    def shown(self, value: Any, row: Mapping[str, Any]) -> dict[str, Any]:
        """The text."""
        return {"prediction": value}


WORDINGS: dict[str, type[Wording]] = {
    "text-classification": Labels, "token-classification": Spans, "question-answering": Answers,
}  # fmt: skip


def wording_of(task: Task, given: Mapping[str, str]) -> Wording | None:
    """How a fitted task is put in words; None for one that is text already."""
    found = WORDINGS.get(task.name)
    return found(task, given) if found else None
