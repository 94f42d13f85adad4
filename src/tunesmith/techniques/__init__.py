"""Techniques: which parameters learn. One file each; a technique acts on the backbone and never sees the task."""
