"""Techniques side by side under one protocol: same rows, same order per seed, same budget, one table, one report."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from tunesmith.compare.runner import Comparison, compare

__all__ = ["Comparison", "compare"]


class _Callable(ModuleType):
    """Importing anything below here makes `tunesmith.compare` this module; `tunesmith.compare(...)` must work all the same."""

    def __call__(self, *args: Any, **kwargs: Any) -> Comparison:
        return compare(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
