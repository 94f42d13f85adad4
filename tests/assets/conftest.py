"""Hand-made archives."""

from __future__ import annotations

import io
import tarfile

import pytest


def _make_tar(path, members):
    """A gzipped tar of (name, content) or (name, "->", target) entries."""
    with tarfile.open(path, "w:gz") as file:
        for name, *rest in members:
            info = tarfile.TarInfo(name)
            if rest[0] == "->":
                info.type, info.linkname = tarfile.SYMTYPE, rest[1]
                file.addfile(info)
            else:
                info.size = len(rest[0])
                file.addfile(info, io.BytesIO(rest[0]))
    return path


@pytest.fixture
def make_tar():
    """A function that writes a gzipped tar."""
    return _make_tar


def _make_deb(path, members, compression="xz"):
    """A Debian package that installs (name, content) entries: an ar archive written byte by byte."""
    data = io.BytesIO()
    with tarfile.open(mode=f"w:{compression}" if compression else "w", fileobj=data) as file:
        for name, content in members:
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    suffix = f".{compression}" if compression else ""
    out = b"!<arch>\n"
    parts = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (f"data.tar{suffix}", data.getvalue())]
    for name, content in parts:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    path.write_bytes(out)
    return path


@pytest.fixture
def make_deb():
    """A function that writes a Debian package."""
    return _make_deb
