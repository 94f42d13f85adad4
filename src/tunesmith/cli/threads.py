"""How long torch's threads spin for each other, on a machine that does other things as well.

Threads of GNU OpenMP spin for milliseconds before they sleep. On an idle machine that is right: sleeping threads made LoRA on a small model up to twice as slow. Where
another process has one of the cores, whoever spins keeps the thread that it waits for from running, and the same training took two to thirty times as long (docs/performance.md).
"""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping
from pathlib import Path

SPIN, SHORT = "GOMP_SPINCOUNT", "1000"
CHOSEN = (SPIN, "OMP_WAIT_POLICY")
LOOKS, BETWEEN = 2, 0.005


def spin_briefly_beside_others(
    environment: MutableMapping[str, str] = os.environ, load: Path = Path("/proc/loadavg"), cores: int | None = None
) -> None:
    """Let threads sleep sooner where others run on half of the cores; to be called before torch is imported.

    Args:
        environment: of this process; what the user has chosen in it stays.
        load: where Linux says how many threads run or wait at this moment.
        cores: that this process may use.
    """
    if any(name in environment for name in CHOSEN):
        return
    cores = cores or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for look in range(LOOKS):
        time.sleep(BETWEEN if look else 0)
        try:
            others = int(load.read_text(encoding="ascii").split()[3].split("/")[0]) - 1
        except (OSError, ValueError, IndexError):
            return
        if 2 * others < cores:
            return
    environment[SPIN] = SHORT
