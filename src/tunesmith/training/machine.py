"""How much faster this machine computes in bf16 than in fp32: measured once and kept, not read from a list of processors.

A processor may have matrix units for bf16 (six times fp32 and more), vector instructions (twice), or neither, where torch converts every
number on its way and loses. A block of a small transformer (two products, an activation, a norm, forward and backward) says which: what the
products gain, passes over the activations lose again.
"""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from tunesmith.cache import store
from tunesmith.errors import SaveError

ROWS, WIDTH, TIMES = 256, 384, 4


def _block(dtype: torch.dtype) -> float:
    """Seconds of one forward and backward pass, the shortest of a few."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        inside = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH), nn.LayerNorm(WIDTH))
    inside = inside.to(dtype)
    x = torch.randn(ROWS, WIDTH, generator=generator).to(dtype).requires_grad_()
    found = []
    for _ in range(TIMES):
        began = time.perf_counter()
        inside(x).sum().backward()
        found.append(time.perf_counter() - began)
    return min(found[1:])


def measure() -> float:
    """Seconds in fp32 over seconds in bf16, of the same work on this processor; 0 where bf16 does not run."""
    try:
        ratios = [_block(torch.float32) / _block(torch.bfloat16) for _ in range(3)]
    except RuntimeError:
        return 0.0
    return sorted(ratios)[1]


@lru_cache(maxsize=1)
def half_precision_gain() -> float:
    """What `measure` found, from the cache where this machine has been measured before."""
    from tunesmith.evaluation import cost

    key = store.key_of(
        what="half precision", cpu=cost.hardware()["cpu"], threads=torch.get_num_threads(), torch=str(torch.__version__)
    )

    def make(folder: Path) -> None:
        (folder / "gain.json").write_text(json.dumps({"gain": measure()}), encoding="utf-8")

    try:
        place = store.folder("machine", key, make)
        return float(json.loads((place / "gain.json").read_text(encoding="utf-8"))["gain"])
    except (SaveError, OSError, ValueError, KeyError):
        return measure()
