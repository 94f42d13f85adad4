"""What the optimiser costs on this machine: measured once, kept in the cache by processor, threads and torch (not where other processes had the cores).

A step moves every number that learns through memory several times (gradient, two moments, the value; in half precision a copy of it), whatever the
batch. Its time is a sum over tensors, each of which costs a little by itself, and over numbers, which cost more once they no longer fit the
processor's caches:

    t = N_tensors alpha + N beta(N)           beta interpolated in log N between three measured sizes

Memory that is touched for the first time costs as well: gradients and moments appear in the first step.
The measurement runs in a process of its own, so that what it allocates is not the run's.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tunesmith import processes
from tunesmith.cache import store
from tunesmith.config import TrainingOptions
from tunesmith.errors import TunesmithError
from tunesmith.plan.waiting import BUSY, waited
from tunesmith.training.optim import make_optimizer

CODE = 2  # part of the key: raise it when what is measured changes
MANY, EACH = 64, 128  # tensors, and numbers in each, that say what a tensor costs
SIZES = (1 << 15, 1 << 19, 1 << 22)  # numbers in one tensor that say what a number costs
TIMES = 5
FRESH = 1 << 25  # bytes touched for the first time


@dataclass(frozen=True)
class Machine:
    """What was measured, in seconds.

    Attributes:
        tensor: a step's share that each tensor costs.
        number: by size (numbers that learn in all), what each number costs.
        byte: of memory that is touched for the first time.
    """

    tensor: float
    number: dict[int, float]
    byte: float

    def seconds(self, tensors: int, numbers: int) -> float:
        """One optimiser step, clipping and copies included."""
        return tensors * self.tensor + numbers * self._each(numbers)

    def _each(self, numbers: int) -> float:
        sizes = sorted(self.number)
        place = math.log(min(max(numbers, sizes[0]), sizes[-1]))
        for low, high in itertools.pairwise(sizes):
            if place <= math.log(high):
                share = (place - math.log(low)) / (math.log(high) - math.log(low))
                return (1 - share) * self.number[low] + share * self.number[high]
        return self.number[sizes[-1]]


def measure(payload: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: {"threads", "half", "device"} -> the content of a `Machine`."""
    torch.set_num_threads(int(payload["threads"]))
    before = waited()
    device, half = torch.device(str(payload["device"])), bool(payload["half"])
    alone = _step([EACH] * MANY, half, device) / MANY
    number = {str(size): max(0.0, _step([size], half, device) - alone) / size for size in SIZES}
    found = {"tensor": alone, "number": number, "byte": _fresh(device)}
    after = waited()
    return {**found, "waited": None if before is None or after is None else after.since(before)}


def _step(sizes: list[int], half: bool, device: torch.device) -> float:
    """Seconds of what a fit does once a step, with tensors of these sizes."""
    options = TrainingOptions.model_validate({})
    tensors = {str(i): torch.zeros(size, 1, device=device, requires_grad=True) for i, size in enumerate(sizes)}
    gradients = [torch.full_like(tensor, 1e-3) for tensor in tensors.values()]
    copies = [tensor.detach().bfloat16() for tensor in tensors.values()] if half else []
    optimizer = make_optimizer([{"names": list(tensors), "lr": 1e-9}], tensors, options)
    for tensor, gradient in zip(tensors.values(), gradients, strict=True):
        tensor.grad = gradient

    def once() -> None:
        norms = torch._foreach_norm(gradients)
        norm = torch.linalg.vector_norm(torch.stack(list(norms)))
        optimizer.grad_scale = torch.clamp(norm, min=1.0)  # type: ignore[attr-defined]
        optimizer.step()
        if half:
            torch._foreach_copy_(copies, [tensor.detach() for tensor in tensors.values()])

    return _timed(once, device)


def _fresh(device: torch.device) -> float:
    """Seconds a byte of new memory; nothing on a GPU, whose allocator keeps its own."""
    if device.type != "cpu":
        return 0.0
    kept: list[torch.Tensor] = []
    return _timed(lambda: kept.append(torch.ones(FRESH, dtype=torch.uint8)), device, warm=0) / FRESH


def _timed(work: Callable[[], None], device: torch.device, warm: int = 2) -> float:
    found = []
    for number in range(-warm, TIMES):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= 0:
            found.append(time.perf_counter() - started)
    return sorted(found)[len(found) // 2]


class _Crowded(Exception):
    """Measured beside other processes: good for this run, and for no other."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__("other processes had the cores")
        self.found = found


@lru_cache(maxsize=4)
def machine(device: str, half: bool, threads: int) -> Machine:
    """What is known of this machine, measured if nothing is."""
    from tunesmith.evaluation import cost

    payload = {"threads": threads, "half": half, "device": device}
    hardware = cost.hardware()
    key = store.key_of(
        what="optimiser",
        code=CODE,
        torch=str(torch.__version__),
        **payload,
        on=hardware["gpu"] if device.startswith("cuda") else hardware["cpu"],
    )

    def make(folder: Path) -> None:
        # CUDA is up in this process, and memory on the GPU is counted by what is allocated at once.
        found = measure(payload) if device != "cpu" else processes.call("tunesmith.plan.machine:measure", payload)
        if (found["waited"] or 0.0) >= BUSY:
            raise _Crowded(found)
        (folder / "machine.json").write_text(json.dumps(found), encoding="utf-8")

    try:
        found = json.loads((store.folder("machine", key, make) / "machine.json").read_text(encoding="utf-8"))
    except _Crowded as crowded:
        found = crowded.found
    except (TunesmithError, OSError, ValueError):
        found = measure(payload)
    return Machine(found["tensor"], {int(size): each for size, each in found["number"].items()}, found["byte"])
