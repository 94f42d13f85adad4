r"""Two tokenizers on one text: which decisions are about the same place, and which tokens are the same words.

    student   The| cat| sat|s|.            decisions at characters  0   3   7   10  11     (white space is not counted)
    teacher   The| ca|t| sats|.                                     0   3   5   7   11
                                                       shared:      0   3       7   11

A decision asks which token comes next after the same text, so decisions at the same place can be compared. There the teacher's
probability of a token goes to the student's token with the same string, and what it gives to tokens that the student does not have is
left to "all others". The share that is covered is the mean over the student's decisions of the probability that could be handed over
(0 where the teacher has no decision there): 1 for the same tokenizer. It says how far such a comparison goes, and below a bound there is none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

END = "\0end"
"""Every tokenizer's way to say that a text is over."""


@lru_cache(maxsize=1)
def _bytes_of_characters() -> dict[str, int]:
    """The characters that byte-level tokenizers write bytes as (Radford et al. 2019): printable ones as themselves, others from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{chr(byte): byte for byte in plain}, **{chr(256 + i): byte for i, byte in enumerate(others)}}


def surfaces(tokenizer: Any, ends: Collection[int] = ()) -> list[bytes]:
    """The text that each token stands for, with a space where a word begins, by id.

    Args:
        tokenizer: of any family.
        ends: ids that end a text.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = {*tokenizer.all_special_ids}
    finals = {*ends, *(i for i in (tokenizer.eos_token_id, tokenizer.sep_token_id) if i is not None)}
    style = _style(tokens)
    found = []
    for number, token in enumerate(tokens):
        if number in finals:
            found.append(END.encode())
        elif number in special or token is None:
            found.append(f"\0{token}".encode())
        else:
            found.append(_surface(token, style))
    return found


def _style(tokens: Sequence[str | None]) -> str:
    """How a vocabulary says where words begin."""
    count = dict.fromkeys(("Ġ", "▁", "##"), 0)
    for token in tokens:
        for mark in count:
            count[mark] += bool(token) and str(token).startswith(mark)
    best = max(count, key=lambda mark: count[mark])
    return best if count[best] else "word"


def _surface(token: str, style: str) -> bytes:
    if style == "Ġ":
        table = _bytes_of_characters()
        return bytes(table[c] for c in token) if all(c in table for c in token) else token.encode("utf-8", "replace")
    if style == "▁":
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace("▁", " ").encode("utf-8", "replace")
    if style == "##":
        return (token[2:] if token.startswith("##") else f" {token}").encode("utf-8", "replace")
    return f" {token}".encode("utf-8", "replace")


def columns(student: Sequence[bytes], teacher: Sequence[bytes], width: int) -> np.ndarray[Any, Any]:
    """For each of the teacher's outputs the student's id with the same string, or -1.

    Args:
        student: its surfaces.
        teacher: its surfaces.
        width: the teacher's outputs (an output layer may have more rows than the tokenizer has tokens).
    """
    known: dict[bytes, int] = {}
    for number, surface in enumerate(student):
        known.setdefault(surface, number)
    found = np.full(width, -1, np.int64)
    for number, surface in enumerate(teacher[:width]):
        found[number] = known.get(surface, -1)
    return found


def meet(student: Sequence[bytes], teacher: Sequence[bytes]) -> np.ndarray[Any, Any]:
    """For each of the student's decisions the teacher's about the same place, or -1.

    Decisions meet as far as both tokenizers say that the text is the same: behind an unknown word, an accent that only one of them
    drops, or the place where one was cut, nothing is compared any more.

    Args:
        student: surfaces of the tokens that its decisions are about, in the order of the text.
        teacher: likewise.
    """
    (mine, ours), (theirs, others) = _places(student), _places(teacher)
    same = next(
        (i for i, pair in enumerate(zip(ours, others, strict=False)) if pair[0] != pair[1]), min(len(ours), len(others))
    )
    waiting: dict[int, list[int]] = defaultdict(list)
    for number, place in enumerate(theirs):
        waiting[place].append(number)
    found = np.full(len(student), -1, np.int64)
    for number, place in enumerate(mine):
        if place <= same and waiting[place]:
            found[number] = waiting[place].pop(0)
    return found


def _places(tokens: Sequence[bytes]) -> tuple[list[int], bytes]:
    """Visible bytes before each token, and all of them."""
    found, text = [], b""
    for token in tokens:
        found.append(len(text))
        if not token.startswith(b"\0"):
            text += b"".join(token.lower().split())
    return found, text
