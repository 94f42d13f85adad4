"""Which rows serve for what: training, choosing (validation) or measuring only (eval).

A cut is made by content hash: a row's side depends on its own text alone, so it never changes when rows are
added, and duplicates never straddle the cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tunesmith.cache import store
from tunesmith.config import RunConfig
from tunesmith.data import sources
from tunesmith.data.sources import Rows
from tunesmith.errors import ConfigError, DataError

SHARE = 0.1  # of the training rows, when a part has to be cut from them


@dataclass(frozen=True)
class Roles:
    """The rows of one task by role, and where each part came from."""

    train: Rows
    validation: Rows | None
    eval: Rows
    origins: dict[str, str]

    def __getitem__(self, role: str) -> Rows:
        """The rows of a role."""
        rows: Rows | None = getattr(self, role)
        assert rows is not None
        return rows

    def present(self) -> Iterator[tuple[str, Rows]]:
        """(role, rows) of the roles that have rows."""
        for role, rows in (("train", self.train), ("validation", self.validation), ("eval", self.eval)):
            if rows is not None:
                yield role, rows

    def sha256(self) -> dict[str, str]:
        """Hash of the rows of each role."""
        return {role: rows.sha256 for role, rows in self.present()}

    def describe(self) -> dict[str, Any]:
        """Counts and origins for result.json."""
        return {
            "train": len(self.train),
            "validation": len(self.validation) if self.validation else 0,
            "eval": len(self.eval),
            "origins": dict(self.origins),
        }


def position(row: dict[str, Any], salt: str) -> float:
    """A row's place in [0, 1), from a hash of its content."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
    digest = hashlib.sha256(f"{salt}\0{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def cut(rows: Rows, inputs: Sequence[str], salt: str, share: float = SHARE) -> tuple[Rows, Rows]:
    """Split rows into (kept, cut off) by the content of their input columns.

    Raises:
        DataError: all rows have the same content, so that no cut leaves two parts.
    """
    names = [name for name in inputs if name in rows.table.column_names]
    taken = cut_off(rows, names, salt, share)
    if len(taken) == len(rows):
        raise DataError(
            f"`{rows.source}` is too small or too uniform to cut off {share:.0%} for {salt}; give a separate file with --{salt}."
        )
    chosen = set(taken)
    kept = [i for i in range(len(rows)) if i not in chosen]
    return rows.select(kept, f"without-{salt}-{share}"), rows.select(taken, f"{salt}-{share}")


def cut_off(rows: Rows, names: Sequence[str], salt: str, share: float) -> list[int]:
    """Places of the rows that are cut off; from the cache if the same rows were cut before (every run of a comparison does it)."""

    def make(folder: Path) -> None:
        places = [position({name: row[name] for name in names}, salt) for row in rows.table.select_columns(list(names))]
        taken = [i for i, place in enumerate(places) if place < share]
        if not taken and places:
            lowest = min(places)
            taken = [i for i, place in enumerate(places) if place == lowest]
        np.save(folder / "taken.npy", np.asarray(taken, np.int64))

    key = store.key_of(rows=rows.sha256, columns=list(names), salt=salt, share=share)
    found: list[int] = np.load(store.folder("cuts", key, make) / "taken.npy").tolist()
    return found


def assign(
    train: Rows, validation: Rows | None, evaluation: Rows | None, inputs: Sequence[str], chooses: bool
) -> Roles:
    """Give every row its role.

    The eval rows are cut first, so that they are the same whatever is chosen later.
    """
    origins = {"train": train.source}
    if evaluation is None:
        train, evaluation = cut(train, inputs, "eval")
        origins["eval"] = f"{SHARE:.0%} of {train.source}, by content hash"
    else:
        origins["eval"] = evaluation.source
    if validation is not None:
        origins["validation"] = validation.source
    elif chooses:
        train, validation = cut(train, inputs, "validation")
        origins["validation"] = f"{SHARE:.0%} of {train.source}, by content hash"
    return Roles(train, validation, evaluation, origins)


class Columns(Protocol):
    """What a task says about its columns."""

    required: Sequence[str]
    optional: Sequence[str]
    inputs: Sequence[str]
    groups: Sequence[str]
    synonyms: Mapping[str, Sequence[str]]
    plain_text: str | None

    def chooses(self, train: Rows) -> bool:
        """Whether the task itself chooses something on validation rows."""


def load_roles(config: RunConfig, task: Columns) -> Roles:
    """Read a configuration's files and give every row its role.

    Raises:
        DataError: a file or row cannot be used.
        ConfigError: no training rows are named.
    """
    if not config.train:
        raise ConfigError([("train", "is required: a file, a hub id (name:split) or asset:NAME.")])

    def read(spec: str | None) -> Rows | None:
        return (
            sources.read(spec, config.columns, task.required, task.optional, task.synonyms, task.plain_text)
            if spec
            else None
        )

    train = read(config.train)
    assert train is not None
    chooses = config.training.chooses or config.training.hold_out_validation or task.chooses(train)
    roles = assign(train, read(config.validation), read(config.eval), task.groups or task.inputs, chooses)
    return Roles(
        sources.subset(roles.train, config.max_train_rows, "train"),
        roles.validation,
        sources.subset(roles.eval, config.max_eval_rows, "eval"),
        roles.origins,
    )
