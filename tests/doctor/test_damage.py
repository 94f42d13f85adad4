"""Damage of encoding: every accented letter misread once and twice is seen, and proper text of many languages is not."""

from __future__ import annotations

import unicodedata

import pytest
from test_planted import misread

from tunesmith.doctor.case import Case, Part
from tunesmith.doctor.general.damage import ROW_CHECKS, is_mojibake

VIETNAMESE = "àáảãạăằắẳẵặâầấẩẫậèéẻẽẹêềếểễệìíỉĩịòóỏõọôồốổỗộơờớởỡợùúủũụưừứửữựỳýỷỹỵđ"
PROPER = [
    "Tiếng Việt có dấu: không, được, người, đường, nghĩa.", "ĐÃ… RỒI! CÁI NÀY À? “KHÔNG Ổ”", "ÂM NHẠC VÀ NGHỆ THUẬT “VĨ ĐẠI”",
    "VOILÀ « le café » — déjà vu, ÊTRE, ÇA VA, GARÇON", "NÃO, São Paulo; “AÇÃO” e emoção", "MÜNCHEN, Straße, Äpfel, Öl", "Ångström, ÅR, ÆRØ",
    "Ελληνικά κείμενο", "Привет, мир!", "مرحبا بالعالم", "你好，世界。", "こんにちは", "안녕하세요", "🙂 👩‍👩‍👧 emoji", "10 °C, 5 µm, ±3 €, ½", "naïve “quotes” — it’s",
    "می‌خواهم",  # the joiner is how Persian is written
]  # fmt: skip


def codes(*texts: str) -> dict[str, tuple[int, ...]]:
    case = Case("text-classification", {"train": Part.of([{"text": text} for text in texts])}, ("text",), ("text",))
    return {finding.code: finding.rows for check in ROW_CHECKS for finding in check(case)}


@pytest.mark.parametrize("letter", VIETNAMESE + VIETNAMESE.upper() + "éüñçßøåžşğč’“–€")
def test_misread_letters_are_seen(letter: str) -> None:
    once = misread(f"a{letter}b c")
    assert is_mojibake(once), once
    assert is_mojibake(misread(once))


@pytest.mark.parametrize("text", PROPER)
def test_proper_text_is_left_alone(text: str) -> None:
    assert not is_mojibake(text)
    assert codes(text) == {}


def test_each_kind_is_named() -> None:
    assert codes("fine", "caf\ufffd")["replacement-character"] == (2,)
    assert codes("Q&A at AT&T", "R&amp;D")["html"] == (2,)
    assert codes("a < b > c", "a<br>b")["html"] == (2,)
    assert codes("tab\tand\nline", "zero\u200bwidth", "\x07", "\u202ea")["invisible"] == (2, 3, 4)


def test_the_rarer_form_is_named_whichever_it_is() -> None:
    composed, decomposed = "tiếng Việt", unicodedata.normalize("NFD", "tiếng Việt")
    assert codes(composed, composed, decomposed)["mixed-unicode"] == (3,)
    assert codes(decomposed, composed, decomposed)["mixed-unicode"] == (2,)
    assert codes(decomposed, decomposed, "ascii") == {}  # all in one form
    # As Windows-1258 has it: the vowel composed, the tone not.
    assert codes(composed, composed, "ti\u00ea\u0301ng")["mixed-unicode"] == (3,)
