"""Running out of memory, told from other failures, and what was held let go."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import traceback
from contextlib import suppress

import torch

WORDS = re.compile(
    "out of memory|can't allocate memory|cannot allocate memory|bad_alloc|could not create a memory|could not create a primitive(?! desc)",
    re.IGNORECASE,
)
"""How torch, its kernels (oneDNN: a primitive without room; without a descriptor it would not know the operation), the C++ library and the system say it."""


def is_shortage(error: BaseException) -> bool:
    """Whether memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, (RuntimeError, OSError)) and WORDS.search(str(error)) is not None


def let_go(error: BaseException) -> None:
    """Drop what the frames of an error hold (the tensors of what did not fit), so that less can be tried."""
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def give_back() -> None:
    """Return to the system what was freed: glibc keeps freed blocks between living ones, one and a half GiB after a fit of gemma3-270m."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)
