r"""Reading R's binary serialisation: character vectors out of a package's lazy-load database, and nothing else.

    Rdata.rdx  gzip of one value: list(variables = list(NAME = c(offset, length)), references = ..., compressed = 1)
    Rdata.rdb  at each offset: size of the value (4 bytes) | zlib of the value

    value = "X\n" | version | writer | reader | (version 3: encoding) | item
    item  = flags (type in the low 8 bits, 0x200: attributes follow, 0x400: tagged) | content

Integers are big-endian (XDR). Types that only code needs (closures, environments, byte code) are refused.

Source: R Internals, section 1.8 "Serialization Formats"; R's src/main/serialize.c, ReadItem.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

from tunesmith.errors import AssetError

_SYMBOL, _PAIRLIST, _LOGICAL, _INTEGER, _REAL, _TEXT, _LIST, _CHARS = 1, 2, 10, 13, 14, 16, 19, 9
_REFERENCE, _NOTHING = 255, 254
_HAS_ATTRIBUTES, _HAS_TAG = 0x200, 0x400
_LATIN1 = 0x4000  # CHARSXP level bit LATIN1_MASK = 1 << 2, shifted by the 12 bits of type and flags


class Named(list[Any]):
    """A vector with R attributes; `names` is the one that is used."""

    attributes: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """A named list as a dictionary."""
        return dict(zip(self.attributes.get("names", []), self, strict=True))


def lazy_database(index: bytes, data: bytes) -> dict[str, Any]:
    """All variables of an `.rdx` and `.rdb` pair.

    Args:
        index: the .rdx file.
        data: the .rdb file.

    Raises:
        AssetError: the files are damaged, or hold what is no plain vector.
    """
    try:
        # 31: a gzip header is expected, as R writes it for this file.
        table = unserialize(zlib.decompress(index, 31)).as_dict()
        found = {}
        for name, (offset, length) in table["variables"].as_dict().items():
            (size,) = struct.unpack_from(">I", data, offset)
            content = zlib.decompress(data[offset + 4 : offset + length])
            if len(content) != size:
                raise AssetError(f"the R data `{name}` has {len(content)} bytes, expected {size}; fetch it again.")
            found[name] = unserialize(content)
        return found
    except (zlib.error, struct.error, KeyError, AttributeError, ValueError, TypeError) as error:
        raise AssetError(f"the R data cannot be read: {error!r}; the package is not the one we know.") from error


def unserialize(content: bytes) -> Any:
    """One value: None, a list of str, int, float or values (None where R has NA), with `attributes`."""
    if content[:2] != b"X\n":
        raise AssetError(f"the R data starts with {content[:2]!r}, expected the XDR format `X\\n`.")
    reader = _Reader(content, 2)
    version, _, _ = reader.integer(), reader.integer(), reader.integer()
    if version not in (2, 3):
        raise AssetError(f"the R data has serialisation version {version}; versions 2 and 3 are read.")
    if version == 3:
        reader.bytes(reader.integer())  # the writer's native encoding; strings carry their own mark
    return reader.item()


class _Reader:
    def __init__(self, content: bytes, at: int) -> None:
        self.content, self.at = content, at
        self.symbols: list[Any] = []

    def integer(self) -> int:
        (value,) = struct.unpack_from(">i", self.content, self.at)
        self.at += 4
        return int(value)

    def bytes(self, count: int) -> bytes:
        if not 0 <= count <= len(self.content) - self.at:
            raise AssetError("the R data is cut off; fetch it again.")
        self.at += count
        return self.content[self.at - count : self.at]

    def vector(self, code: str, width: int) -> Named:
        count = self.integer()
        return Named(struct.unpack(f">{count}{code}", self.bytes(count * width)))

    def item(self) -> Any:
        flags = self.integer()
        kind = flags & 0xFF
        if kind == _NOTHING:
            return None
        if kind == _REFERENCE:
            return self.symbols[(flags >> 8 or self.integer()) - 1]
        if kind == _SYMBOL:
            self.symbols.append(self.item())
            return self.symbols[-1]
        if kind == _CHARS:
            count = self.integer()
            return None if count < 0 else self.bytes(count).decode("latin-1" if flags & _LATIN1 else "utf-8")
        if kind == _PAIRLIST:
            return self.pairs(flags)
        value = self.values(kind)
        if flags & _HAS_ATTRIBUTES:
            value.attributes = self.item() or {}
        else:
            value.attributes = {}
        return value

    def values(self, kind: int) -> Named:
        if kind in (_LOGICAL, _INTEGER):
            return self.vector("i", 4)
        if kind == _REAL:
            return self.vector("d", 8)
        if kind in (_TEXT, _LIST):
            return Named(self.item() for _ in range(self.integer()))
        raise AssetError(f"the R data has an object of type {kind}; vectors of text and numbers are read.")

    def pairs(self, flags: int) -> dict[str, Any]:
        """A pairlist as a dictionary; its tail is the next item, so a loop reads it."""
        found: dict[str, Any] = {}
        while flags & 0xFF == _PAIRLIST:
            if flags & _HAS_ATTRIBUTES:
                self.item()
            tag = self.item() if flags & _HAS_TAG else str(len(found))
            found[tag] = self.item()
            flags = self.integer()
        return found
