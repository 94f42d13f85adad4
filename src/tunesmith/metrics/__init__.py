"""Metrics as streams: `update` with one row at a time, `compute` at the end, never a table of logits."""

from __future__ import annotations

LOWER = frozenset({"loss", "perplexity", "bits_per_byte"})


def higher_is_better(name: str) -> bool:
    """Direction of a metric by its name."""
    return name not in LOWER
