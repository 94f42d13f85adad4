"""Where fetched assets live: one folder per asset, version and revision of our conversion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.location import cache_root

if TYPE_CHECKING:
    from tunesmith.assets.catalogue import Asset


def asset_root() -> Path:
    """The folder of all assets: `$TUNESMITH_CACHE/assets`, or `assets` in this user's cache folder."""
    return cache_root() / "assets"


def folder(asset: Asset) -> Path:
    """The final folder of `asset`, whether it exists or not.

    The revision is part of the name because a better converter must not hand out what an older one wrote.
    """
    return asset_root() / f"{asset.name}-{asset.version}-r{asset.revision}"
