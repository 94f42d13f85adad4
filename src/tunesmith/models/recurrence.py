"""One recurrent layer in each direction: Elman RNN, LSTM and GRU, with gates as plain linear modules.

    rnn    h' = tanh(a + b)                                                      Elman 1990
    lstm   i, f, o = sigmoid(a_ifo + b_ifo),  g = tanh(a_g + b_g)                Hochreiter & Schmidhuber 1997, with the
           c' = f c + i g,   h' = o tanh(c')                                     forget gate of Gers et al. 2000
    gru    r, z = sigmoid(a_rz + b_rz),  n = tanh(a_n + r b_n)                   Cho et al. 2014, in the form of
           h' = (1 - z) n + z h                                                  torch.nn.GRU

    a = in_proj(x), for all steps at once;   b = state_proj(h), step by step     (gate order and biases are torch's)

Gates are `nn.Linear`, so that LoRA, IA3 and their kin act on them as on any other. While nothing is attached to the two,
the step loop runs in torch's fused kernels, which need the same weights in the same order; else it runs here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import nn

CellKind = Literal["rnn", "lstm", "gru"]
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
STATES = {"rnn": 1, "lstm": 2, "gru": 1}  # tensors that a step hands to the next: h, and c of the LSTM
State = tuple[torch.Tensor, ...]


def is_plain(linear: nn.Module) -> bool:
    """Whether a module is what it was made as: an `nn.Linear` without hooks or additions."""
    hooks = (linear._forward_hooks, linear._forward_pre_hooks, linear._backward_hooks, linear._backward_pre_hooks)
    return type(linear) is nn.Linear and not any(hooks) and not linear._modules


def first_values(linear: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Fresh weight and bias of a cell's linear module: U(-1/sqrt(h), 1/sqrt(h)) as torch draws them, forget-gate bias 1.

    The forget gate starts open, so that gradients reach far back from the first step (Jozefowicz et al. 2015,
    section 4.1). Its two biases add up, so one of them is 0.
    """
    bound = 1 / math.sqrt(linear.gates_of)
    weight = torch.empty(linear.weight.shape).uniform_(-bound, bound)
    bias = torch.empty(linear.bias.shape).uniform_(-bound, bound)
    if linear.forget_bias is not None:
        bias[linear.gates_of : 2 * linear.gates_of] = linear.forget_bias
    return weight, bias


@contextmanager
def step_by_step() -> Iterator[None]:
    """Inside, every cell runs its own loop: the kernels sum in another order, so that a cell with an adapter that adds nothing and the
    plain cell would differ by a rounding.
    """
    before, Cell.kernels = Cell.kernels, False
    try:
        yield
    finally:
        Cell.kernels = before


