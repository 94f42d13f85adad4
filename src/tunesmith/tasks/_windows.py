"""A question and a long context as windows of tokens whose characters are known.

    [CLS] question [SEP] context tokens 0 .. r [SEP]
    [CLS] question [SEP] context tokens r - stride .. [SEP]        and so on to the end

What a tokenizer puts around a pair of texts is read off one example, so that fast and slow tokenizers of any family are
windowed by the same lines. Where tokenizers say which characters a token stands for they are believed; for the others words
are tokenised one by one, and a token whose text is not found in its word stands for the whole word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.errors import ModelError

WORDS = re.compile(r"\s*\S+")
MARKS = re.compile(r"^(##|▁|Ġ)|(@@|</w>)$")  # what tokenizers put on a piece to say where words begin or go on
NOWHERE = (-1, -1)
"""Characters of a token that is not text of the context, or only white space."""
Span = tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """Token ids around and between two texts, and the segment of every part (None where the model has no segments)."""

    before: list[int]
    between: list[int]
    after: list[int]
    segments: tuple[list[int], int, list[int], int, list[int]] | None

    @property
    def size(self) -> int:
        """Tokens that are neither question nor context."""
        return len(self.before) + len(self.between) + len(self.after)

    def join(self, question: Sequence[int], context: Sequence[int]) -> list[int]:
        """Token ids of a pair."""
        return [*self.before, *question, *self.between, *context, *self.after]

    def segment_ids(self, question: int, context: int) -> list[int] | None:
        """Segments of a pair of that many tokens."""
        if self.segments is None:
            return None
        before, first, between, second, after = self.segments
        return [*before, *[first] * question, *between, *[second] * context, *after]


def frame_of(tokenizer: Any, closed: bool = False) -> Frame:
    """What a tokenizer puts around a pair of texts.

    A tokenizer that puts nothing between them (those of decoders) gets a line break there: a question that runs into the
    text after it is not a text that the model has seen.

    Args:
        tokenizer: fast or slow.
        closed: put an end token after the context where the tokenizer puts nothing.

    Raises:
        ModelError: the tokenizer changes a text when another stands beside it.
    """
    plain = list(tokenizer("x", add_special_tokens=False)["input_ids"])
    pair = tokenizer("x", "x")
    ids, n = list(pair["input_ids"]), len(plain)
    places = [i for i in range(len(ids) - n + 1) if ids[i : i + n] == plain]
    if not n or len(places) < 2:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} does not keep two texts apart, so a question and its context cannot "
            "be told from each other; choose a model with another tokenizer."
        )
    first, second = places[0], places[-1]
    before, between, after = ids[:first], ids[first + n : second], ids[second + n :]
    if not between:
        between = list(tokenizer("\n", add_special_tokens=False)["input_ids"])
    if closed and not after:
        after = [next(i for i in (tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None)]
    types = pair.get("token_type_ids")
    segments = None
    if types is not None:
        segments = (
            types[:first],
            types[first],
            types[first + n : second] or [types[first]] * len(between),
            types[second],
            types[second + n :] or [types[second]] * len(after),
        )
    return Frame(before, between, after, segments)


def pieces(texts: Sequence[str], tokenizer: Any) -> Iterator[tuple[list[int], list[Span]]]:
    """Token ids of each text and the characters that every token stands for, white space at its ends left out.

    Marks that the tokenizer knows (`[SEP]`) are plain text where they occur in a text.
    """
    if not texts:
        return
    if not getattr(tokenizer, "is_fast", False):
        yield from (_word_by_word(text, tokenizer) for text in texts)
        return
    encoded = tokenizer(
        list(texts), add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False,
        split_special_tokens=True, verbose=False,
    )  # fmt: skip
    for text, ids, spans in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        yield list(ids), [trim(text, int(start), int(end)) for start, end in spans]


def trim(text: str, start: int, end: int) -> Span:
    """A span without white space at its ends; `NOWHERE` if nothing is left."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else NOWHERE


def _word_by_word(text: str, tokenizer: Any) -> tuple[list[int], list[Span]]:
    ids: list[int] = []
    spans: list[Span] = []
    for match in WORDS.finditer(text):
        word = list(tokenizer(match.group(), add_special_tokens=False, split_special_tokens=True)["input_ids"])
        start, end = trim(text, *match.span())
        ids += word
        spans += _within(text, start, end, tokenizer.convert_ids_to_tokens(word))
    return ids, spans


def _within(text: str, start: int, end: int, tokens: Sequence[str]) -> list[Span]:
    """Characters of a word's tokens where each is found after the one before it and together they are the word; else all of it."""
    found: list[Span] = []
    at = start
    for token in tokens:
        piece = MARKS.sub("", token)
        stop = at + len(piece)
        if stop > end or text[at:stop].lower() != piece.lower():
            if piece.isspace():  # the space before a word, of tokenizers that read single characters
                found.append(NOWHERE)
                continue
            return [(start, end)] * len(tokens)
        found.append((at, stop) if piece else NOWHERE)
        at = stop
    return found if at == end else [(start, end)] * len(tokens)


def starts(count: int, room: int, stride: int) -> range:
    """Where the windows over `count` tokens begin, `room` tokens each, neighbours sharing `stride` (at most half a window)."""
    shared = min(stride, room // 2)
    return range(0, max(count - shared, 1), room - shared)


def locate(span: Span, tokens: np.ndarray[Any, Any]) -> Span | None:
    """The first and last of some tokens that a span of characters touches; None if it is not wholly among them.

    Args:
        span: characters [start, end) of the context.
        tokens: characters of each token, [tokens, 2].
    """
    real = np.flatnonzero(tokens[:, 0] >= 0)
    touched = real[(tokens[real, 1] > span[0]) & (tokens[real, 0] < span[1])]
    return (int(touched[0]), int(touched[-1])) if len(touched) else None
