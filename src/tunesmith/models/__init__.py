"""Pretrained models: loading them, and finding their parts by role on any architecture."""
