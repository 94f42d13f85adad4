"""Text out of tokens while they come, in whole characters.

A token is often less than a character (a Vietnamese vowel with its tone has three bytes, in a byte-level vocabulary up to three
tokens) and a word's leading blank is the tokenizer's secret, so a piece is the difference between two texts:

    decode(ids[prefix : all]) - decode(ids[prefix : read])        held back while it ends in U+FFFD
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"
"""What a decoder puts in place of bytes that are no character yet."""
CONTEXT = 6
"""Tokens of the prompt that the first piece is decoded behind."""
PATIENCE = 8
"""Tokens after which a character that is still broken is taken to be broken for good."""


class Detokeniser:
    """The text of a growing list of tokens.

    Args:
        tokenizer: special tokens give no text.
        prompt: ids that stand before the first one.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.ids = list(prompt[-CONTEXT:])
        self.prefix, self.read = 0, len(self.ids)
        while self.read and self._decode(0, self.read).endswith(BROKEN):  # the prompt ends inside a character
            self.read -= 1
        self.shown = self._decode(0, self.read)

    def _decode(self, start: int, end: int) -> str:
        ids = self.ids[start:end]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def add(self, token: int) -> str:
        """The text that a token adds; "" while it is the beginning of a character."""
        self.ids.append(token)
        whole = self._decode(self.prefix, len(self.ids))
        if whole.endswith(BROKEN) and len(self.ids) - self.read < PATIENCE:
            return ""
        return self._take(whole)

    def finish(self) -> str:
        """What is still held back."""
        return self._take(self._decode(self.prefix, len(self.ids)))

    def _take(self, whole: str) -> str:
        piece = whole[len(self.shown) :]
        if piece:  # it ends with a whole character, so the next one can be decoded behind it alone
            self.prefix, self.read = self.read, len(self.ids)
            self.shown = self._decode(self.prefix, self.read)
        return piece
