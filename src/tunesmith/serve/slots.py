"""A key-value cache whose rows come and go while the others go on writing.

    column      start                       end
    row 0         .  .  k  k  k  k  k  k  k  |      rows end in the same column, so that one step appends one column
    row 1         k  k  k  k  k  k  k  k  k  |      to all of them; what stands before a row's first key is masked
    row 2         .  .  .  .  .  .  k  k  k  |

A batch that is padded on the left is what `generate` gives a model, so every decoder that generates in batches is right here too:
distances between columns are distances between positions, and sliding windows, soft prompts and prefixes need no code of their own.
The buffers are written in place and views of them are handed to attention: a step copies one column, not the cache. They grow by
doubling and belong to one batch, which drops them when its last row leaves.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

COLUMNS = 64
"""Columns are allocated in multiples of this."""


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, [rows allocated, heads, columns allocated, width]."""

    is_sliding = False  # every column stays; a sliding window is in the mask

    def __init__(self, owner: SlotCache) -> None:
        super().__init__()
        self.owner: SlotCache = weakref.proxy(
            owner
        )  # a circle would keep the buffers until some later garbage collection
        self.keys: torch.Tensor
        self.values: torch.Tensor

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Buffers like these states, filled with zeros: a masked column must still be finite."""
        rows, columns = self.owner.allocated
        for name, like in (("keys", key_states), ("values", value_states)):
            setattr(self, name, like.new_zeros(rows, like.shape[1], columns, like.shape[3]))
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new column of every row, and show all of them up to it."""
        rows, start, end = self.owner.rows, self.owner.start, self.owner.end
        after = end + key_states.shape[2]
        self.keys[:rows, :, end:after] = key_states
        self.values[:rows, :, end:after] = value_states
        return self.keys[:rows, :, start:after], self.values[:rows, :, start:after]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that attention sees, and the number of the first."""
        return self.owner.width + query_length, 0

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.owner.width

    def get_max_length(self) -> int:
        """Nothing bounds it."""
        return -1

    get_max_cache_shape = get_max_length  # its name in earlier versions of transformers


class SlotCache(Cache):
    """The cache of a running batch.

    Attributes:
        rows: rows in use, the first ones of the buffers.
        start: the first column in use.
        end: the column that the next step writes.
        lengths: keys of each row.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.layers: list[Any] = []
        self.rows = self.start = self.end = 0
        self.lengths: list[int] = []
        self.allocated = (0, 0)

    @property
    def width(self) -> int:
        """Columns in use: keys of the longest row."""
        return self.end - self.start

    def admit(self, source: Any, lengths: Sequence[int]) -> None:
        """Take over the rows of a cache that is padded on the left.

        Args:
            source: one key and value tensor a layer.
            lengths: how many of the last columns of each of its rows are keys.
        """
        longest = max(lengths)
        if not self.rows:
            self.start = self.end = 0
        self._make_room(self.rows + len(lengths), longest)
        if not self.layers:
            self.layers = [SlotLayer(self) for _ in source.layers]
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            if not mine.is_initialized:
                mine.lazy_initialization(theirs.keys, theirs.values)
            for buffer, given in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                for i, length in enumerate(lengths):
                    row = buffer[self.rows + i]
                    row[:, self.end - length : self.end] = given[i, :, given.shape[2] - length :]
                    row[:, self.start : self.end - length] = 0  # keys of a row that left
        self.rows += len(lengths)
        self.lengths += lengths

    def reserve(self) -> None:
        """See to it that the next column exists."""
        self._make_room(self.rows, self.width, more=1)

    def advance(self) -> None:
        """A column was written for every row."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def drop(self, row: int) -> None:
        """Remove a row; the last one takes its place. Columns that only it used are let go."""
        last = self.rows - 1
        if row != last:
            for layer in self.layers:
                for buffer in (layer.keys, layer.values):
                    buffer[row, :, self.start : self.end] = buffer[last, :, self.start : self.end]
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self.rows = last
        self.start = self.end - max(self.lengths, default=0)

    def _make_room(self, rows: int, width: int, more: int = 0) -> None:
        """Let `rows` rows of `width` keys and `more` columns behind them exist, keeping what is there."""
        old_width = self.width
        width = max(width, old_width)
        have_rows, have_columns = self.allocated
        if rows <= have_rows and self.end >= width and self.end + more <= have_columns:
            self._clear_front(width - old_width)
            return
        moved = width  # the column that `end` becomes: nothing before the first key is kept
        need = moved + max(more, COLUMNS // 2, moved // 8)  # so that moving pays for the steps up to the next
        if rows > have_rows or need > have_columns:
            columns = max(have_columns, -(-(need if need <= have_columns else need * 3 // 2) // COLUMNS) * COLUMNS)
            self.allocated = (max(rows, 2 * have_rows) if rows > have_rows else have_rows, columns)
        for layer in self.layers:
            for name in ("keys", "values"):
                buffer = getattr(layer, name)
                used = buffer[: self.rows, :, self.start : self.end]
                if self.allocated == (have_rows, have_columns):
                    used, fresh = used.clone(), buffer
                else:
                    fresh = buffer.new_zeros(self.allocated[0], buffer.shape[1], self.allocated[1], buffer.shape[3])
                fresh[: self.rows, :, moved - old_width : moved] = used
                setattr(layer, name, fresh)
        self.start, self.end = moved - old_width, moved
        self._clear_front(width - old_width)

    def _clear_front(self, columns: int) -> None:
        """Take columns before the first key into use, for a longer row; they may hold keys of rows that left."""
        for layer in self.layers if columns else ():
            for buffer in (layer.keys, layer.values):
                buffer[: self.rows, :, self.start - columns : self.start] = 0
        self.start -= columns
