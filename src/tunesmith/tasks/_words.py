"""The words of a row and their places in its text, so that what is found can be marked in the text itself.

Places are those of the string as it was given, whatever its Unicode form: a letter and the accents stored after it are never
parted (Vietnamese text comes composed, `ệ`, and decomposed, `e` + two marks).
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tunesmith.errors import DataError, called
from tunesmith.metrics.entities import entities

INNER = frozenset("'’-.·")  # inside a word when letters or digits stand on both sides
HALVES = re.compile("[\ud800-\udfff]")
JOINERS = frozenset("\u200c\u200d")
Place = tuple[int, int]


def is_mark(char: str) -> bool:
    """Whether a character belongs to the one before it (accents, vowel signs, joiners, conjoining Hangul)."""
    return unicodedata.category(char).startswith("M") or char in JOINERS or "\u1160" <= char <= "\u11ff"


def split(text: str) -> list[Place]:
    """Places of words (letters, digits, `_`, with `'`, `-` and `.` inside) and of every other visible character."""
    found: list[Place] = []
    place, end = 0, len(text)

    def wordlike(at: int) -> bool:
        return at < end and (text[at].isalnum() or text[at] == "_")

    while place < end:
        if text[place].isspace():
            place += 1
            continue
        start = place
        word = wordlike(place)
        place += 1
        while place < end:
            if is_mark(text[place]) or (word and (wordlike(place) or (text[place] in INNER and wordlike(place + 1)))):
                place += 1
            else:
                break
        found.append((start, place))
    return found


def locate(words: Sequence[str], text: str) -> list[Place]:
    """Places of given words in the text they come from, in order.

    Raises:
        DataError: a word is not there.
    """
    plain, starts, ends = composed(text)
    found: list[Place] = []
    cursor = 0
    for number, word in enumerate(words, 1):
        wanted = unicodedata.normalize("NFC", word).strip()
        at = plain.find(wanted, cursor)
        if at < 0:
            raise DataError(
                f"word {number} (`{word}`) is not in `text` after character {starts[cursor]}; `text` must hold the words of `tokens` in "
                "order, so mend it or leave it out."
            )
        cursor = at + len(wanted)
        found.append((starts[at], ends[cursor - 1] if wanted else starts[at]))
    return found


def composed(text: str) -> tuple[str, list[int], list[int]]:
    """The text in composed form, and where each of its characters starts and ends in the text as given."""
    parts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    place = 0
    while place < len(text):
        start = place
        place += 1
        while place < len(text) and is_mark(text[place]):
            place += 1
        part = unicodedata.normalize("NFC", text[start:place])
        parts.append(part)
        starts += [start] * len(part)
        ends += [place] * len(part)
    return "".join(parts), [*starts, len(text)], ends


def spaced(words: Sequence[str]) -> tuple[str, list[Place]]:
    """Words joined by spaces, and the place of each."""
    found: list[Place] = []
    cursor = 0
    for word in words:
        found.append((cursor, cursor + len(word)))
        cursor += len(word) + 1
    return " ".join(words), found


def listed(value: Any, column: str) -> list[Any]:
    """A cell that holds a list, or the text of one (CSV).

    Raises:
        DataError: it does not.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                value = ast.literal_eval(value)  # what Python programs write: ['a', 'b']
    if not isinstance(value, (list, tuple)):
        example = '["New", "York"]' if column == "tokens" else '["B-LOC", "I-LOC"]'
        raise DataError(
            f"`{column}` is `{str(value)[:40]}`, and must be a list, or the text of one such as `{example}`."
        )
    for place, item in enumerate(value, 1):
        if item is None or isinstance(item, (list, dict)):
            raise DataError(
                f"`{column}` holds {called(item)} at place {place}; every place holds one {'word' if column == 'tokens' else 'tag'}, so mend or "
                "remove the row."
            )
        if is_broken(str(item)):
            raise DataError(f"`{column}` holds half a character ({item!a}) at place {place}; mend or remove the row.")
    return list(value)


def is_broken(text: str) -> bool:
    """Whether a text holds half a character (a lone surrogate, which JSON can write and no tokenizer reads)."""
    return HALVES.search(text) is not None


def words_of(row: Mapping[str, Any]) -> list[str]:
    """The words of a row: its `tokens`, or those of its raw `text`."""
    if row.get("tokens") is not None:
        return [str(word) for word in listed(row["tokens"], "tokens")]
    text = row["text"]
    if not isinstance(text, str):
        raise DataError(f"`text` is {called(text)}; it must be text.")
    return [text[start:end] for start, end in split(text)]


def spans(
    tags: Sequence[str], scores: Sequence[float], words: Sequence[str], row: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The entities of tagged words as `type`, `text`, `start`, `end` (characters) and `score` (mean over its words)."""
    text = row.get("text")
    if text is None:
        text, places = spaced(words)
    else:
        places = split(text) if row.get("tokens") is None else locate(words, text)
    found = []
    for kind, first, last in entities(tags):
        start, end = places[first][0], places[last - 1][1]
        score = sum(scores[first:last]) / (last - first)
        found.append({"type": kind, "text": text[start:end], "start": start, "end": end, "score": score})
    return found
