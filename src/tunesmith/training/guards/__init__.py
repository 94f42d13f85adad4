"""What goes wrong in training, noticed while it does: one file a pitfall, each asked after every line of the log.

A guard sees the lines of metrics.jsonl, and two more: `end` with the fit, `measured` when the artifact was scored. It speaks once, in a sentence that
names the remedy; result.json keeps it under `training.warnings`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunesmith.training.guards._base import Guard, Line, Lines

__all__ = ["Guard", "Line", "Lines", "Watch", "guards"]


def guards() -> list[Guard]:
    """One of every file in this folder whose name begins without `_`."""
    found = []
    for each in pkgutil.iter_modules(__path__):
        if not each.name.startswith("_"):
            module = importlib.import_module(f"{__name__}.{each.name}")
            classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
            (kind,) = (c for c in classes if issubclass(c, Guard))
            found.append(kind())
    return found


class Watch:
    """Every guard over one fit.

    Args:
        say: told every sentence.
        on: off, it only listens.

    Attributes:
        warnings: what was said: guard, step and sentence.
    """

    def __init__(self, say: Callable[[str], None], *, on: bool = True) -> None:
        self.say = say
        self.guards = guards() if on else []
        self.lines = Lines()
        self.warnings: list[dict[str, Any]] = []

    def add(self, line: Mapping[str, Any]) -> None:
        """The next line of the log."""
        self.lines.add(dict(line))
        spoken = {each["guard"] for each in self.warnings}
        for guard in self.guards:
            if guard.name not in spoken:
                sentence = guard.look(self.lines)
                if sentence is not None:
                    self.warnings.append({"guard": guard.name, "step": int(line["step"]), "message": sentence})
                    self.say(sentence)

    def recall(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """The lines that are there already, in silence."""
        say, self.say = self.say, lambda sentence: None
        for line in lines:
            self.add(line)
        self.say = say
