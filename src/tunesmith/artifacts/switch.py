"""Several artifacts by name, one of which is asked at a time."""

from __future__ import annotations

from pathlib import Path

from tunesmith.artifacts.use import Artifact, load
from tunesmith.errors import UserError, unknown


class AdapterBank:
    """Artifacts on one base."""

    def __init__(
        self, model: str, *, device: str = "auto", dtype: str = "float32", quantization: str = "none", trust_remote_code: bool = False
    ) -> None:  # fmt: skip
        self.base, self.device, self.dtype = model, device, dtype
        self._adapters: dict[str, Artifact] = {}

    @property
    def names(self) -> list[str]:
        """In the order they were added."""
        return list(self._adapters)

    def add(self, name: str, folder: str | Path) -> None:
        """Open an artifact.

        Raises:
            UserError: the name is taken.
        """
        if name in self._adapters:
            raise UserError(f"there is an adapter `{name}` already; remove it first or take another name.")
        self._adapters[name] = load(folder, device=self.device, dtype=self.dtype)

    def select(self, name: str) -> Artifact:
        """An artifact ready for use.

        Raises:
            UserError: there is none of this name.
        """
        if name not in self._adapters:
            raise UserError(unknown("adapter", name, self.names))
        return self._adapters[name]
