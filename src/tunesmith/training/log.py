"""metrics.jsonl: one JSON object a logged step or evaluation, flushed as it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class MetricsLog:
    """Append-only log of a run; lines of steps that will run again are dropped."""

    def __init__(self, path: Path, resume_after: int | None = None, stage: str | None = None) -> None:
        self.path, self.stage = path, stage
        if path.exists() and (resume_after is not None or stage is not None):
            kept = [
                line for line in path.read_text(encoding="utf-8").splitlines() if _stays(line, resume_after or 0, stage)
            ]
            path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        elif path.exists():
            path.unlink()
        self.stream = path.open("a", encoding="utf-8")

    def write(self, **fields: Any) -> None:
        """One line."""
        named = {"stage": self.stage, **fields} if self.stage is not None else fields
        self.stream.write(json.dumps(named, ensure_ascii=False) + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Close the file."""
        self.stream.close()


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
