"""Text that was damaged on its way: read in the wrong encoding, half escaped, in two Unicode forms, with invisible marks.

A model reads such characters as rare tokens, and the same word in two forms as two words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from tunesmith.doctor.case import Case, Part
from tunesmith.doctor.finding import Finding, rows_that

# What the bytes 0x80-0xBF look like where UTF-8 was read as Windows-1252, or as Latin-1 for the bytes that it lacks.
_TAIL_CHARACTERS = "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in range(0x80, 0xC0))
_TAIL = f"[{re.escape(_TAIL_CHARACTERS)}\x80-\x9f]"
# Lead bytes of the letters, marks and signs that people write: Latin, combining, Greek, Cyrillic, Hebrew, Arabic; then three
# bytes (Vietnamese, punctuation, CJK), then four (emoji).
LONG = re.compile(rf"[à-ï]{_TAIL}{{2}}|ð{_TAIL}{{3}}|á[ºÂ»]|Ã¡[Âº»]")
PAIR = re.compile(rf"[ÂÃÄÅÆÌÍÎÏÐÑ×ØÙ]({_TAIL})")
# Marks that may well follow a capital letter in a proper text: quotes, an ellipsis, a dash, a no-break space.
AFTER_A_WORD = frozenset("’”“‘‚„…«»–—™®°\xa0")
ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|[lr]s?[dq]?quo|hellip|[mn]dash|#\d{2,6}|#x[0-9a-fA-F]{2,5});|<br\s*/?>"
)
# Joiners (U+200C, U+200D) are left out: Persian, Indic scripts and emoji need them.
INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad\u202a-\u202e\u2066-\u2069\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
C1 = re.compile("[\x80-\x9f]")
COMBINING = re.compile("[\u0300-\u036f]")


def is_mojibake(text: str) -> bool:
    """Whether a text looks like UTF-8 that was read in a one-byte encoding, once or twice."""
    if text.isascii():
        return False
    if LONG.search(text):
        return True
    for match in PAIR.finditer(text):
        if match.group(1) not in AFTER_A_WORD:
            return True
        # `lÃ\xa0` has a capital inside a word, which `ĐÃ…` at the end of one has not.
        before, after = text[: match.start()][-1:], text[match.end() :][:1]
        if before.islower() or (not before.isalpha() and after.islower()):
            return True
    return False


def damage(case: Case) -> Iterator[Finding]:
    """Mojibake, replacement characters, entities and invisible characters."""
    for part in case.parts.values():
        found: dict[str, list[int]] = {"mojibake": [], "replacement-character": [], "html": [], "invisible": []}
        for i, text in enumerate(case.texts(part)):
            broken = is_mojibake(text)
            if broken:
                found["mojibake"].append(i)
            if "\ufffd" in text:
                found["replacement-character"].append(i)
            if ("&" in text or "<" in text) and ENTITY.search(text):
                found["html"].append(i)
            if INVISIBLE.search(text) or (not broken and not text.isascii() and C1.search(text)):
                found["invisible"].append(i)
        for code, rows in found.items():
            if rows:
                yield _said(part, code, rows, case.texts(part)[rows[0]])


def _said(part: Part, code: str, rows: list[int], text: str) -> Finding:
    count = len(rows)
    if code == "mojibake":
        match = LONG.search(text) or PAIR.search(text)
        around = text[max(0, match.start() - 10) : match.end() + 10] if match else text[:20]
        what = f"{rows_that(count, 'look')} like text that was read in the wrong encoding (`{around.strip()}`)"
        return part.finding(
            "warning", code, rows, what, "read the source again in its own encoding, or mend it with ftfy"
        )
    if code == "replacement-character":
        what = f"{rows_that(count, 'hold')} U+FFFD, where characters were lost"
        return part.finding("warning", code, rows, what, "read the source in its own encoding again")
    if code == "html":
        match = ENTITY.search(text)
        what = f"{rows_that(count, 'hold')} HTML entities or line breaks (`{match.group() if match else ''}`)"
        return part.finding(
            "warning", code, rows, what, "unescape them (html.unescape), unless the model should write HTML"
        )
    match = INVISIBLE.search(text) or C1.search(text)
    sign = f"U+{ord(match.group()):04X}" if match else ""
    what = f"{rows_that(count, 'hold')} invisible characters (zero width, direction or control, such as {sign})"
    return part.finding("warning", code, rows, what, "remove them")


def mixed_forms(case: Case) -> Iterator[Finding]:
    """Accented letters composed (NFC) in some rows and decomposed in others; the rarer form is named."""
    composed: dict[str, list[int]] = {}
    decomposed: dict[str, list[int]] = {}
    for role, part in case.parts.items():
        composed[role], decomposed[role] = [], []
        for i, text in enumerate(case.texts(part)):
            if text.isascii():
                continue
            if COMBINING.search(text) and not unicodedata.is_normalized("NFC", text):
                decomposed[role].append(i)
            elif not unicodedata.is_normalized("NFD", text):
                composed[role].append(i)
    if not any(composed.values()) or not any(decomposed.values()):
        return
    fewer = min((decomposed, composed), key=lambda form: sum(map(len, form.values())))
    names = ("decomposed (NFD)", "composed (NFC)")
    this, other = names if fewer is decomposed else names[::-1]
    for role, rows in fewer.items():
        if rows:
            part = case.parts[role]
            yield part.finding(
                "warning", "mixed-unicode", rows, f"{rows_that(len(rows), 'write')} accented letters {this}, the others {other}",
                "bring all text into one form: unicodedata.normalize('NFC', text)",
            )  # fmt: skip


ROW_CHECKS = [damage, mixed_forms]
