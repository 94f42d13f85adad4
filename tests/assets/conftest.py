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
