"""Jane Austen's six novels as passages of about 2,000 characters, in reading order.

The package holds each book as lines of 70 characters; lines of a paragraph are joined, whole paragraphs make a passage,
and no passage runs across the start of a chapter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tunesmith.assets.archive import deb_members
from tunesmith.assets.convert.r_data import lazy_database
from tunesmith.assets.rows import Dropped, Row
from tunesmith.errors import AssetError

PASSAGE = 2_000
TITLE_PAGE = 100  # characters
TITLES = {
    "emma": "Emma",
    "mansfieldpark": "Mansfield Park",
    "northangerabbey": "Northanger Abbey",
    "persuasion": "Persuasion",
    "prideprejudice": "Pride and Prejudice",
    "sensesensibility": "Sense and Sensibility",
}
_FOLDER = "usr/lib/R/site-library/janeaustenr/data/"
_CHAPTER = re.compile(r"(chapter|volume) [ivxlc\d]+\b", re.IGNORECASE)


def austen(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
    """`text`, `book` and `id` of each passage."""
    names = [f"{_FOLDER}Rdata.{end}" for end in ("rdx", "rdb")]
    files = dict(deb_members(archives[0], names.__contains__))
    if len(files) != 2:
        raise AssetError(f"`{archives[0].name}` lacks {_FOLDER}Rdata.rdx or .rdb; the package is not the one we know.")
    books = lazy_database(*(files[name] for name in names))
    for name, title in TITLES.items():
        if name not in books:
            raise AssetError(f"`{archives[0].name}` has no book `{name}`, only {sorted(books)}.")
        for number, text in enumerate(passages(books[name])):
            row = {"text": text, "book": title, "id": f"{name}-{number}"}
            yield row if number or len(text) > TITLE_PAGE else Dropped("title page")


def passages(lines: Sequence[str]) -> Iterator[str]:
    """Paragraphs joined until they reach `PASSAGE` characters, or a chapter starts."""
    held: list[str] = []
    for paragraph in "\n".join(lines).split("\n\n"):
        text = " ".join(paragraph.split())
        if not text:
            continue
        # "VOLUME I" and "CHAPTER I" one after the other are one start.
        if _CHAPTER.match(text) and not all(_CHAPTER.match(part) for part in held):
            yield "\n\n".join(held)
            held = []
        held.append(text)
        if sum(map(len, held)) >= PASSAGE:
            yield "\n\n".join(held)
            held = []
    if held:
        yield "\n\n".join(held)
