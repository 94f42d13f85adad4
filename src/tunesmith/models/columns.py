r"""Progressive columns: a frozen copy of what learned for every stage, with lateral connections into the later ones.

    column k, layer l     out_l^(k) <- out_l^(k) + U_l^(k) act( V_l^(k) [a_1 out_l^(1); ...; a_{k-1} out_l^(k-1)] )

(Rusu et al. 2016, equation 2 and the adapters of section 2.) A column is the values of every parameter of the backbone that learned in
its stage: all of them with full fine-tuning, the adapter's with an adapter; what never learns is shared. Each head belongs to a
column. Its model runs the earlier columns first, without gradient and in evaluation mode, then its own with what they found. U
starts at zero, so a new column begins as if it were alone. Earlier columns never see later ones: their heads answer as before, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith.models.heads import Heads

FILE = "columns.safetensors"


class Lateral(nn.Module):
    """From the outputs of one layer in all earlier columns to that layer's output in a new one.

    Args:
        columns: how many stand before.
        width: d, of a layer's output.
        inner: r, of the bottleneck. Parameters: columns (d r + 1) + r + r d.
    """

    def __init__(self, columns: int, width: int, inner: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(columns))
        self.down = nn.Linear(columns * width, inner)
        self.up = nn.Linear(inner, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, earlier: list[torch.Tensor]) -> torch.Tensor:
        """What is added, [B, T, d]."""
        joined = torch.cat([a * h.to(self.down.weight.dtype) for a, h in zip(self.scale, earlier, strict=True)], -1)
        out: torch.Tensor = self.up(nn.functional.gelu(self.down(joined)))
        return out


class Columns:
    """Columns of a model with several heads.

    Attributes:
        start: what every column begins with, parameters of the backbone by name.
        values: of each finished column.
        laterals: into each column but the first, one module a layer.
        of: the column of each head.
        learning: the column whose values are the model's own parameters just now.
    """

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self.start: dict[str, torch.Tensor] = {}
        self.values: list[dict[str, torch.Tensor]] = []
        self.laterals: list[nn.ModuleList] = []
        self.of: dict[str, int] = {}
        self.learning: int | None = None
        self.running: int | None = None
        self.states: list[dict[int, torch.Tensor]] = []
        self.entered: AbstractContextManager[None] | None = None
        self.inner = 0
        self.hooked: set[str] = set()
        for index, layer in enumerate(heads.backbone.layers):
            layer.register_forward_hook(self._layer_hook(index))

    def add_head(self, name: str, column: int) -> None:
        """Let a head's model run through a column."""
        self.of[name] = column
        if name not in self.hooked:
            self.hooked.add(name)
            model = self.heads[name].model
            model.register_forward_pre_hook(self._before(name), with_kwargs=True)
            model.register_forward_hook(self._after, always_call=True)

    def begin(self, column: int, inner: int) -> nn.ModuleList:
        """Lateral connections into a new column, which the model's own parameters now are, back where the first began."""
        backbone = self.heads.backbone
        self.learning, self.inner = column, inner
        with torch.no_grad():
            for name, parameter in self.learned():
                parameter.copy_(self.start.setdefault(name, parameter.detach().float().clone()))
        made = nn.ModuleList(Lateral(column, backbone.hidden_size, inner) for _ in (backbone.layers if column else ()))
        self.laterals = [*self.laterals[:column], made.to(backbone.embedding.weight.device)]
        return made

    def learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What of the backbone learns: a column's parameters."""
        inside = {id(p) for p in self.heads.backbone.base.parameters()}
        for name, parameter in self.heads.named_parameters():
            if parameter.requires_grad and id(parameter) in inside:
                yield name, parameter

    def finish(self, values: Mapping[str, torch.Tensor]) -> None:
        """Keep the values of the column that learned."""
        names = {name for name, _ in self.learned()}
        self.values.append({n: tensor.detach().float().clone() for n, tensor in values.items() if n in names})
        self.learning = None

    def to(self, device: torch.device) -> None:
        """Move what every column holds."""
        self.start = {n: t.to(device) for n, t in self.start.items()}
        self.values = [{n: t.to(device) for n, t in column.items()} for column in self.values]
        for modules in self.laterals:
            modules.to(device)

    # ---- running

    def _before(self, name: str) -> Any:
        def hook(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if self.running is not None:
                return
            column = self.of[name]
            modes = [(module, module.training) for module in model.modules()] if column else []
            self.states = []
            with torch.no_grad():
                for earlier in range(column):
                    model.eval()
                    with self._set(earlier):
                        self.running = earlier
                        self.states.append({})
                        model.forward(*args, **kwargs)
            for module, training in modes:
                module.training = training
            self.running = column
            self.states.append({})
            self.entered = self._set(column)
            self.entered.__enter__()

        return hook

    def _after(self, model: nn.Module, args: Any, output: Any) -> None:
        # The forward passes of earlier columns are direct calls, so this is the end of the outermost one.
        self.running = None
        self.states = []
        entered, self.entered = self.entered, None
        if entered is not None:
            entered.__exit__(None, None, None)

    @contextmanager
    def _set(self, column: int) -> Iterator[None]:
        """Inside, the backbone has a column's values."""
        if column == self.learning or column >= len(self.values):
            yield
            return
        parameters = dict(self.heads.named_parameters())
        before = {}
        for name, value in self.values[column].items():
            parameter = parameters[name]
            before[name] = parameter.data
            parameter.data = value.to(parameter.dtype)
        try:
            yield
        finally:
            for name, value in before.items():
                parameters[name].data = value

    def _layer_hook(self, index: int) -> Any:
        def hook(layer: nn.Module, args: Any, output: Any) -> Any:
            if self.running is None:
                return output
            states = output[0] if isinstance(output, tuple) else output
            if self.running:
                earlier = [self.states[j][index] for j in range(self.running)]
                states = states + self.laterals[self.running][index](earlier).to(states.dtype)
            self.states[self.running][index] = states
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return hook

    # ---- on disk

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the columns; what must be known to read them."""
        from safetensors.torch import save_file

        tensors = {
            f"values.{i}.{n}": t.contiguous().cpu() for i, column in enumerate(self.values) for n, t in column.items()
        }
        tensors |= {f"start.{n}": t.contiguous().cpu() for n, t in self.start.items()}
        for i, modules in enumerate(self.laterals):
            tensors |= {
                f"laterals.{i}.{n}": t.detach().float().contiguous().cpu() for n, t in modules.state_dict().items()
            }
        save_file(tensors, str(folder / FILE), metadata={"format": "pt"})
        return {"of": self.of, "count": len(self.values), "inner": self.inner}

    @classmethod
    def load(cls, heads: Heads, folder: Path, note: Mapping[str, Any]) -> Columns:
        """Read what `save` wrote, onto a model whose heads are all there."""
        from safetensors.torch import load_file

        tensors = load_file(str(folder / FILE))
        found = cls(heads)
        width = heads.backbone.hidden_size
        for i in range(int(note["count"])):
            made = [Lateral(i, width, int(note["inner"])) for _ in (heads.backbone.layers if i else ())]
            found.laterals.append(nn.ModuleList(made))
            prefix = f"laterals.{i}."
            found.laterals[i].load_state_dict(
                {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            )
            prefix = f"values.{i}."
            found.values.append({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        found.inner = int(note["inner"])
        found.start = {n.removeprefix("start."): t for n, t in tensors.items() if n.startswith("start.")}
        for name, column in note["of"].items():
            found.add_head(name, int(column))
        found.to(heads.backbone.embedding.weight.device)
        return found
