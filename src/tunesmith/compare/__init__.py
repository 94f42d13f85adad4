"""Techniques side by side under one protocol: same rows, same order per seed, same budget, one table, one report."""

from __future__ import annotations

from tunesmith.compare.runner import Comparison, compare

__all__ = ["Comparison", "compare"]
