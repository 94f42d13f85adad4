"""Where fetched assets live: one folder per asset, version and revision of our conversion."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.assets.catalogue import Asset


def asset_root() -> Path:
    """The folder of all assets: `$TUNESMITH_CACHE/assets`, or `assets` in this user's cache folder."""
    return _cache_root() / "assets"


def folder(asset: Asset) -> Path:
    """The final folder of `asset`, whether it exists or not.

    The revision is part of the name because a better converter must not hand out what an older one wrote.
    """
    return asset_root() / f"{asset.name}-{asset.version}-r{asset.revision}"


def _cache_root() -> Path:
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
