"""Instructions in the form of Alpaca (`instruction`, `input`, `output`), made from the other data sets by a recipe.

    movie-reviews   is it positive or negative       population-qa     answer from the text, in its words
    spam            is it spam or ham                home-intents-vi   name the intent (instructions in Vietnamese)
    wnut-tweets     list the names and their types   chitchat          reply to the message

Every kind has several wordings. Which rows are taken, and in which wording, follows from a hash of the row, so the set is
the same everywhere; `source` says which data set a row is from, whose licence it has. Only data sets at a pinned version
take part. Rows are ordered by a hash, so that any head of the file is a fair mixture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from tunesmith.assets.rows import Dropped, Row, by_hash

LONGEST_MAIL = 800  # characters

_SENTIMENT = (
    "Is this review positive or negative?",
    "Classify the sentiment of the text as positive or negative.",
    "Does the writer like it? Answer positive or negative.",
)
_SPAM = (
    "Is this mail spam or ham?",
    "Decide whether the mail is spam. Answer spam or ham.",
)
_ENTITIES = (
    "List the named entities of the tweet with their types, one a line.",
    "Which names are in this tweet? Write each as `name (type)` on a line of its own, or `none`.",
)
_INTENT = (
    "Người nói muốn nhà thông minh làm gì? Trả lời bằng tên ý định.",
    "Cho biết ý định của câu lệnh sau.",
)
_REPLY = (
    "Reply to this message in a friendly chat.",
    "A friend writes to you. Answer.",
)


def sentiment(row: Row) -> Row:
    """Positive or negative."""
    return {"instruction": _wording(_SENTIMENT, row["text"]), "input": row["text"], "output": row["label"]}


def spam(row: Row) -> Row:
    """The start of a mail, spam or ham."""
    text = row["text"]
    if len(text) > LONGEST_MAIL:
        text = text[:LONGEST_MAIL].rpartition(" ")[0] + " ..."
    return {"instruction": _wording(_SPAM, row["text"]), "input": text, "output": row["label"]}


def entities(row: Row) -> Row:
    """`name (type)` of every entity, a line each."""
    names: list[tuple[str, list[str]]] = []
    for token, tag in zip(row["tokens"], row["ner_tags"], strict=True):
        if tag.startswith("B-"):
            names.append((tag[2:], [token]))
        elif tag.startswith("I-"):
            names[-1][1].append(token)
    text = " ".join(row["tokens"])
    output = "\n".join(f"{' '.join(words)} ({kind})" for kind, words in names) or "none"
    return {"instruction": _wording(_ENTITIES, text), "input": text, "output": output}


def question(row: Row) -> Row:
    """The question of the row itself; its answers joined."""
    return {"instruction": row["question"], "input": row["context"], "output": "; ".join(row["answers"]["text"])}


def intent(row: Row) -> Row:
    """The name of an intent."""
    return {"instruction": _wording(_INTENT, row["text"]), "input": row["text"], "output": row["label"]}


def reply(row: Row) -> Row:
    """The first answer of a conversation."""
    asked, answered = row["messages"][:2]
    return {
        "instruction": _wording(_REPLY, asked["content"]),
        "input": asked["content"],
        "output": answered["content"],
    }


RECIPE: dict[str, tuple[int, Callable[[Row], Row]]] = {
    "movie-reviews": (1_000, sentiment),
    "spam": (800, spam),
    "wnut-tweets": (1_000, entities),
    "population-qa": (450, question),
    "home-intents-vi": (900, intent),
    "chitchat": (900, reply),
}
"""Rows to take of each data set, and what makes an instruction of one."""


def mixture(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
    """`instruction`, `input`, `output`, `source` and `id`; `archives` are the data sets of `RECIPE` in its order."""
    found: list[Row] = []
    for file, (source, (count, make)) in zip(archives, RECIPE.items(), strict=True):
        lines = file.read_text(encoding="utf-8").split("\n")
        rows = [
            {**make(json.loads(line)), "source": source, "id": f"{source}-{number}"}
            for number, line in enumerate(lines)
            if line
        ]
        found += islice(by_hash(rows, "id"), count)
    seen: set[tuple[str, str]] = set()
    # Rows of a data set were chosen by the hash of their id: in that order, data sets with many rows would come first.
    for row in by_hash(found, "id", salt="mixture"):
        # Two people may open a chat with the same word; a row that is there twice would be on both sides of a split.
        asked = (row["source"], row["input"])
        yield Dropped("same input as another row") if asked in seen else row
        seen.add(asked)


def _wording(wordings: Sequence[str], text: str) -> str:
    """One of the wordings, by a hash of the text."""
    return wordings[hashlib.sha256(text.encode()).digest()[0] % len(wordings)]
