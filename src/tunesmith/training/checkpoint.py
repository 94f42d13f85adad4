"""Resumable states of a fit, the newest whole one first, and the state of every random generator."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunesmith import durable
from tunesmith.console import warn
from tunesmith.errors import SaveError, UserError
from tunesmith.training import state_file


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
    if state["cuda"] and torch.cuda.is_available():  # written with as many GPUs as there were
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def torch_state() -> list[torch.Tensor]:
    """State of torch's generators: what dropout draws from."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda]


def set_torch_state(state: list[torch.Tensor]) -> None:
    """Restore what `torch_state` returned."""
    torch.set_rng_state(state[0])
    if state[1:]:
        torch.cuda.set_rng_state(state[1])


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `folder/step-N.safetensors` whole or not at all, and drop the oldest beyond `keep`.

    Raises:
        SaveError: the disk is full or not writable.
    """
    path = folder / f"step-{step:08d}.safetensors"
    again = f"free some space and run `tunesmith resume {_run_of(folder)}`"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot make the folder `{folder}`: {durable.reason(error)}; {again}.") from error
    state_file.write(path, state, again)
    for old in sorted(folder.glob("step-*.safetensors"))[:-keep]:
        durable.remove(old)
    return path


def _run_of(checkpoints: Path) -> Path:
    """The run's folder: of a stream every stage has checkpoints of its own."""
    return checkpoints.parent if checkpoints.name == "checkpoints" else checkpoints.parent.parent


def read_state(path: Path) -> dict[str, Any]:
    """What `state_file.write` wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return state_file.read(path)
    except state_file.DamagedState as error:
        raise UserError(f"{str(error).rstrip('.')}; restore it, or train the stream again.") from error


def moved(state: Any, device: torch.device | str) -> Any:
    """A state with its tensors on a device: they are read into main memory."""
    if isinstance(state, torch.Tensor):
        return state.to(device)
    if isinstance(state, Mapping):
        return {name: moved(value, device) for name, value in state.items()}
    return [moved(value, device) for value in state] if isinstance(state, list) else state


def newest(folder: Path) -> dict[str, Any] | None:
    """The newest state that is what was written, or None; damaged ones are skipped with a warning."""
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            return state_file.read(path)
        except state_file.DamagedState as error:
            warn(f"a checkpoint is skipped: {error}")
    return None
