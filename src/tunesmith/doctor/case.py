"""What checks look at: the rows of each role, what the task made of them, and what is known of the model."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from tunesmith.cache.ragged import RaggedRows
from tunesmith.doctor.finding import Finding, Level

Array = np.ndarray[Any, Any]
T = TypeVar("T")
Texts = Callable[[Mapping[str, Any]], list[str]]
IGNORED = -100  # label of positions that nothing is asked of (the task contract's)


@dataclass
class Encoded:
    """The features of some rows in flat arrays, so that checks count without a loop over tokens.

    Attributes:
        owner: the row (index) of each feature, [features], ascending.
        ids: token ids one feature after the other, [tokens].
        offsets: where each feature starts, [features + 1].
        labels: what is asked, flat as `ids`; None where a row has one label as a whole.
        label_offsets: where each feature's labels start.
        rows: how many rows there are; some may have no feature.
    """

    owner: Array
    ids: Array
    offsets: Array
    labels: Array | None
    label_offsets: Array | None
    rows: int

    @classmethod
    def of(cls, features: Sequence[Sequence[Mapping[str, Any]]]) -> Encoded:
        """From lists of features, one list a row."""
        flat = [feature for several in features for feature in several]
        owner = np.repeat(np.arange(len(features)), [len(several) for several in features])
        ids, offsets = _flat([feature["input_ids"] for feature in flat])
        labels = label_offsets = None
        if flat and np.ndim(flat[0].get("labels", 0)) == 1:
            labels, label_offsets = _flat([feature["labels"] for feature in flat])
        return cls(owner, ids, offsets, labels, label_offsets, len(features))

    @classmethod
    def ragged(cls, encoded: RaggedRows, chosen: Sequence[int] | None, rows: int) -> Encoded:
        """From encoded rows on disk; `chosen` are the row indices that are looked at (all: None)."""
        owner = np.asarray(encoded.columns["row"].values)
        tokens, labels = encoded.columns["input_ids"], encoded.columns.get("labels")
        asked = labels if labels is not None and labels.offsets is not None else None
        if chosen is None:
            return cls(
                owner, np.asarray(tokens.values), np.asarray(tokens.offsets), None if asked is None else np.asarray(asked.values),
                None if asked is None else np.asarray(asked.offsets), rows,
            )  # fmt: skip
        picked = np.flatnonzero(np.isin(owner, chosen))
        ids, offsets = _flat([tokens[int(i)] for i in picked])
        flat, label_offsets = (None, None) if asked is None else _flat([asked[int(i)] for i in picked])
        return cls(np.searchsorted(np.asarray(chosen), owner[picked]), ids, offsets, flat, label_offsets, len(chosen))

    @property
    def lengths(self) -> Array:
        """Tokens of each feature."""
        return np.diff(self.offsets)

    def per_row(self, each: Array) -> Array:
        """Numbers of features summed over the features of a row, [rows]."""
        return np.bincount(self.owner, weights=each, minlength=self.rows)[: self.rows]

    def count(self, mask: Array) -> Array:
        """How many of a row's tokens a mask over `ids` holds for, [rows]."""
        return self.per_row(_sums(mask, self.offsets))

    def count_labels(self, mask: Array) -> Array:
        """How many of a row's labels a mask over `labels` holds for, [rows]."""
        assert self.label_offsets is not None
        return self.per_row(_sums(mask, self.label_offsets))


def _flat(pieces: Sequence[Any]) -> tuple[Array, Array]:
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces], dtype=np.int64)]).astype(np.int64)
    return (np.concatenate([np.asarray(p) for p in pieces]) if len(pieces) else np.empty(0, np.int32)), offsets


def _sums(mask: Array, offsets: Array) -> Array:
    total = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
    return np.asarray(total[offsets[1:]] - total[offsets[:-1]])


