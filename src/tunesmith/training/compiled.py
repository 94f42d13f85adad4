"""The repeated blocks through torch.compile, all of them sharing one compilation.

A GPU waits for Python wherever the kernels of a step are many and short: a block of smollm2 with LoRA is over two hundred of them, forward
and backward, and a step took three and a half times as long as its kernels did. Compiled, a block is fewer and larger ones, without Python in between. On
a CPU our own functions for LoRA, dropout and attention are faster than what torch compiles in their place (docs/performance.md).

Compiling each block by itself costs as many compilations as there are blocks (minutes). Here one function, which takes the block as an
argument, is compiled with dynamic shapes, and its guards hold for all of them: blocks of one class are compiled once, forward and backward, in
about half a minute. What torch cannot compile as a whole (few-bit weights, hooks that reach out) runs as it did, and a line says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tunesmith.console import say, warn

BACKEND = "inductor"


@contextmanager
def compiled(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, blocks in training mode run compiled, but for passes of one row or one token, whose shapes would be compiled apart.

    Args:
        layers: the repeated blocks, or none, if nothing is to happen.
    """
    own = [layer for layer in layers if "forward" not in vars(layer)]  # not those that something else stands in for
    if own:
        say(f"Compiling {len(own)} blocks when the first batch comes.")
    runs: dict[type, Callable[..., Any]] = {}
    failed: list[Exception] = []
    for layer in own:
        layer.forward = _forward(layer, runs.setdefault(type(layer), _run(type(layer).forward)), failed)
    try:
        yield
    finally:
        for layer in own:
            del layer.forward


def _run(plain: Callable[..., Any]) -> Callable[..., Any]:
    """One compiled function for all blocks of a class."""

    def run(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return plain(layer, *args, **kwargs)

    return torch.compile(run, dynamic=True, fullgraph=True, backend=BACKEND)


def _forward(layer: nn.Module, run: Callable[..., Any], failed: list[Exception]) -> Callable[..., Any]:
    from torch._dynamo.exc import TorchDynamoException

    plain = type(layer).forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        states = args[0] if args and isinstance(args[0], torch.Tensor) else None
        learns = layer.training and torch.is_grad_enabled()
        if failed or not learns or states is None or 1 in states.shape[:2]:
            return plain(layer, *args, **kwargs)
        if not states.requires_grad:  # what enters the first block, or it would be compiled apart
            states = states.detach().requires_grad_()
        try:
            return run(layer, (states, *args[1:]), kwargs)
        except TorchDynamoException as error:
            failed.append(error)
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            warn(f"the blocks of this model cannot be compiled and run as they are ({first.strip()[:200]}).")
            return plain(layer, *args, **kwargs)

    return forward
