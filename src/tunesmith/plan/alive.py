"""The most memory that tensors hold at once while something is computed: every operation is seen, and every storage until it is let go.

Unlike what autograd keeps, this has the tensors that live within an operation of ours, gradients while they flow, and what a loss makes on its way.
What a kernel takes for itself inside one operation it does not see.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


@dataclass(frozen=True)
class Peak:
    """Bytes at the moment when most were held.

    Attributes:
        all: in all.
        wide: of them in tensors whose last dimension is the head's.
        forward: the most until `Alive.turn` was called.
    """

    all: int
    wide: int
    forward: int = 0


class Alive(TorchDispatchMode):
    """Counts storages that were made inside and are still held.

    Args:
        known: addresses of storages that exist anyway.
        wide: last dimension of tensors that are counted apart; 0: of none.
    """

    def __init__(self, known: Collection[int], wide: int = 0) -> None:
        super().__init__()
        self.known, self.width = set(known), wide
        self.sizes: dict[int, tuple[int, bool]] = {}
        self.held: dict[int, Any] = {}
        self.now, self.now_wide, self.forward = 0, 0, 0
        self.peak = Peak(0, 0)

    def turn(self) -> None:
        """The forward pass is over."""
        self.forward = self.peak.all

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and look at what it gives."""
        found = func(*args, **(kwargs or {}))
        for each in tree_iter(found):
            if isinstance(each, torch.Tensor):
                self._see(each)
        return found

    def _see(self, tensor: torch.Tensor) -> None:
        try:
            storage = tensor.untyped_storage()
        except (RuntimeError, NotImplementedError):  # a tensor without one
            return
        key = id(storage)
        if key in self.held or storage.data_ptr() in self.known:
            return
        wide = bool(self.width) and tensor.dim() > 0 and tensor.shape[-1] == self.width
        size = storage.nbytes()
        self.sizes[key] = (size, wide)
        self.held[key] = weakref.ref(storage, partial(self._gone, key))
        self.now += size
        self.now_wide += size if wide else 0
        if self.now > self.peak.all:
            self.peak = Peak(self.now, self.now_wide)

    def _gone(self, key: int, _: Any) -> None:
        size, wide = self.sizes.pop(key, (0, False))
        self.held.pop(key, None)
        self.now -= size
        self.now_wide -= size if wide else 0


def peak_of(work: Callable[[Callable[[], None]], None], known: Collection[int], wide: int = 0) -> Peak:
    """The most that is held at once while something is done.

    Args:
        work: is done once; calls what it is given when its forward pass is over.
        known: addresses of storages that exist anyway.
        wide: last dimension of tensors that are counted apart.
    """
    with Alive(known, wide) as seen:
        work(seen.turn)
    return Peak(seen.peak.all, seen.peak.wide, seen.forward)
