"""LoRA adapters of different rows in one batch of one language model.

    y_i = W x_i + s_a B_a A_a x_i          a: the adapter of row i

W multiplies all rows at once. For the rest, rows are put together by adapter, [adapters, rows of each, width], and two batched products
over the stacked A and B serve all adapters of one rank (Chen et al. 2023, "Punica", gathers likewise on a GPU). The stacks are the
adapters' own memory: every adapter's tensors become views of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

Layers = Mapping[str, Any]  # peft's LoRA layers by the name of the module that they stand on
ADAPTER = "default"


@dataclass
class Stack:
    """Adapters of one rank on one module.

    Attributes:
        names: of the adapters, in their order.
        a: [n, r, in].
        b: [n, out, r].
        scales: [n, 1, 1].
    """

    names: list[str] = field(default_factory=list)
    a: Any = None
    b: Any = None
    scales: Any = None


def lora_layers(opened: Any) -> Layers | None:
    """The LoRA layers of an artifact that consists of nothing else; None for others (DoRA, heads, further tasks)."""
    config = getattr(opened.technique, "config", None)
    if (
        config is None
        or getattr(config, "use_dora", False)
        or not hasattr(config, "lora_alpha")
        or len(opened.heads.loaded) > 1
    ):
        return None
    if getattr(config, "bias", "none") != "none" or opened.loaded.backbone.head_names:
        return None
    from peft.tuners.lora import Linear

    found = {n: m for n, m in opened.loaded.model.named_modules() if hasattr(m, "lora_A")}
    plain = all(
        type(m) is Linear and set(m.lora_A) == {ADAPTER} and m.lora_A[ADAPTER].bias is None for m in found.values()
    )
    inside = {id(p) for m in found.values() for p in (m.lora_A[ADAPTER].weight, m.lora_B[ADAPTER].weight)}
    learned = {id(p) for n, p in opened.loaded.model.named_parameters() if "lora_" in n}
    return found if found and plain and inside == learned else None


class RowAdapters:
    """A causal language model with a hook on every module that some adapter changes."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._layers: dict[str, Layers] = {}
        self._stacks: dict[str, dict[int, Stack]] = {}
        self._hooks: dict[str, Any] = {}
        self._names: list[str | None] = []
        self._places: dict[str, torch.Tensor] = {}
        self._tables: dict[tuple[str, ...], tuple[torch.Tensor, torch.Tensor]] = {}  # of the rows, by a stack's names

    def __contains__(self, name: str) -> bool:
        return name in self._layers

    def add(self, name: str, layers: Layers) -> None:
        """Take an adapter's layers in; their tensors move into the stacks."""
        self._layers[name] = layers
        for place in layers:
            self._stack(place)

    def remove(self, name: str) -> None:
        """Take them out again."""
        layers = self._layers.pop(name, {})
        for place in layers:
            self._stack(place)

    def _stack(self, place: str) -> None:
        """Build the stacks of a module anew from the adapters that change it."""
        by_rank: dict[int, list[tuple[str, Any]]] = {}
        for name, layers in self._layers.items():
            if place in layers:
                by_rank.setdefault(layers[place].lora_A[ADAPTER].weight.shape[0], []).append((name, layers[place]))
        stacks = {}
        for rank, members in by_rank.items():
            found = Stack([name for name, _ in members])
            with torch.no_grad():
                found.a = torch.stack([m.lora_A[ADAPTER].weight.detach() for _, m in members])
                found.b = torch.stack([m.lora_B[ADAPTER].weight.detach() for _, m in members])
            found.scales = found.a.new_tensor([m.scaling[ADAPTER] for _, m in members])[:, None, None]
            for i, (_, module) in enumerate(members):
                module.lora_A[ADAPTER].weight.data = found.a[i]
                module.lora_B[ADAPTER].weight.data = found.b[i]
            stacks[rank] = found
        if stacks:
            self._stacks[place] = stacks
            if place not in self._hooks:
                module = self.model.get_submodule(place)
                self._hooks[place] = module.register_forward_hook(
                    lambda m, args, out, place=place: self._changed(place, args[0], out)
                )
        elif place in self._hooks:
            self._hooks.pop(place).remove()
            del self._stacks[place]

    @contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Which adapter each row of the batches inside has."""
        before = self._names, self._places, self._tables
        self._names = list(names)
        self._places, self._tables = {}, {}
        for name in dict.fromkeys(n for n in names if n is not None):
            self._places[name] = torch.tensor([i for i, n in enumerate(names) if n == name])
        try:
            yield
        finally:
            self._names, self._places, self._tables = before

    def _changed(self, place: str, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """The output with every row's own change added."""
        for stack in self._stacks[place].values():
            used = [name for name in stack.names if name in self._places]
            if not used:
                continue
            if len(used) * 2 < len(stack.names) or len(used) == 1:
                for name in used:
                    i, rows = stack.names.index(name), self._places[name].to(x.device)
                    change = (x[rows] @ stack.a[i].T) @ stack.b[i].T * stack.scales[i, 0]
                    out = out.index_add(0, rows, change)
                continue
            out = self._together(stack, x, out)
        return out

    def _together(self, stack: Stack, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        key = tuple(stack.names)
        if key not in self._tables:
            self._tables[key] = self._table(stack.names, len(x), x.device)
        table, known = self._tables[key]
        padded = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
        grouped = padded[table].view(len(stack.names), -1, x.shape[-1])
        change = torch.bmm(torch.bmm(grouped, stack.a.transpose(1, 2)), stack.b.transpose(1, 2)) * stack.scales
        change = change.view(-1, *out.shape[1:])
        return out.index_add(0, table[known], change[known])

    def _table(self, names: Sequence[str], rows: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows by adapter, filled up with a row of zeros behind the last one; and which of them are rows."""
        widest = max(len(self._places[name]) for name in names if name in self._places)
        table = torch.full((len(names), widest), rows, dtype=torch.long)
        for i, name in enumerate(names):
            if name in self._places:
                table[i, : len(self._places[name])] = self._places[name]
        flat = table.flatten().to(device)
        return flat, flat < rows
