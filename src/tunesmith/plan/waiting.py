"""How long the threads of this process waited for a core that others had, which is what makes a timed pass say little of an idle machine.

The scheduler of Linux counts both for each thread (`/proc/PID/task/TID/schedstat`: nanoseconds on a core, nanoseconds ready to run and waiting). Sleep counts as
neither. Elsewhere nothing is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BUSY = 0.2
"""Share of waiting from which it is said: an idle machine has a few hundredths."""


@dataclass(frozen=True)
class Waited:
    """Sums over the threads that live.

    Attributes:
        ran: seconds on a core.
        waiting: seconds ready to run without one.
    """

    ran: float
    waiting: float

    def since(self, before: Waited) -> float:
        """Share of waiting in the time between, 0 to 1."""
        ran, waiting = max(0.0, self.ran - before.ran), max(0.0, self.waiting - before.waiting)
        return waiting / (ran + waiting) if ran + waiting else 0.0


def waited(tasks: Path = Path("/proc/self/task")) -> Waited | None:
    """Until now; None where the system does not count it.

    Args:
        tasks: folder with one of each thread.
    """
    ran = waiting = 0
    found = False
    for file in tasks.glob("*/schedstat"):
        try:
            first, second = file.read_text(encoding="ascii").split()[:2]
        except (OSError, ValueError):  # a thread that has ended
            continue
        ran, waiting, found = ran + int(first), waiting + int(second), True
    return Waited(ran / 1e9, waiting / 1e9) if found else None
