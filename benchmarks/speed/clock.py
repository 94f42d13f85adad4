"""What every contender measures in its own process, in the same way."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def resident(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (at most so far) of this process, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def peak_bytes(device: str) -> int:
    """Highest resident set of this process, or most that it allocated on the GPU."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    return resident("VmHWM")


def encoded(path: str) -> list[dict[str, Any]]:
    """Rows as token ids and labels."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def spec() -> dict[str, Any]:
    """What to do, from the file that the command names."""
    return dict(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def answer(device: str, **found: Any) -> None:
    """Print the result as the last line."""
    print("\n" + json.dumps({**found, "peak_memory_bytes": peak_bytes(device)}), flush=True)


class Steps:
    """Seconds at the end of every optimiser step, from the begin of the first."""

    def __init__(self) -> None:
        self.began = 0.0
        self.ends: list[float] = []
        self.first_at = 0.0

    def begin(self) -> None:
        """The first step begins."""
        self.began = time.perf_counter()

    def end(self) -> None:
        """A step ended."""
        self.first_at = self.first_at or time.time()
        self.ends.append(time.perf_counter() - self.began)

    def finish(self) -> None:
        """The last step ended when the GPU was done with it."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.ends[-1] = time.perf_counter() - self.began
