"""Bytes that are nearly right: cut, doubled, swapped, flipped, and with words in them that readers stumble over."""

from __future__ import annotations

import random

WORDS = (
    b"null", b"NaN", b"-1", b"1e999", b"9" * 400, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\r\n\r\n", b"\t", b"\"", b"'", b"\\", b"\\u0000", b"\\ud800",
    b"[" * 200, b"{" * 200, b"]", b"}", b",", b":", b"{}", b"[]", b"true", b"=cmd|' /C calc'!A0", b"../../x", b"&a", b"*a", b"!!python/object/apply:os.system", b"<<",
    b"?", b"- ", b"|", b">", b"%", b"@", b"`", "ạ".encode(), "\u202e".encode(), "\u2028".encode(), b"text", b"label", b"role", b"content", b"answers", b"__proto__",
)  # fmt: skip


def mutate(data: bytes, random_: random.Random) -> bytes:
    """One to eight changes."""
    found = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 3, 5, 8))):
        place = random_.randint(0, len(found))
        end = min(len(found), place + random_.choice((1, 2, 4, 16, 64)))
        kind = random_.randrange(7)
        if kind == 0:
            found[place:place] = random_.choice(WORDS)
        elif kind == 1:
            found[place:end] = random_.choice(WORDS)
        elif kind == 2:
            del found[place:end]
        elif kind == 3:
            found[place:place] = found[place:end] * random_.choice((1, 2, 50))
        elif kind == 4 and place < len(found):
            found[place] ^= 1 << random_.randrange(8)
        elif kind == 5:
            del found[place:]
        else:
            other = random_.randint(0, len(found))
            found[place:place] = found[other : other + 32]
    return bytes(found)