class Cell(nn.Module):
    """One direction of one layer: [B, T, d] -> [B, T, h]."""

    kernels: ClassVar[bool] = True
    """Whether torch's fused kernels may run the steps."""

    def __init__(self, kind: CellKind, width: int, hidden: int, backward: bool = False) -> None:
        super().__init__()
        self.kind, self.hidden, self.backward = kind, hidden, backward
        self.in_proj = nn.Linear(width, GATES[kind] * hidden)
        self.state_proj = nn.Linear(hidden, GATES[kind] * hidden)
        # Initialisation reaches linear modules one by one, so each knows what it is part of.
        self.in_proj.gates_of = self.state_proj.gates_of = hidden  # type: ignore[assignment]
        self.in_proj.forget_bias = 1.0 if kind == "lstm" else None  # type: ignore[assignment]
        self.state_proj.forget_bias = 0.0 if kind == "lstm" else None  # type: ignore[assignment]

    def forward(
        self,
        inputs: torch.Tensor,
        mask: torch.Tensor | None,
        starts: torch.Tensor | None,
        first: State,
        before: State,
        final: bool,
    ) -> tuple[torch.Tensor, State | None]:
        """Outputs of every step, and the state after the last real one if it is wanted.

        Args:
            inputs: [B, T, d].
            mask: boolean [B, T], True at real positions; None where all are.
            starts: boolean [B, T], True where a document starts inside a row; None without such rows.
            first: what a document starts from, each [B, h].
            before: the state before the first step, each [B, h] (`first`, or what an earlier call left).
            final: whether the last state is wanted.
        """
        # Padding on the right is never read by a step before it, so the kernels need not know of it; the last state
        # and steps backwards do.
        ragged = mask is not None and not bool(mask[:, 0].all() and (mask[:, 1:] <= mask[:, :-1]).all())
        simple = self.kernels and starts is None and not ragged and not (final and mask is not None)
        if simple and is_plain(self.in_proj) and is_plain(self.state_proj):
            order = self._reversed(mask, inputs) if self.backward else None
            outputs, after = self._fused(inputs if order is None else gather(inputs, order), before)
            return outputs if order is None else gather(outputs, order), after
        return self._loop(inputs, mask, starts, first, before)

    def _fused(self, inputs: torch.Tensor, before: State) -> tuple[torch.Tensor, State]:
        weights = [self.in_proj.weight, self.state_proj.weight, self.in_proj.bias, self.state_proj.bias]
        start = tuple(state.to(inputs.dtype).contiguous()[None] for state in before)
        # (has biases, layers, dropout, keep what the backward pass needs, bidirectional, batch first)
        rest = (True, 1, 0.0, torch.is_grad_enabled(), False, True)
        kernels: Any = torch._VF
        if self.kind == "lstm":
            outputs, *after = kernels.lstm(inputs, start, weights, *rest)
        else:
            outputs, *after = (kernels.gru if self.kind == "gru" else kernels.rnn_tanh)(
                inputs, start[0], weights, *rest
            )
        return outputs, tuple(state[0] for state in after)

    def _loop(
        self,
        inputs: torch.Tensor,
        mask: torch.Tensor | None,
        starts: torch.Tensor | None,
        first: State,
        before: State,
    ) -> tuple[torch.Tensor, State]:
        gates = self.in_proj(inputs)
        state = tuple(each.to(gates.dtype) for each in before)
        first = tuple(each.to(gates.dtype) for each in first)
        steps = range(inputs.shape[1])
        outputs: list[Any] = [None] * len(steps)
        for t in reversed(steps) if self.backward else steps:
            if starts is not None:
                state = tuple(torch.where(starts[:, t, None], f, s) for f, s in zip(first, state, strict=True))
            after = self._step(gates[:, t], state)
            if mask is not None:  # padding leaves the state as it is
                after = tuple(torch.where(mask[:, t, None], a, s) for a, s in zip(after, state, strict=True))
            state = after
            outputs[t] = state[0]
        return torch.stack(outputs, 1), state

    def _step(self, a: torch.Tensor, state: State) -> State:
        """One step: input gates [B, G h] and the state to the next state."""
        h = state[0]
        b = self.state_proj(h)
        if self.kind == "rnn":
            return (torch.tanh(a + b),)
        if self.kind == "lstm":
            i, f, g, o = (a + b).chunk(4, 1)
            c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(c), c
        a_rz, a_n = a.split([2 * self.hidden, self.hidden], 1)
        b_rz, b_n = b.split([2 * self.hidden, self.hidden], 1)
        r, z = torch.sigmoid(a_rz + b_rz).chunk(2, 1)
        n = torch.tanh(a_n + r * b_n)
        return (n + z * (h - n),)

    def _reversed(self, mask: torch.Tensor | None, inputs: torch.Tensor) -> torch.Tensor:
        """Indices [B, T] that turn each row's real positions round and leave its padding; its own inverse."""
        rows, width = inputs.shape[:2]
        places = torch.arange(width, device=inputs.device).expand(rows, -1)
        if mask is None:
            return places.flip(1)
        lengths = mask.sum(1, keepdim=True)
        return torch.where(places < lengths, lengths - 1 - places, places)


def gather(table: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """[B, T, d] in another order of positions, given as [B, T]."""
    return table.gather(1, order[:, :, None].expand(-1, -1, table.shape[2]))


class RecurrentState:
    """What the layers hand from one call to the next: the cache of generation.

    Unlike the keys and values of attention it does not grow. It answers to the part of transformers' cache interface
    that makes sense for a state; going back (`crop`) does not.
    """

    is_compileable = False

    def __init__(self) -> None:
        self.layers: dict[int, list[State]] = {}  # layer -> one state a direction
        self.seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions read so far, padding among them."""
        return self.seen

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Follow the beams that were kept."""
        self._change(lambda state: state.index_select(0, beam_idx.to(state.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._change(lambda state: state.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows."""
        self._change(lambda state: state[indices])

    def reset(self) -> None:
        """Forget everything."""
        self.layers, self.seen = {}, 0

    def crop(self, max_length: int) -> None:
        """Not possible.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a recurrent state cannot go back to an earlier position; generate without a cache.")

    def _change(self, do: Any) -> None:
        self.layers = {
            index: [tuple(do(each) for each in state) for state in directions]
            for index, directions in self.layers.items()
        }
