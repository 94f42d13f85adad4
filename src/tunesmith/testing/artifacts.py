"""Artifacts that were changed on purpose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.artifacts.store import INFO, description_sha256
from tunesmith.cache import store


def reseal(folder: Path, changes: Mapping[str, Any] | None = None) -> None:
    """Change entries of an artifact's description, and write the hashes of its files and its own as they are now."""
    path = folder / INFO
    info = {**json.loads(path.read_text(encoding="utf-8")), **(changes or {})}
    info["files"] = {name: store.file_sha256(folder / name) for name in info["files"]}
    info["sha256"] = description_sha256(info)
    path.write_text(json.dumps(info), encoding="utf-8")
