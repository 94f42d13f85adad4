"""Descriptions of Debian packages as summarization: the long description, and the synopsis its maintainer wrote of it.

    Package: bat                          -> document  bat is a `cat` clone with syntax highlighting. ...
    Description-en: cat(1) clone with wings  summary   cat(1) clone with wings
     bat is a `cat` clone with syntax
     highlighting.
     .
     It integrates with git.

A line that starts with one more space stands as it is, the others of a paragraph are one text (Debian policy 5.6.13).
The packages of one source (`x`, `x-doc`, `x-dev`) often share their first paragraph, so of descriptions with the same
first paragraph or the same synopsis only the first by name is kept: no row has a near twin on the other side of a split.
Rows are ordered by a hash, so that any head of the file is a fair mixture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tunesmith.assets.rows import Dropped, Row, by_hash

SHORTEST = 100  # characters of a description that is worth a summary
LONGEST_SYNOPSIS = 100  # characters; policy asks for less than 80, and some tools fill in the whole description
_NOTHING_TOLD = re.compile(r"transitional|dummy package|debug(ging)? symbols|metapackage", re.IGNORECASE)


def descriptions(archives: Sequence[Path]) -> Iterator[Row | Dropped]:
    """`document`, `summary` and `package` of every description that tells something."""
    stanzas: dict[str, tuple[str, list[str]]] = {}
    for block in archives[0].read_text(encoding="utf-8").split("\n\n"):
        package, synopsis, lines = _stanza(block)
        if package:
            stanzas.setdefault(package, (synopsis, lines))  # the release comes before its updates
    seen: set[str] = set()
    rows = []
    for package in sorted(stanzas):
        synopsis, lines = stanzas[package]
        document = unwrapped(lines)
        opening = document.partition("\n\n")[0]
        if _NOTHING_TOLD.search(synopsis):
            yield Dropped("tells nothing (transitional, debug symbols, metapackage)")
        elif len(document) < SHORTEST:
            yield Dropped(f"description below {SHORTEST} characters")
        elif len(synopsis) > LONGEST_SYNOPSIS:
            yield Dropped(f"synopsis above {LONGEST_SYNOPSIS} characters")
        elif opening in seen or synopsis in seen:
            yield Dropped("same first paragraph or synopsis as another package")
        else:
            rows.append({"document": document, "summary": synopsis, "package": package})
        seen |= {opening, synopsis}
    yield from by_hash(rows, "package")


def unwrapped(lines: Sequence[str]) -> str:
    """The long description: paragraphs on one line each, lists and examples as they are."""
    out: list[str] = []
    joins = False
    for line in lines:
        text = line[1:].rstrip()
        if text == ".":
            out.append("")
            joins = False
        elif joins and not text.startswith(" ") and not re.match(r"[-*+] ", text):
            out[-1] += " " + text
        else:
            out.append(text)
            joins = not text.startswith(" ")
    return "\n".join(out).strip()


def _stanza(block: str) -> tuple[str, str, list[str]]:
    package = synopsis = ""
    lines: list[str] = []
    inside = False
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        if line.startswith(" "):
            if inside:
                lines.append(line)
            continue
        inside = name == "Description-en"
        if inside:
            synopsis = value.strip()
        elif name == "Package":
            package = value.strip()
    return (package, synopsis, lines) if synopsis else ("", "", [])
