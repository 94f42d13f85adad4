"""Which checks there are, by file name, and running them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

from tunesmith.console import say
from tunesmith.doctor import general
from tunesmith.doctor.case import Case, Texts
from tunesmith.doctor.finding import Finding

STRICT = "TUNESMITH_STRICT"  # environment variable: a fault of a check is raised even while a run starts (tests set it)
Kind = Literal["ROW_CHECKS", "ENCODED_CHECKS"]


def own_module(task: str) -> ModuleType | None:
    """The file of checks that is called as the task's own, if there is one."""
    name = f"{__package__}.{task.replace('-', '_')}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def modules(task: str) -> list[ModuleType]:
    """Files of checks for a task: those for all, and its own."""
    shared = [
        importlib.import_module(f"{general.__name__}.{info.name}") for info in pkgutil.iter_modules(general.__path__)
    ]
    own = own_module(task)
    return [*shared, *([own] if own else [])]


def reader_of(task: str) -> Texts | None:
    """How a task's rows are read as text, where that is not simply their columns."""
    found: Texts | None = getattr(own_module(task), "texts", None)
    return found


def cuts(task: str, options: Any) -> bool:
    """Whether a task cuts long rows; its file says so where it does not."""
    said = getattr(own_module(task), "cuts", None)
    return bool(said(options)) if said else True


def run(case: Case, kind: Kind, *, strict: bool = True) -> list[Finding]:
    """What all checks of a kind find.

    Args:
        case: the rows.
        kind: on rows as they are, or on rows as they are encoded.
        strict: raise a fault of a check; off while a run starts, which a fault of the doctor must not stop.
    """
    found: list[Finding] = []
    for module in modules(case.name):
        checks: Sequence[Any] = getattr(module, kind, ())
        for check in checks:
            try:
                found += list(check(case))
            except Exception:
                if strict or os.environ.get(STRICT):
                    raise
                say(f"doctor: the check {module.__name__}.{check.__name__} failed:\n{traceback.format_exc()}", level=1)
    return found
