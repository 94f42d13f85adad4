"""LibreOffice's help in two languages, joined on file and paragraph: translation pairs, Vietnamese text, and its topic.

    .../help/en-US/text/scalc/guide/x.html   <p id="par_id1">Insert a column.</p>
    .../help/vi/text/scalc/guide/x.html      <p id="par_id1">Chèn một cột.</p>      -> label `calc`

More than half of the help is not translated; such paragraphs are the same in both, or have no Vietnamese letter. The
label is the application whose help a paragraph is part of; help shared by all, and that of small modules, has none and
is left out. Rows are ordered by a hash, so that any head of the file is a fair mixture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

from tunesmith.assets.archive import deb_members
from tunesmith.assets.rows import Dropped, Row, by_hash

TOPICS = {"sbasic": "basic", "scalc": "calc", "simpress": "impress", "smath": "math", "swriter": "writer"}
FEWEST_WORDS = 4
REQUEST = "Translate into Vietnamese: "
_ROOT = "usr/share/libreoffice/help/"
_PARAGRAPH = re.compile(r"(par|hd)_id\w+$")
_TAGS = {"p", "h1", "h2", "h3", "h4", "h5", "h6"}
# Letters that Vietnamese has and French, Spanish or German words in an English text do not.
_VIETNAMESE = re.compile("[ăđơưảãạằắẳẵặầấẩẫậẻẽẹềếểễệỉĩịỏõọồốổỗộờớởỡợủũụừứửữựỳỷỹỵ]", re.IGNORECASE)


def pairs(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
    """`text` and `label`, `prompt` and `completion`, `english` and `id` of every translated paragraph of five topics."""
    vietnamese, english = (_paragraphs(deb, language) for deb, language in zip(archives, ("vi", "en-US"), strict=True))
    topics: dict[str, set[str]] = {}
    for (file, _), text in vietnamese.items():
        topics.setdefault(text, set()).add(file.partition("/")[0])
    rows: dict[str, Row] = {}
    for (file, mark), text in sorted(vietnamese.items()):
        source = english.get((file, mark), "")
        module = file.partition("/")[0]
        if not (source and text):
            yield Dropped("empty, or not there in English")
        elif text == source or not _VIETNAMESE.search(text):
            yield Dropped("not translated")
        elif module not in TOPICS:
            yield Dropped("part of no one of the five applications")
        elif len(text.split()) < FEWEST_WORDS:
            yield Dropped(f"below {FEWEST_WORDS} words")
        elif text in rows:
            yield Dropped("said before")
        elif len(topics[text] & TOPICS.keys()) > 1:
            yield Dropped("said by several applications")
        else:
            rows[text] = {
                "text": text,
                "label": TOPICS[module],
                "prompt": REQUEST + source,
                "completion": text,
                "english": source,
                "id": f"{file}#{mark}",
            }
    yield from by_hash(rows.values(), "id")


def _paragraphs(deb: Path, language: str) -> dict[tuple[str, str], str]:
    root = f"{_ROOT}{language}/text/"
    found = {}
    for name, content in deb_members(deb, lambda path: path.startswith(root) and path.endswith(".html")):
        page = Page()
        page.feed(content.decode("utf-8"))
        for mark, text in page.paragraphs.items():
            found[name.removeprefix(root), mark] = text
    return found


class Page(HTMLParser):
    """Text of the marked paragraphs and headings of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: dict[str, str] = {}
        self._mark = self._tag = ""
        self._held: list[str] = []
        self._spans = self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Enter a paragraph or a span of it."""
        given = dict(attrs)
        mark = given.get("id") or ""
        if tag in _TAGS and _PARAGRAPH.match(mark):
            self._mark, self._tag, self._held, self._spans, self._hidden = mark, tag, [], 0, 0
        elif tag == "span" and self._mark:
            self._spans += 1
            # Keys of a Mac stand beside those of the others; a browser shows one of the two.
            if "MAC" in (given.get("class") or "").split() and not self._hidden:
                self._hidden = self._spans
        elif tag == "br" and self._mark:
            self._held.append(" ")

    def handle_endtag(self, tag: str) -> None:
        """Leave it."""
        if tag == "span" and self._mark:
            if self._hidden == self._spans:
                self._hidden = 0
            self._spans -= 1
        elif self._mark and tag == self._tag:
            # A page that another embeds may be there twice; both are the same.
            self.paragraphs.setdefault(self._mark, " ".join("".join(self._held).split()))
            self._mark = ""

    def handle_data(self, data: str) -> None:
        """Keep what is read by people."""
        if self._mark and not self._hidden:
            self._held.append(data)
