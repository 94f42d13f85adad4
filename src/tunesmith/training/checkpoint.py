"""Resumable state on disk: written beside, flushed, then renamed, so that a half-written one is never read."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.errors import SaveError

FILE = "state.pt"


def rng_state() -> dict[str, Any]:
    """State of every random generator."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `folder/step-N` atomically and drop the oldest beyond `keep`.

    Raises:
        SaveError: the disk is full or not writable.
    """
    final = folder / f"step-{step:08d}"
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
        with (temporary / FILE).open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if final.exists():
            shutil.rmtree(final)
        temporary.replace(final)
    except (OSError, RuntimeError) as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise SaveError(f"cannot write the checkpoint `{final}`: {error}; free some space and run `tunesmith resume {folder.parent}`.") from error
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest(folder: Path) -> dict[str, Any] | None:
    """The newest complete state, or None. Only our own tensors and plain values are read (weights_only)."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            with torch.serialization.safe_globals([np._core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))]):
                state: dict[str, Any] = torch.load(path / FILE, map_location="cpu", weights_only=True)
            return state
        except Exception:
            from tunesmith.console import warn

            warn(f"the checkpoint {path} is damaged and is skipped.")
    return None
