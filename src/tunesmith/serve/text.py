"""What a client sees of a text: nothing of a stop string, and tokens with their bytes.

A stop string may straddle tokens: what could be its beginning is held back until it is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tunesmith.artifacts.detokenise import BROKEN


class StopStrings:
    """Lets text through up to the first of several strings, whatever pieces it comes in."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = [stop for stop in stops if stop]
        self.held = ""
        self.stopped = False

    def add(self, piece: str) -> str:
        """The text that is safe to show now; `stopped` once a stop string was found."""
        if self.stopped:
            return ""
        text = self.held + piece
        found = [at for at in (text.find(stop) for stop in self.stops) if at >= 0]
        if found:
            self.stopped, self.held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and is no stop string."""
        held, self.held = self.held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How long an end of the text is that a stop string begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """The byte behind each character of a byte-level vocabulary (GPT-2's table)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


def token_text(tokenizer: Any, token: int) -> tuple[str, list[int]]:
    """A token as text and as bytes; a part of a character is broken text and its true bytes."""
    word = str(tokenizer.convert_ids_to_tokens(token))
    text = str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if word.startswith("<0x") and word.endswith(">") and len(word) == 6:  # SentencePiece's bytes
        return text, [int(word[3:5], 16)]
    if BROKEN in text:
        table = _byte_of()
        if all(character in table for character in word):
            return text, [table[character] for character in word]
    if word.startswith("\u2581"):  # the blank that decoding a token by itself drops
        text = " " + text.removeprefix(" ")
    return text, list(text.encode("utf-8", "replace"))
