"""How much a strategy keeps: numbers in tensors, and bytes in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


def size(held: Any) -> tuple[int, int]:
    """(floating-point numbers in tensors, bytes of tensors, arrays and texts) in any nesting; what is met twice counts once."""
    numbers, total = 0, 0
    seen: set[int] = set()
    texts: set[str] = set()
    waiting = [held]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        if isinstance(each, torch.Tensor):
            seen.add(id(each))
            numbers += each.numel() if each.is_floating_point() else 0
            total += each.numel() * each.element_size()
        elif isinstance(each, nn.Module):
            waiting += [*each.parameters(), *each.buffers()]
        elif isinstance(each, np.ndarray):
            seen.add(id(each))
            total += each.nbytes
        elif isinstance(each, str):
            texts.add(each)
        elif isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, (list, tuple, set, frozenset)):
            waiting += each
    return numbers, total + sum(len(text.encode()) for text in texts)


def bytes_on_disk(places: Iterable[Path]) -> int:
    """Bytes of files, and of all files in folders."""
    files = (file for place in places for file in ([place] if place.is_file() else place.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file())
