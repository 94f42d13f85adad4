"""Files that are whole or not there: written beside their place, flushed to disk, renamed, and the folder's own entry flushed too.

A process that is killed leaves the old file or the new one. So does a machine that loses its power, because nothing is renamed before
its bytes are on disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.errors import SaveError

ADVICE = "free some space or give another --output"


def write(path: Path, content: str | bytes | Callable[[Path], None], advice: str = ADVICE) -> None:
    """Write a file under its name only when it is whole; its folder is made if need be.

    Args:
        path: its place.
        content: its text or bytes, or what writes them to the path it is given.
        advice: what to do where it cannot be written.

    Raises:
        SaveError: the disk is full or not writable; what was there before still is.
    """
    with _beside(path, advice) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(temporary)
        elif isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        else:
            temporary.write_bytes(content)
        sync_file(temporary)
        replace(temporary, path)


def write_folder(final: Path, fill: Callable[[Path], None], advice: str = ADVICE) -> None:
    """Fill a folder beside its place and give it its name when all of it is on disk; one writer at a time (`lock`).

    Args:
        final: its place; a folder that is there is replaced.
        fill: writes the content into the folder that it is given.
        advice: what to do where it cannot be written.

    Raises:
        SaveError: the disk is full or not writable; what was there before still is.
    """
    with _beside(final, advice) as temporary:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)  # what a killed process left
        temporary.mkdir()
        fill(temporary)
        sync_tree(temporary)
        replace(temporary, final)


@contextmanager
def _beside(final: Path, advice: str) -> Iterator[Path]:
    """The place beside a file or folder where it is made; nothing stays there where that fails."""
    temporary = final.with_name(f".{final.name}.writing")
    try:
        yield temporary
    except BaseException as error:
        remove(temporary)
        if not is_about_disk(error):
            raise
        raise SaveError(f"cannot write `{final}`: {reason(error)}; {advice}.") from error


def settle(final: Path) -> None:
    """Put right what a process that was killed while it replaced a folder left; one writer at a time."""
    old = final.with_name(f".{final.name}.old")
    if old.exists() and not final.exists():
        old.replace(final)
    remove(old)
    remove(final.with_name(f".{final.name}.writing"))


def replace(temporary: Path, final: Path) -> None:
    """Give a file or folder, whose content is on disk, its name; a folder that had it goes."""
    if temporary.is_dir() and final.exists():
        # Renaming onto a folder with content is refused, so the old one steps aside first.
        old = final.with_name(f".{final.name}.old")
        remove(old)
        final.replace(old)
        temporary.replace(final)
        remove(old)
    else:
        temporary.replace(final)
    sync_folder(final.parent)


def sync_tree(folder: Path) -> None:
    """Flush everything in a folder to disk, and its entries."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        (sync_folder if path.is_dir() else sync_file)(path)
    sync_folder(folder)


def sync_file(path: Path) -> None:
    """Flush a file's content to disk."""
    with path.open("rb+" if os.name == "nt" else "rb") as stream:  # a file may be read-only, and only Windows minds
        os.fsync(stream.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder's entries: a new name is there after a power cut only then."""
    if os.name == "nt":  # Windows cannot open a folder for syncing
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file or folder if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def is_about_disk(error: BaseException) -> bool:
    """Whether writing failed, and not the program: safetensors reports a full disk as an error class of its own, others as RuntimeError."""
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        return True
    return isinstance(error, RuntimeError) and "No space left" in str(error)


def reason(error: BaseException) -> str:
    """Why, in words."""
    return getattr(error, "strerror", None) or str(error)
