"""Tokens that say nothing: the unknown token, and single bytes of characters that a tokenizer does not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tunesmith.doctor.case import Case
from tunesmith.doctor.finding import Finding, share

PART = 0.25  # share of a row's tokens from which the row is named
LEAST = 3  # such tokens in a row that is named
# How byte-level tokenizers (GPT-2's and its kin) write the bytes 0x80-0xFF, which stand alone only in rare characters.
BYTE_LEVEL = [*(chr(c) for c in range(0xA1, 0x100) if c != 0xAD), *(chr(c) for c in range(0x122, 0x144))]
FALLBACK = [f"<0x{byte:02X}>" for byte in range(0x80, 0x100)]


def unknown(case: Case) -> Iterator[Finding]:
    """Rows of which a quarter or more is unknown."""
    tokenizer = case.tokenizer
    if tokenizer is None:
        return
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id not in ends:
        yield from _share(
            case, "unknown-token", [tokenizer.unk_token_id], "is unknown to the model's tokenizer",
            "choose a model whose tokenizer knows this script, or clean the text",
        )  # fmt: skip
    pieces = byte_ids(tokenizer)
    if pieces:
        yield from _share(
            case, "byte-fallback", pieces, "is spelt byte by byte, because the model's tokenizer does not know the characters",
            "choose a model that was trained on this script; sequences are several times as long with this one",
        )  # fmt: skip


def byte_ids(tokenizer: Any) -> list[int]:
    """Ids of single bytes that are no character of their own."""
    known = set(tokenizer.get_added_vocab().values()) | {tokenizer.unk_token_id, None}
    names = BYTE_LEVEL if _is_byte_level(tokenizer) else FALLBACK
    return sorted({i for i in tokenizer.convert_tokens_to_ids(names) if i not in known})


def _is_byte_level(tokenizer: Any) -> bool:
    return tokenizer.convert_tokens_to_ids("Ġ") not in (None, tokenizer.unk_token_id)


def _share(case: Case, code: str, ids: list[int], what: str, remedy: str) -> Iterator[Finding]:
    special = np.asarray(case.tokenizer.all_special_ids)
    for part in case.parts.values():
        encoded = part.encoded
        if encoded is None or not len(encoded.ids):
            continue
        hit = np.isin(encoded.ids, ids)
        text = encoded.count(~np.isin(encoded.ids, special) | hit)
        counts = encoded.count(hit)
        case.note(part, **{code.replace("-", "_") + "s": float(counts.sum() / max(text.sum(), 1))})
        rows = np.flatnonzero((counts >= LEAST) & (counts >= PART * text))
        if len(rows):
            yield part.finding(
                "warning",
                code,
                rows,
                f"in {share(len(rows), len(part))} rows a quarter or more of the text {what}",
                remedy,
            )


ENCODED_CHECKS = [unknown]
