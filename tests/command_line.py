"""The command line, called in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
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


def stay(payload: dict[str, Any]) -> dict[str, Any]:
    """For another process: says who it is, and stays."""
    Path(payload["file"]).write_text(str(os.getpid()))
    time.sleep(60)
    return {}


def beside(payload: dict[str, Any]) -> dict[str, Any]:
    """For another process, which a launcher seems to have started: a command line, and what it gave back."""
    os.environ.update(payload["place"])
    os.chdir(payload["folder"])
    Path(payload["file"]).write_text(str(os.getpid()))
    return vars(call(*payload["args"]))


def loaded(payload: dict[str, Any]) -> dict[str, bool]:
    """Which of what runs need was there before this child began."""
    renaming = sys.modules.get("transformers.conversion_mapping")
    names = {name: name in sys.modules for name in ("peft", "tunesmith.run")}
    return {**names, "renaming": getattr(renaming, "_checkpoint_conversion_mapping_cache", None) is not None}
