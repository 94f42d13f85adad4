"""Seeds: one number makes a run repeatable, and every random choice draws from a named stream of it."""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: object) -> int:
    """An independent 63-bit seed for one purpose, so that adding a random choice leaves the others as they were."""
    text = ":".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (all devices)."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (libraries draw from the global state)
    torch.manual_seed(seed)
