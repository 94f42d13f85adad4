"""Passages of about equal length out of a general text, drawn the same way every time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tunesmith.cache import store
from tunesmith.data.sources import Rows
from tunesmith.errors import DataError
from tunesmith.seeding import derive

SIZE = 1000  # characters: one window of most models, and a few hundred bytes even of scripts with long codes
POOL = 20  # passages cut for each that is taken, so that a large file is not read to its end


def passages(rows: Rows, count: int) -> Rows:
    """`count` passages of the rows' `text`, spread over the whole file; all of them where there are fewer.

    Rows come in the order of a fixed shuffle and are cut between words, until there are `POOL` times as many passages as are
    wanted; of these a second fixed shuffle takes some.

    Raises:
        DataError: a text is not text, or all are empty.
    """
    from datasets import Dataset

    order = np.random.default_rng(derive(0, "passages")).permutation(len(rows)).tolist()
    found: list[tuple[str, int]] = []
    for index in order:
        text = rows.table[index]["text"]
        if not isinstance(text, str):
            raise DataError(f"{rows.where(index)}: `text` is not text; give a general text, or name its task.")
        found += [(piece, rows.number(index)) for piece in pieces(text)]
        if len(found) >= POOL * count:
            break
    if not found:
        raise DataError(f"`{rows.source}`: every text is empty; give a text that the model should keep.")
    if len(found) > count:
        taken = np.random.default_rng(derive(0, "passages", "taken")).permutation(len(found))[:count]
        found = [found[i] for i in sorted(taken.tolist())]
    table = Dataset.from_dict({"text": [text for text, _ in found]})
    key = store.key_of(parent=rows.sha256, passages=count, size=SIZE, pool=POOL)
    return Rows(table, rows.source, key, [number for _, number in found])


def pieces(text: str) -> Iterator[str]:
    """A text cut at white space into pieces of at most `SIZE` characters (a longer word is cut as well)."""
    rest = text.strip()
    while len(rest) > SIZE:
        cut = max(rest.rfind(" ", SIZE // 2, SIZE), rest.rfind("\n", SIZE // 2, SIZE))
        cut = cut if cut > 0 else SIZE
        yield rest[:cut].strip()
        rest = rest[cut:].strip()
    if rest:
        yield rest
