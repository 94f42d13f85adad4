"""Encode rows once: token ids on disk, keyed by data, tokenizer, task and code, shared by every run that needs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tunesmith.cache import store
from tunesmith.cache.ragged import RaggedRows, RaggedWriter, open_rows
from tunesmith.console import progress
from tunesmith.data.sources import Rows

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

    def encode(self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int) -> Iterator[dict[str, Any]]:
        """Token ids and targets for each row."""


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash of what a tokenizer does to text; fast and slow tokenizers alike."""
    if getattr(tokenizer, "is_fast", False):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state.pop("truncation", None)  # set anew by every call
        state.pop("padding", None)
        text = json.dumps(state, sort_keys=True)
    else:
        text = json.dumps([sorted(tokenizer.get_vocab().items()), repr(tokenizer)])
    return hashlib.sha256(f"{type(tokenizer).__name__}{text}".encode()).hexdigest()


def encode(task: Encoder, rows: Rows, tokenizer: Any, max_length: int, title: str = "tokenise") -> RaggedRows:
    """Token ids and targets of all rows, from the cache if they are there."""

    def make(folder: Path) -> None:
        writer = RaggedWriter(folder)
        with progress() as bar:
            shown = bar.add_task(title, total=len(rows))
            for start in range(0, len(rows), BLOCK):
                block = rows.table[start : start + BLOCK]
                names = list(block)
                records = [dict(zip(names, values, strict=True)) for values in zip(*block.values(), strict=True)]
                for features in task.encode(records, tokenizer, max_length):
                    writer.append(features)
                bar.advance(shown, len(records))
        writer.close()

    key = store.key_of(
        rows=rows.sha256,
        columns=rows.table.column_names,
        tokenizer=tokenizer_fingerprint(tokenizer),
        task=task.name,
        options=task.options.model_dump(mode="json"),
        state=task.state_dict(),
        max_length=max_length,
        code=task.code_version,
    )
    return open_rows(store.folder("encoded", key, make))
