"""Whether code that a model folder brings along may run: only where the user of this process said so.

An artifact remembers that its base needs such code, and so asks for it when it is opened. Who made it is not who opens it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_allowed = False


def allow(yes: bool) -> None:
    """For the rest of this process: what `--trust-remote-code` says."""
    global _allowed
    _allowed = yes


def allowed() -> bool:
    """Whether it may run."""
    return _allowed


@contextmanager
def remote_code(yes: bool) -> Iterator[None]:
    """Inside it may run, too, if `yes`."""
    before = _allowed
    allow(before or yes)
    try:
        yield
    finally:
        allow(before)
