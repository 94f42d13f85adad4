"""Metrics as streams: `update` with one batch at a time, `compute` at the end, never a table of logits."""
