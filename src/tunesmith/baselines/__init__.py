"""Baselines: the rows a comparison always needs, because a technique that does not beat them is not worth its cost."""
