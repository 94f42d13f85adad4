"""Run the frozen lower layers once and train on the states they left, cached on disk.

    rows -> embeddings -> layers below the boundary (evaluation mode, no dropout) -> states [T, d] a row -> disk
    training: embeddings and lower layers do not run; the boundary layer is handed the stored states of the batch's rows

Model, masks and positions stay the model's own: only the modules that would compute what is known already have another forward pass
for as long as this stands in for them. Padding holds zeros in place of what padding would have given, which no real position sees.
Whether an architecture lets itself be shortened like that is tried (`trials.stored_states_work`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tunesmith.cache import store
from tunesmith.cache.ragged import RaggedColumn, RaggedRows, RaggedTable, open_rows
from tunesmith.console import progress
from tunesmith.data.batching import by_length
from tunesmith.models.backbone import Backbone
from tunesmith.tasks._base import Batch, Task
from tunesmith.techniques._layers import below
from tunesmith.training.attention import attention_kernel

KIND = "layers"  # of cache entries
CODE = 1  # part of the key: raise it when what is stored changes
HALF, BITS = torch.bfloat16, torch.int16  # numpy has no name for the first and holds its bits


class _Reached(Exception):
    """The boundary layer was reached, and nothing behind it is of interest."""


class LowerLayers:
    """Serves stored states in place of the layers below the boundary, between `install` and `remove`.

    Attributes:
        states: of the next pass, [rows, T, d]; used up by it.
        stored: states of every feature, once they are computed.
    """

    def __init__(self, backbone: Backbone, boundary: int, dtype: torch.dtype, device: torch.device) -> None:
        names = [name for name, _ in backbone.named_layers()]
        self.model, self.dtype, self.device = backbone.model, dtype, device
        self.lower, self.first = backbone.layers[:boundary], backbone.layers[boundary]
        self.early = below(backbone, names[0])
        self.stored: RaggedColumn | None = None
        self.states: torch.Tensor | None = None
        self.source: nn.Module | None = None
        self.forms: list[int | None] = []
        self.replaced: list[nn.Module] = []

    def run(self, task: Task, batch: Batch) -> torch.Tensor:
        """The states that enter the boundary layer, [rows, T, d]; the model is in evaluation mode and goes no further."""
        seen: list[torch.Tensor] = []

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(_entering(args, kwargs))
            raise _Reached

        handle = self.first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with torch.no_grad(), attention_kernel(self.device):
                task.forward(self.model, batch)
        except _Reached:
            pass
        finally:
            handle.remove()
        return seen[0]

    def look(self, task: Task, batch: Batch) -> torch.Tensor:
        """`run`, and find out what lower layers return and which module makes what enters the lowest."""
        made: list[tuple[nn.Module, Any]] = []
        forms: dict[nn.Module, int | None] = {}

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            made.append((module, output))

        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entering = _entering(args, kwargs)
            found = {each for each, output in made if output is entering}
            # The outermost module, where one hands on what another made.
            self.source = next((module for module in self.early if module in found), None)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            forms[module] = len(output) if isinstance(output, tuple) else None

        handles: list[Any] = [module.register_forward_hook(keep) for module in self.early]
        handles.append(self.lower[0].register_forward_pre_hook(enter, with_kwargs=True))
        handles += [layer.register_forward_hook(leave) for layer in self.lower]
        try:
            states = self.run(task, batch)
        finally:
            for handle in handles:
                handle.remove()
        self.forms = [forms[layer] for layer in self.lower]
        return states

    def install(self) -> None:
        """Stand in for the lower layers, and for the embeddings where one module makes all of what enters the lowest layer."""
        last = len(self.lower) - 1
        stand_ins: list[tuple[nn.Module, Any]] = [
            (layer, self._forward(form, last=i == last))
            for i, (layer, form) in enumerate(zip(self.lower, self.forms, strict=True))
        ]
        if self.source is not None:
            stand_ins.append((self.source, self._forward(None, last=False)))
        for module, forward in stand_ins:
            module.forward = forward
            self.replaced.append(module)

    def remove(self) -> None:
        """Let them run again."""
        for module in self.replaced:
            del module.forward
        self.replaced, self.states = [], None

    def _forward(self, form: int | None, *, last: bool) -> Any:
        """A forward pass that gives the states as a tensor, or as the first of so many outputs; the last one uses them up."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            states = self.states
            assert states is not None, "a pass without stored states"
            if last:
                self.states = None
            return states if form is None else (states, *[None] * (form - 1))

        return forward

    def batch(self, groups: Sequence[np.ndarray[Any, Any]], batch: Batch) -> torch.Tensor:
        """Stored states of some features where they stand in a batch, [rows, T, d], zero at padding.

        Args:
            groups: the features in each row of the batch, in order.
            batch: on the host.
        """
        assert self.stored is not None
        return place([[self.stored[int(i)] for i in group] for group in groups], batch)


def place(rows: Sequence[Sequence[Any]], batch: Batch) -> torch.Tensor:
    """Pieces [length, d] of each row one after the other at its real positions, [rows, T, d].

    Raises:
        ValueError: a row of the batch has another number of real positions.
    """
    count, width = batch["input_ids"].shape
    table = np.zeros((count, width, rows[0][0].shape[-1]), rows[0][0].dtype)
    mask = batch.get("attention_mask")
    for i, pieces in enumerate(rows):
        at = int(mask[i].argmax()) if mask is not None else 0
        length = sum(len(piece) for piece in pieces)
        if mask is not None and int(mask[i].sum()) != length:
            raise ValueError(f"{length} states for a row of {int(mask[i].sum())} tokens")
        for piece in pieces:
            table[i, at : at + len(piece)] = piece
            at += len(piece)
    found = torch.from_numpy(table)
    return found.view(HALF) if found.dtype == BITS else found


def cut(states: torch.Tensor, batch: Batch, lengths: Sequence[int]) -> list[np.ndarray[Any, Any]]:
    """States [rows, T, d] as one array [length, d] a row, without padding; bits where numpy has no such floats."""
    plain = states.detach().contiguous()
    table = (plain.view(BITS) if plain.dtype == HALF else plain).cpu().numpy()
    mask = batch.get("attention_mask")
    starts = [int(row.argmax()) for row in mask.cpu()] if mask is not None else [0] * len(table)
    return [row[at : at + int(n)] for row, at, n in zip(table, starts, lengths, strict=True)]


def compute(lower: LowerLayers, task: Task, rows: RaggedRows, key: str, batch_size: int, pad_id: int) -> float:
    """Store the states of every feature, unless they are in the cache; the seconds that they took once."""

    def make(folder: Path) -> None:
        started = time.perf_counter()
        lower.model.eval()
        table: RaggedTable | None = None
        with progress() as bar:
            shown = bar.add_task("states of the frozen layers", total=len(rows))
            for indices in by_length(rows.lengths, batch_size):
                batch = {
                    n: t.to(lower.device) for n, t in task.collate([rows[int(i)] for i in indices], pad_id).items()
                }
                pieces = cut(lower.run(task, batch), batch, rows.lengths[indices])
                if table is None:
                    table = RaggedTable(folder, "states", rows.lengths, pieces[0].shape[1:], pieces[0].dtype)
                for index, piece in zip(indices, pieces, strict=True):
                    table[int(index)] = piece
                bar.advance(shown, len(indices))
        assert table is not None
        table.close({"seconds": time.perf_counter() - started})

    found = open_rows(store.folder(KIND, key, make))
    lower.stored = found.columns["states"]
    return float(found.meta["seconds"])


def _entering(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    found: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return found
