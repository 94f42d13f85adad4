"""The command line, called in this process."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Answer:
    """What a command line gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Answer]


def call(*args: object) -> Answer:
    """`tunesmith ARGS` in this process."""
    from tunesmith.cli.main import run
    from tunesmith.console import set_verbosity

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(arg) for arg in args])
    set_verbosity(0)
    return Answer(code, out.getvalue(), err.getvalue())
