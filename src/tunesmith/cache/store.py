"""One folder per key, made once, by one process, and seen only when it is complete.

The key is a hash of everything the content depends on (data, tokenizer, options, code version), so a stale
entry cannot be read: it has another name. Two processes that want the same entry wait on a file lock, and the
second finds it done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tunesmith import durable
from tunesmith.cache.room import keep_within
from tunesmith.errors import SaveError
from tunesmith.location import cache_root

FORMAT = 1  # part of every key: raise it when the layout of cached entries changes


def key_of(**parts: Any) -> str:
    """Hash of named parts; anything JSON can write."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def has(kind: str, key: str) -> bool:
    """Whether an entry is there."""
    return (cache_root() / kind / key).is_dir()


def folder(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder of an entry; `make(temporary_folder)` fills it if it is not there yet.

    Raises:
        SaveError: the disk is full or not writable; nothing half-made stays.
    """
    from filelock import FileLock

    final = cache_root() / kind / key
    if final.is_dir():
        with suppress(OSError):  # of somebody else, it may be read and not touched
            os.utime(final)  # used now: what was not for longest goes first
        return final
    advice = "free some space or set TUNESMITH_CACHE to another folder"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(final) + ".lock"):
            if not final.is_dir():
                durable.write_folder(final, make, advice)
                keep_within(cache_root())
    except OSError as error:
        raise SaveError(f"cannot write the cache entry `{final}`: {durable.reason(error)}; {advice}.") from error
    return final


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Inside, work that fails takes the folders with it that were made for it and hold nothing."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the first that holds something, or was never made, ends it
            for place in made:
                place.rmdir()
        raise
