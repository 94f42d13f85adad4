"""Encode rows once: token ids on disk, keyed by data, tokenizer, task and code, shared by every run that needs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tunesmith.cache import store
from tunesmith.cache.ragged import RaggedRows, RaggedWriter, open_rows
from tunesmith.console import progress
from tunesmith.data.sources import Rows
from tunesmith.errors import DataError

BLOCK = 1000  # rows tokenised at a time


class Encoder(Protocol):
    """What encoding needs of a task."""

    options: Any

    @property
    def code_version(self) -> int:
        """Raised when `encode` changes."""

    @property
    def name(self) -> str:
        """The registry name."""

    def state_dict(self) -> dict[str, Any]:
        """What the task learned from its training rows."""

    def encoding_key(self) -> dict[str, Any]:
        """What else encoding depends on."""

    def encode(
        self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
    ) -> Iterator[Sequence[dict[str, Any]]]:
        """The features of each row."""


def tokenizer_fingerprint(tokenizer: Any, *, template: bool = True) -> str:
    """Hash of what a tokenizer does to text; fast and slow tokenizers alike.

    Args:
        tokenizer: the tokenizer.
        template: whether its chat template counts, which says nothing about what a token means.
    """
    if getattr(tokenizer, "is_fast", False):
        text = _sorted(tokenizer.backend_tokenizer.to_str())
    else:
        merges = getattr(tokenizer, "bpe_ranks", None) or {}
        text = json.dumps([sorted(tokenizer.get_vocab().items()), sorted(map(str, merges)), repr(tokenizer)])
    sides = (tokenizer.truncation_side, tokenizer.padding_side, tokenizer.chat_template if template else None)
    return hashlib.sha256(f"{type(tokenizer).__name__}{sides}{text}".encode()).hexdigest()


@lru_cache(maxsize=4)  # a run asks for every role of every stage, and the text is the same
def _sorted(text: str) -> str:
    """A tokenizer's JSON in one order, without what every call sets anew."""
    state = json.loads(text)
    state.pop("truncation", None)
    state.pop("padding", None)
    return json.dumps(state, sort_keys=True)


def located(
    encoded: Iterator[Sequence[dict[str, Any]]], rows: Rows, start: int
) -> Iterator[tuple[int, Sequence[dict[str, Any]]]]:
    """Rows' features with their numbers; an error while a row is encoded names the row."""
    number = start
    while True:
        try:
            features = next(encoded, None)
        except DataError as error:
            raise DataError(f"{rows.where(number)}: {error}") from error
        if features is None:
            return
        yield number, features
        number += 1


def encode(task: Encoder, rows: Rows, tokenizer: Any, max_length: int, title: str = "tokenise") -> RaggedRows:
    """The features of all rows, from the cache if they are there; the column `row` says whose each feature is."""

    def make(folder: Path) -> None:
        writer = RaggedWriter(folder)
        with progress() as bar:
            shown = bar.add_task(title, total=len(rows))
            for start in range(0, len(rows), BLOCK):
                block = rows.table[start : start + BLOCK]
                names = list(block)
                records = [dict(zip(names, values, strict=True)) for values in zip(*block.values(), strict=True)]
                for row, features in located(task.encode(records, tokenizer, max_length), rows, start):
                    for feature in features:
                        writer.append({**feature, "row": np.int64(row)})
                bar.advance(shown, len(records))
        writer.close()

    key = store.key_of(
        rows=rows.sha256,
        columns=rows.table.column_names,
        tokenizer=tokenizer_fingerprint(tokenizer),
        inputs=list(tokenizer.model_input_names),  # segments are there for some models only
        task=task.name,
        options=task.options.model_dump(mode="json"),
        state=task.state_dict(),
        bound=task.encoding_key(),
        max_length=max_length,
        code=task.code_version,
    )
    return open_rows(store.folder("encoded", key, make))


def refuse_nothing(encoded: RaggedRows, rows: Rows, max_length: int) -> None:
    """Refuse rows of which nothing is left to learn from or to measure.

    Raises:
        DataError: no row has a feature.
    """
    if not len(encoded):
        raise DataError(
            f"`{rows.source}`: nothing of its rows can be used within max_length={max_length}; raise --max-length or give other rows."
        )
