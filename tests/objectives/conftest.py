"""Modules of this folder import its scenes as `objectives.scene`."""
