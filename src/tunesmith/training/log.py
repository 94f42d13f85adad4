"""metrics.jsonl: one JSON object a logged step or evaluation, flushed as it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class MetricsLog:
    """Append-only log of a run; on resume, lines of steps that will run again are dropped."""

    def __init__(self, path: Path, resume_after: int | None = None) -> None:
        self.path = path
        if resume_after is not None and path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= resume_after]
            path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        elif path.exists():
            path.unlink()
        self.stream = path.open("a", encoding="utf-8")

    def write(self, **fields: Any) -> None:
        """One line."""
        self.stream.write(json.dumps(fields, ensure_ascii=False) + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Close the file."""
        self.stream.close()


def _step(line: str) -> float:
    try:
        return float(json.loads(line).get("step", 0))
    except (json.JSONDecodeError, AttributeError):
        return float("inf")  # cut off by a kill


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
