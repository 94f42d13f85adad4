"""Tag sequences of words: which scheme they are in, where they break its rules, and how they are mended.

    BIO (IOB2)   B-X begins an entity, I-X continues one of the same type, O is outside
    IOB1         I-X also begins one; B-X only where two of a type touch
    BIOES, BILOU the last word is E-X or L-X, a single word S-X or U-X
    plain        one tag a word that means something by itself (parts of speech)

Mending reads all of the first three as BIO: what begins an entity becomes B-X, every other part of it I-X.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from tunesmith.errors import DataError

Scheme = Literal["bio", "plain"]
BIO = re.compile(r"([BI])-(.+)", re.S)
WIDER = re.compile(r"([BIESLU])-(.+)", re.S)
CLOSING, SINGLE = ("E", "L"), ("S", "U")


def guess_scheme(tags: Iterable[str]) -> Scheme:
    """BIO if a tag says where an entity begins or goes on, else plain."""
    seen = set(tags)
    tagged = {tag for tag in seen if tag != "O"}
    entities = any(BIO.fullmatch(tag) for tag in tagged) or all(WIDER.fullmatch(tag) for tag in tagged)
    return "bio" if tagged and entities else "plain"


def types_of(tags: Iterable[str]) -> list[str]:
    """Entity types in alphabetical order."""
    return sorted({found[2] for tag in tags if (found := WIDER.fullmatch(tag))})


def bio_labels(types: Iterable[str]) -> list[str]:
    """All tags of the scheme: a type that was only ever one word long has its I-X too."""
    return ["O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]


def continues(tag: str, before: str) -> bool:
    """Whether `I-X` may stand after a tag: after B-X or I-X of the same type."""
    return before[:2] in ("B-", "I-") and before[2:] == tag[2:]


def check_bio(tags: Sequence[str], words: Sequence[str]) -> None:
    """Refuse tags that are not BIO, naming the first.

    Raises:
        DataError: with the word and what to do.
    """
    before = "O"
    for place, tag in enumerate(tags):
        where = f"word {place + 1} (`{words[place]}`)"
        if tag != "O" and not BIO.fullmatch(tag):
            if WIDER.fullmatch(tag):
                raise DataError(
                    f"{where} has the tag `{tag}`, which BIO does not have (BIOES and BILOU do); set token-classification.repair=true to "
                    "read such tags as BIO."
                )
            raise DataError(
                f"{where} has the tag `{tag}`, which is neither `O` nor `B-TYPE` nor `I-TYPE`; mend the row, or set "
                "token-classification.scheme=plain if tags stand for themselves."
            )
        if tag.startswith("I-") and not continues(tag, before):
            raise DataError(
                f"{where} has the tag `{tag}` after `{before}`, so that it continues no entity; mend the row, or set "
                "token-classification.repair=true to let such a tag begin an entity."
            )
        before = tag


def mend(tags: Sequence[str]) -> list[str]:
    """IOB1, BIOES, BILOU and broken BIO as BIO; other tags stay what they are."""
    found: list[str] = []
    open_type = ""  # of an entity that may go on
    for tag in tags:
        match = WIDER.fullmatch(tag)
        if match is None:
            found.append(tag)
            open_type = ""
            continue
        prefix, kind = match[1], match[2]
        goes_on = prefix not in ("B", *SINGLE) and kind == open_type
        found.append(f"{'I' if goes_on else 'B'}-{kind}")
        open_type = "" if prefix in (*CLOSING, *SINGLE) else kind
    return found
