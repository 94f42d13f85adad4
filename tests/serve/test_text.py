"""Pieces of text add up to the whole text, with no half characters and nothing of a stop string."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tunesmith.artifacts.detokenise import BROKEN, Detokeniser
from tunesmith.serve.text import StopStrings, token_text
from tunesmith.testing.models import tiny_tokenizer

TEXTS = [
    "Tiếng Việt có dấu: phở, bún chả, Nguyễn Thị Hạnh.",
    "emoji 👩‍👩‍👧 and 漢字, then plain text",
    "  two blanks\n\nand lines",
    "é",
]


def byte_level() -> Any:
    """A vocabulary of single bytes: every character that is not ASCII falls apart."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")


def byte_fallback() -> Any:
    """SentencePiece's way: words that begin with a mark for the blank, and bytes for what the vocabulary lacks."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁plain", "▁text", "▁", "and", "e"]
    core = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_bytes_add_up_to_the_text(text: str) -> None:
    tokenizer = byte_level()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(text.encode())
    made = Detokeniser(tokenizer)
    pieces = [made.add(token) for token in ids]
    assert "".join(pieces) + made.finish() == text
    assert not any(BROKEN in piece for piece in pieces)


def test_a_cut_character_is_shown_as_broken_at_the_end_and_not_before() -> None:
    tokenizer = byte_level()
    ids = tokenizer("aế", add_special_tokens=False)["input_ids"]
    made = Detokeniser(tokenizer)
    assert [made.add(token) for token in ids[:3]] == ["a", "", ""]
    assert made.finish() == BROKEN


def test_bytes_that_are_no_text_do_not_wait_forever() -> None:
    tokenizer = byte_level()
    broken = tokenizer.convert_tokens_to_ids("Ĥ")
    made = Detokeniser(tokenizer)
    shown = "".join(made.add(broken) for _ in range(40))
    assert 24 <= len(shown) <= 40
    assert set(shown) == {BROKEN}


def test_a_prompt_may_end_inside_a_character() -> None:
    tokenizer = byte_level()
    ids = tokenizer("ệ!", add_special_tokens=False)["input_ids"]
    made = Detokeniser(tokenizer, ids[:2])
    assert [made.add(token) for token in ids[2:]] == ["ệ", "!"]


def test_a_blank_before_a_word_depends_on_what_stands_before_it() -> None:
    tokenizer = byte_fallback()
    plain, text = tokenizer.convert_tokens_to_ids(["▁plain", "▁text"])
    nothing, behind = Detokeniser(tokenizer), Detokeniser(tokenizer, [plain])
    assert [nothing.add(plain), nothing.add(text)] == ["plain", " text"]
    assert [behind.add(text), behind.add(plain)] == [" text", " plain"]
    parts = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in "ở".encode()])
    assert [behind.add(part) for part in parts] == ["", "", "ở"]


def test_words_are_parted_by_blanks() -> None:
    tokenizer = tiny_tokenizer(False)
    ids = tokenizer("a good film phim hay", add_special_tokens=False)["input_ids"]
    made = Detokeniser(tokenizer)
    assert "".join(made.add(token) for token in ids) == "a good film phim hay"


def test_stop_strings_match_a_plain_search_however_the_text_is_cut() -> None:
    dice = random.Random(0)
    for _ in range(400):
        text = "".join(dice.choice("ab.") for _ in range(dice.randrange(14)))
        stops = ["".join(dice.choice("ab.") for _ in range(dice.randrange(1, 5))) for _ in range(dice.randrange(3))]
        at = min((i for i in map(text.find, stops) if i >= 0), default=None)
        expected = text if at is None else text[:at]
        guard, shown, rest = StopStrings(stops), "", text
        while rest and not guard.stopped:
            size = dice.randrange(1, 4)
            piece, rest = rest[:size], rest[size:]
            shown += guard.add(piece)
            assert expected.startswith(shown)
        shown += guard.finish()
        # A string that is whole before an earlier one that is still growing stops at once: it is what came first.
        if shown != expected:
            assert guard.stopped and any(text[len(shown) :].startswith(stop) for stop in stops)
        assert guard.stopped == (at is not None)


def test_tokens_have_their_true_bytes() -> None:
    tokenizer = byte_level()
    ids = tokenizer("aở", add_special_tokens=False)["input_ids"]
    found = [token_text(tokenizer, token) for token in ids]
    assert found[0] == ("a", [97])
    assert bytes(b for _, many in found for b in many).decode() == "aở"
    assert token_text(byte_fallback(), byte_fallback().convert_tokens_to_ids("▁text")) == (" text", list(b" text"))
