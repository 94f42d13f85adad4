"""Bytes that are nearly right: cut, doubled, swapped, flipped, and with words in them that readers stumble over."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

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


FEW = ("", " ", "a", "ạ", "a" * 40, "\n", "\x07", "user", "x y z", "[MASK]", "</s>", "{{ 7 * 7 }}", "%s", "0")
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 0.5, 1e308, -0.0, "", "x", "\x00", "\ud800", "Hà Nội", "a" * 5000, [], [[]], [None], [0], [""], {},
    *FEW, 2, 3, 8, 9, 0.1, 1.0, 1.5, 2.0, [5, 6], ["a", "b"], {"": ""}, {"type": "text"}, ["x"] * 70, "0", "\u202e", "../..", {"role": "user"}, float("nan"), float("inf"),
)  # fmt: skip


def twist(data: bytes, random_: random.Random) -> bytes:
    """JSON that stays JSON, with one to three values that are others, gone, doubled or under another name."""
    found = json.loads(data)
    for _ in range(random_.choice((1, 1, 2, 3))):
        places = [place for place in _places(found) if place[1] != "model" or random_.random() < 0.1]
        if not places:
            break
        holder, key = random_.choice(places)
        kind = random_.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif kind == 2 and isinstance(holder, dict):
            holder[random_.choice(("", "x", "user", "__class__", str(key).upper(), "tools"))] = holder.pop(key)
        elif kind == 3:
            holder[key] = copy.deepcopy(random_.choice(places)[0])
        else:
            same = [value for value in ODD if type(value) is type(holder[key])]
            holder[key] = copy.deepcopy(random_.choice(same if same and random_.random() < 0.7 else ODD))
    return json.dumps(found).encode()


def _places(value: Any) -> Any:
    """Every place in lists and objects, as what holds it and under which key."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in list(pairs):
        yield value, key
        yield from _places(each)
