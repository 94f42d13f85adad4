"""Words as token ids, word by word, and long rows as overlapping windows; fast and Python tokenizers alike.

    words     Hà Nội mưa            every word is tokenised alone, so which tokens are whose is known without offsets
    pieces    [Hà] [N, ội] [mưa]    in the form a word has inside a text (with its space, where the tokenizer wants one)
    window    [CLS] Hà N ội mưa [SEP]

A row that does not fit is cut into windows that share words. Every word is decided once, in the window that shows most around
it, so that metrics and losses count no word twice.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

PROBES = (("the", "film"), ("one", "two"), ("a", "man"))


@dataclass(frozen=True)
class Window:
    """A run of words that is read together.

    Attributes:
        first: its first word.
        last: the word after its last.
        owned: the words that are decided here.
    """

    first: int
    last: int
    owned: Sequence[int]


class WordPieces:
    """What one tokenizer makes of words, and what it puts around a text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.space = self._find_space()
        self.before, self.after = self._find_ends()
        self.known: dict[str, list[int]] = {}

    def _ids(self, texts: Sequence[str], ends: bool = False) -> list[list[int]]:
        # A word that looks like a special token is a word.
        found = self.tokenizer(
            list(texts), add_special_tokens=ends, split_special_tokens=True, return_attention_mask=False, verbose=False
        )["input_ids"]
        return [list(ids) for ids in found]

    def _find_space(self) -> str:
        """What must stand before a word, tokenised alone, so that it looks as it does after another word."""
        for space in ("", " "):
            if all(
                first + second == joined
                for first, second, joined in (self._ids((a, space + b, f"{a} {b}")) for a, b in PROBES)
            ):
                return space
        return ""

    def _find_ends(self) -> tuple[list[int], list[int]]:
        """Special tokens that the tokenizer puts before and after a text."""
        word = PROBES[0][1]
        bare, whole = self._ids([word])[0], self._ids([word], ends=True)[0]
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        return [], []

    def learn(self, words: Iterable[str]) -> None:
        """Tokenise words that were not seen before, all at once."""
        new = sorted({word for word in words if word not in self.known})
        # Composed Unicode: the same word must be the same tokens, however its accents are stored.
        clean = [unicodedata.normalize("NFC", word).strip() for word in new]
        some = [place for place, word in enumerate(clean) if word]
        pieces = self._ids([self.space + clean[place] for place in some]) if some else []
        self.known.update((word, []) for word in new)
        self.known.update((new[place], ids) for place, ids in zip(some, pieces, strict=True))

    def of(self, words: Sequence[str]) -> list[list[int]]:
        """Token ids of each word; none for words that the tokenizer drops (control characters)."""
        self.learn(words)
        return [self.known[word] for word in words]


def windows(sizes: Sequence[int], room: int, overlap: int, causal: bool = False) -> list[Window]:
    """Cut words into windows of at most `room` tokens.

    Args:
        sizes: tokens of each word, between 1 and `room`.
        room: tokens of a window without what stands around a text.
        overlap: tokens that neighbours share (about; whole words, at most half a window).
        causal: only what stands before a word is context to it.

    Returns:
        Windows in order; each word is owned by exactly one, and each window owns a word.
    """
    total = [0]
    for size in sizes:
        total.append(total[-1] + size)
    count, overlap = len(sizes), min(overlap, room // 2)
    bounds: list[tuple[int, int]] = []
    first = last = 0
    while last < count:
        while last < count and total[last + 1] - total[first] <= room:
            last += 1
        if last == count:  # the last window is filled from the left
            while first > 0 and total[count] - total[first - 1] <= room:
                first -= 1
        bounds.append((first, last))
        if last < count:
            # The next one holds at least one word more.
            while total[last] - total[first] > overlap or total[last + 1] - total[first] > room:
                first += 1

    def context(word: int, bound: tuple[int, int]) -> float:
        left = float("inf") if bound[0] == 0 else total[word] - total[bound[0]]
        right = float("inf") if bound[1] == count else total[bound[1]] - total[word + 1]
        return left if causal else min(left, right)

    best: list[tuple[float, int]] = [(-1.0, -1)] * count
    for number, bound in enumerate(bounds):
        for word in range(*bound):
            found = context(word, bound)
            if found > best[word][0]:
                best[word] = (found, number)
    owned: list[list[int]] = [[] for _ in bounds]
    for word, (_, number) in enumerate(best):
        owned[number].append(word)
    return [Window(*bound, words) for bound, words in zip(bounds, owned, strict=True) if words]
