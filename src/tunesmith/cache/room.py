"""How much room the cache takes, how much it may, and what goes first.

Everything in it can be made again. When it grows beyond its limit, entries that nobody used for longest go, but none that was used within the last
day: another process may be reading it. Assets are not counted: they were asked for by name, and go when that is asked for.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tunesmith import durable
from tunesmith.errors import UserError

LIMIT = "TUNESMITH_CACHE_LIMIT"
SHARE = 0.25
"""Of the disk, where no limit is given."""
ASSETS = "assets"
REST = 24 * 3600.0
"""Seconds that an entry stays untouched after its last use."""
UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Entry:
    """One thing that was computed or fetched once.

    Attributes:
        kind: what it is (`encoded`, `features`, `teacher`, `assets`, ...).
        path: its folder.
        bytes: of its files.
        used: when it was used last, in seconds since 1970.
    """

    kind: str
    path: Path
    bytes: int
    used: float


def entries(root: Path) -> list[Entry]:
    """Everything in the cache, what was not used for longest first; what is being made is not among it."""
    found = []
    for kind in sorted(root.iterdir()) if root.is_dir() else ():
        for path in kind.iterdir() if kind.is_dir() else ():
            if path.is_dir() and not path.name.startswith("."):
                try:
                    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                    found.append(Entry(kind.name, path, size, path.stat().st_mtime))
                except OSError:  # it has just gone
                    continue
    return sorted(found, key=lambda each: each.used)


def limit(root: Path) -> int:
    """Bytes that computed entries may take together.

    Raises:
        UserError: TUNESMITH_CACHE_LIMIT is no size.
    """
    chosen = os.environ.get(LIMIT)
    if chosen:
        return parse_size(chosen, LIMIT)
    place = next(each for each in (root, *root.parents) if each.exists())
    return int(SHARE * shutil.disk_usage(place).total)


def parse_size(text: str, what: str) -> int:
    """Bytes of a size such as `20GB`, `500M` or `1.5T`.

    Raises:
        UserError: it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if not found:
        raise UserError(f"{what} takes a size such as 20GB or 500M, got `{text}`.")
    return int(float(found[1]) * UNITS[found[2].upper()])


def keep_within(root: Path) -> list[Entry]:
    """Let entries go until the rest is within the limit; returns those that went."""
    computed = [each for each in entries(root) if each.kind != ASSETS]
    excess, gone = sum(each.bytes for each in computed) - limit(root), []
    for each in computed:
        if excess <= 0 or time.time() - each.used < REST:
            break
        if _drop(each):
            excess -= each.bytes
            gone.append(each)
    return gone


def clear(root: Path, kinds: Collection[str] = (), older_than: float = 0.0) -> list[Entry]:
    """Let entries go.

    Args:
        root: of the cache.
        kinds: which; none: everything that was computed, and no assets.
        older_than: seconds since they were used last.
    """
    chosen = [each for each in entries(root) if (each.kind in kinds if kinds else each.kind != ASSETS)]
    return [each for each in chosen if time.time() - each.used >= older_than and _drop(each)]


def _drop(entry: Entry) -> bool:
    """Take an entry's name away first, so that nobody finds half of it."""
    aside = entry.path.with_name(f".{entry.path.name}.gone")
    try:
        entry.path.replace(aside)
    except OSError:
        return False
    durable.remove(aside)
    return True
