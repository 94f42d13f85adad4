"""metrics.jsonl: one JSON object a logged step or evaluation, flushed as it is written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunesmith import durable
from tunesmith.errors import SaveError


class MetricsLog:
    """Append-only log of a run; lines of steps that will run again are dropped."""

    def __init__(self, path: Path, resume_after: int | None = None, stage: str | None = None) -> None:
        self.path, self.stage = path, stage
        self.kept: list[dict[str, Any]] = []
        """Lines of this stage that were there and stay."""
        if path.exists() and (resume_after is not None or stage is not None):
            kept = [
                line for line in path.read_text(encoding="utf-8").splitlines() if _stays(line, resume_after or 0, stage)
            ]
            durable.write(path, "".join(line + "\n" for line in kept))
            own = [json.loads(line) for line in kept]
            self.kept = [{k: v for k, v in line.items() if k != "stage"} for line in own if line.get("stage") == stage]
        elif path.exists():
            path.unlink()
        with self._writing():
            self.stream = path.open("a", encoding="utf-8")

    def write(self, **fields: Any) -> None:
        """One line."""
        named = {"stage": self.stage, **fields} if self.stage is not None else fields
        with self._writing():
            self.stream.write(json.dumps(named, ensure_ascii=False) + "\n")
            self.stream.flush()

    def sync(self) -> None:
        """Put on disk what was written: a state that is saved next must not know of steps that the log does not."""
        with self._writing():
            os.fsync(self.stream.fileno())

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # a full disk refuses once more what it refused before
            self.stream.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SaveError(
                f"cannot write `{self.path}`: {durable.reason(error)}; free some space and run `tunesmith resume {self.path.parent}`."
            ) from error


def _stays(line: str, step: int, stage: str | None) -> bool:
    """Whether a line is of another stage, or of a step that will not run again; what a kill cut off is neither."""
    try:
        found = json.loads(line)
        return bool(found.get("stage") != stage or float(found.get("step", 0)) <= step)
    except (json.JSONDecodeError, AttributeError):
        return False


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found