@dataclass
class Part:
    """The rows of one role by column, with the numbers by which a person knows them."""

    role: str
    source: str
    columns: dict[str, list[Any]]
    numbers: Sequence[int]
    encoded: Encoded | None = None
    origin: Any = None
    """The `Rows` that these are, while they are all of them."""

    def __len__(self) -> int:
        return len(self.numbers)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], role: str = "train", source: str = "rows.jsonl") -> Part:
        """From records in memory, numbered 1, 2, ..."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        return cls(
            role, source, {name: [row.get(name) for row in rows] for name in names}, list(range(1, len(rows) + 1))
        )

    def row(self, index: int) -> dict[str, Any]:
        """One record."""
        return {name: values[index] for name, values in self.columns.items()}

    def without(self, indices: Iterable[int]) -> Part:
        """The part less some rows."""
        gone = set(indices)
        kept = [i for i in range(len(self)) if i not in gone]
        columns = {name: [values[i] for i in kept] for name, values in self.columns.items()}
        return Part(self.role, self.source, columns, [self.numbers[i] for i in kept])

    def finding(
        self, level: Level, code: str, indices: Iterable[int], what: str, remedy: str, estimate: int | None = None
    ) -> Finding:
        """A finding in some of the rows (by index; none: the part as a whole)."""
        rows = tuple(int(self.numbers[i]) for i in sorted({int(i) for i in indices}))
        return Finding(level, code, self.role, self.source, rows, what, remedy, estimate)


@dataclass
class Case:
    """One data set for one task.

    Attributes:
        name: registry name of the task.
        parts: rows by role.
        required: columns that must hold a value.
        inputs: columns whose content says that two rows are the same.
        targets: columns that hold what is to be predicted.
        options: the task's own, None where there are none.
        task: the task, fitted and bound, once features are there.
        tokenizer: the model's.
        max_length: what rows are cut to.
        learning: parameters that learn, where that is known.
        technique: registry name.
        quick: the run waits: look at a sample where all would take long.
        sampled: some rows are left out, so that nothing can be said of what does not occur.
        reader: how a row is read as text; None where that is simply its columns.
        cuts: whether the task cuts long rows, and does not make windows of them.
        statistics: numbers by role that checks add to.
    """

    name: str
    parts: dict[str, Part]
    required: Sequence[str] = ()
    inputs: Sequence[str] = ()
    targets: Sequence[str] = ()
    options: Any = None
    task: Any = None
    tokenizer: Any = None
    max_length: int | None = None
    learning: int | None = None
    technique: str = ""
    quick: bool = False
    sampled: bool = False
    reader: Texts | None = None
    cuts: bool = True
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def train(self) -> Part:
        """The training rows."""
        return self.parts["train"]

    def note(self, part: Part, **numbers: Any) -> None:
        """Add numbers to the statistics of a role."""
        self.statistics.setdefault(part.role, {}).update(numbers)

    def option(self, name: str, default: Any = None) -> Any:
        """An option of the task, which may not have it."""
        return getattr(self.options, name, default)

    def texts(self, part: Part) -> list[str]:
        """All text that a person wrote in each row."""
        return self.once(f"texts {part.role}", lambda: [self._text(part, i) for i in range(len(part))])

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What several checks need of the rows, made once."""
        if name not in self._made:
            self._made[name] = make()
        found: T = self._made[name]
        return found

    def _text(self, part: Part, index: int) -> str:
        row = part.row(index)
        if self.reader is not None:
            return "\n".join(self.reader(row))
        return "\n".join(leaf for name in (*self.inputs, *self.targets) for leaf in leaves(row.get(name)))

    @cached_property
    def _made(self) -> dict[str, Any]:
        return {}

    def keys(self, part: Part) -> list[tuple[str, ...]]:
        """The inputs of each row as they are, for comparing rows."""
        return list(zip(*(map(plain, part.columns[name]) for name in self.inputs if name in part.columns), strict=True))


def leaves(value: Any) -> list[str]:
    """The texts in a cell, however deep."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    if isinstance(value, (list, tuple)):
        return [leaf for inner in value for leaf in leaves(inner)]
    return []


def plain(value: Any) -> str:
    """A cell as one text."""
    if isinstance(value, str):
        return value
    return "" if value is None else "\x1f".join(leaves(value)) or str(value)


def folded(text: str) -> str:
    """A text without what does not change its meaning: case, white space, the Unicode form."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def is_blank(value: Any) -> bool:
    """Whether a cell is there and says nothing."""
    return (isinstance(value, str) and not value.strip()) or (isinstance(value, (list, tuple)) and not value)
