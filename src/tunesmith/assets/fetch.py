"""Fetch an asset once: lock, download, convert beside the final place, then one rename.

    lock -> temporary folder -> download + sha256 -> convert -> about.json -> fsync -> rename

Whoever is killed in between leaves only the temporary folder, which no reader looks at and the next fetch removes.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from tunesmith import durable
from tunesmith.assets import download as registry
from tunesmith.assets.catalogue import Asset, get
from tunesmith.assets.location import folder
from tunesmith.console import progress, say
from tunesmith.errors import SaveError

ABOUT = "about.json"


def fetch(name: str) -> Path:
    """The folder of a model or the JSONL file of a data set, downloaded and converted on first use.

    Args:
        name: a name of the catalogue (`tunesmith list assets`), without `asset:`.

    Returns:
        For a model a folder that `AutoModel...from_pretrained` opens (safetensors, config, tokenizer); for a data set
        one JSONL file in UTF-8. `about.json` beside it says where it came from.

    Raises:
        AssetError: unknown name, no network, or a file that is not the pinned one.
        SaveError: the cache folder cannot be written.
    """
    asset = get(name)
    # Without a lock first: a cache that is complete may well be read-only.
    if not is_fetched(asset):
        try:
            _fetch_locked(asset)
        except OSError as error:
            raise SaveError(
                f"cannot write the asset `{asset.name}` to {folder(asset)}: {error}; free some space or set "
                "TUNESMITH_CACHE to a folder that can be written."
            ) from error
    place = folder(asset)
    return place / asset.filename if asset.kind == "data" else place


def is_fetched(asset: Asset | str) -> bool:
    """Whether the asset lies complete in the cache: every file that `about.json` lists is there with its size."""
    place = folder(get(asset) if isinstance(asset, str) else asset)
    try:
        files = json.loads((place / ABOUT).read_text(encoding="utf-8"))["files"]
        return all((place / name).stat().st_size == facts["bytes"] for name, facts in files.items())
    except (OSError, ValueError, KeyError):
        return False


def size_on_disk(asset: Asset | str) -> int:
    """Bytes that the asset takes in the cache, 0 when it is not fetched."""
    place = folder(get(asset) if isinstance(asset, str) else asset)
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) if place.is_dir() else 0


def _fetch_locked(asset: Asset) -> None:
    from filelock import FileLock, Timeout

    final = folder(asset)
    final.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(final.parent / f".{final.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process that is fetching {asset.name}")
        lock.acquire()
    try:
        if is_fetched(asset):  # the other process has just finished it
            return
        # Under the lock nobody else builds this asset, so every temporary folder of it is left over from a crash.
        for leftover in final.parent.glob(f".{final.name}.tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        build = final.parent / f".{final.name}.tmp-{uuid.uuid4().hex[:8]}"
        try:
            _build(asset, build)
            if final.exists():  # there but damaged, or is_fetched would have said yes
                final.rename(build / "damaged")
            (build / "new").replace(final)
            durable.sync_folder(final.parent)
        finally:
            shutil.rmtree(build, ignore_errors=True)
    finally:
        lock.release()


def _build(asset: Asset, build: Path) -> None:
    """Fill `build/new` with the finished asset."""
    new = build / "new"
    new.mkdir(parents=True)  # mkdir, not mkdtemp: a shared cache must stay readable to others as the umask says
    archives = [fetch(part) for part in asset.parts]  # each under its own lock; parts have no parts, so no circle
    for number, source in enumerate(asset.sources):
        place = build / f"download-{number}"
        place.mkdir()
        archives.append(registry.download(source, place, asset.name))
    with progress() as bar:
        bar.add_task(f"converting {asset.name}", total=None)
        facts = asset.convert(archives, new)
    _write_about(asset, new, archives[len(asset.parts) :], facts)
    for path in new.rglob("*"):
        if path.is_file():
            _share(path)
    durable.sync_tree(new)
    rows = facts.get("rows")
    counted = f"{rows['kept']} rows kept, {sum(rows['dropped'].values())} dropped, " if rows else ""
    size = registry.megabytes(sum(path.stat().st_size for path in new.rglob("*") if path.is_file()))
    say(f"fetched {asset.name}: {counted}{size} in {folder(asset)}")


def _write_about(asset: Asset, new: Path, downloaded: list[Path], facts: dict[str, Any]) -> None:
    files = sorted(path for path in new.rglob("*") if path.is_file())
    about = {
        "name": asset.name,
        "kind": asset.kind,
        "task": asset.task,
        "description": asset.description,
        "licence": asset.licence,
        "columns": list(asset.columns),
        "packages": [
            {
                "registry": source.registry,
                "package": source.package,
                "version": source.version,
                "file": path.name,
                # Debian's archive keeps no old versions, so there this is what came and not what was asked for.
                "sha256": source.sha256 or registry.sha256(path),
                "pinned": bool(source.sha256),
            }
            for source, path in zip(asset.sources, downloaded, strict=True)
        ],
        "parts": {part: folder(get(part)).name for part in asset.parts},
        "conversion_revision": asset.revision,
        **facts,
        "files": {
            path.relative_to(new).as_posix(): {"bytes": path.stat().st_size, "sha256": registry.sha256(path)}
            for path in files
        },
    }
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    (new / ABOUT).write_text(text, encoding="utf-8")


def _share(path: Path) -> None:
    # transformers writes weights with mode 0600; in a cache that others share they must be as readable as the rest.
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
