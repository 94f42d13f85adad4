"""Where everything lives that is fetched or computed once."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_root() -> Path:
    """`TUNESMITH_CACHE`, or `tunesmith` in this user's cache folder."""
    chosen = os.environ.get("TUNESMITH_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "tunesmith" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tunesmith"
    # The XDG specification says that a relative path is invalid and must be ignored.
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if xdg.startswith("/") else Path.home() / ".cache") / "tunesmith"
