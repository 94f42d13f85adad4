"""Resumable state on disk: written beside, flushed, then renamed, so that a half-written one is never read."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith.console import warn
from tunesmith.errors import SaveError, UserError

FILE = "state.pt"


def rng_state() -> dict[str, Any]:
    """State of every random generator, as tensors and plain values."""
    _, keys, *rest = np.random.get_state()  # noqa: NPY002  (libraries draw from the global state)
    return {
        "python": random.getstate(),
        "numpy": [torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned."""
    random.setstate(state["python"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
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
        raise SaveError(
            f"cannot write the checkpoint `{final}`: {error}; free some space and run `tunesmith resume {folder.parent}`."
        ) from error
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values beside their place, flush, rename.

    Raises:
        SaveError: the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("wb") as stream:
            torch.save(_interned(state), stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise SaveError(f"cannot write `{path}`: {error}; free some space.") from error


def _interned(value: Any) -> Any:
    """The same values with equal texts as one object: pickle writes an object once, so the file's size depends on values alone."""
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {_interned(name): _interned(each) for name, each in value.items()}
    return [_interned(each) for each in value] if isinstance(value, list) else value


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote (`weights_only`).

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise UserError(
            f"`{path}` cannot be read ({type(error).__name__}); restore it, or train the stream again."
        ) from error


def moved(state: Any, device: torch.device | str) -> Any:
    """A state with its tensors on a device: they are read into main memory."""
    if isinstance(state, torch.Tensor):
        return state.to(device)
    if isinstance(state, Mapping):
        return {name: moved(value, device) for name, value in state.items()}
    return [moved(value, device) for value in state] if isinstance(state, list) else state


def newest(folder: Path) -> dict[str, Any] | None:
    """The newest complete state, or None. Only tensors and plain values are read (`weights_only`)."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            state: dict[str, Any] = torch.load(path / FILE, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            warn(f"the checkpoint {path} is damaged and is skipped ({type(error).__name__}).")
            continue
        return state
    return None
