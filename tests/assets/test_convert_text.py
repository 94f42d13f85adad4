"""Converters of running text: R's serialisation, help pages, package descriptions, on files written here."""

from __future__ import annotations

import gzip
import struct
import zlib

import pytest

from tunesmith.assets.convert import help_pages, novels, synopses
from tunesmith.assets.convert.r_data import lazy_database, unserialize
from tunesmith.assets.rows import Dropped
from tunesmith.errors import AssetError


class Writer:
    """R's XDR serialisation, after R Internals 1.8, written the other way round."""

    def __init__(self, version: int = 3) -> None:
        self.head = b"X\n" + struct.pack(">iii", version, 0x00040201, 0x00030500)
        if version == 3:
            self.head += struct.pack(">i", 5) + b"UTF-8"

    @staticmethod
    def chars(text: str | None) -> bytes:
        if text is None:
            return struct.pack(">ii", 9, -1)
        content = text.encode()
        return struct.pack(">ii", 0x00040009, len(content)) + content

    @classmethod
    def text(cls, values) -> bytes:
        return struct.pack(">ii", 16, len(values)) + b"".join(map(cls.chars, values))

    @staticmethod
    def integers(values) -> bytes:
        return struct.pack(f">ii{len(values)}i", 13, len(values), *values)

    @classmethod
    def named(cls, items: dict[str, bytes]) -> bytes:
        names = struct.pack(">ii", 0x402, 1) + cls.chars("names") + cls.text(list(items)) + struct.pack(">i", 254)
        return struct.pack(">ii", 0x213, len(items)) + b"".join(items.values()) + names


def database(books: dict[str, list[str]]) -> tuple[bytes, bytes]:
    data, places = b"", {}
    for name, lines in books.items():
        content = Writer().head + Writer.text(lines)
        packed = struct.pack(">I", len(content)) + zlib.compress(content)
        places[name] = Writer.integers([len(data), len(packed)])
        data += packed
    table = {"variables": Writer.named(places), "references": Writer.named({}), "compressed": Writer.integers([1])}
    return gzip.compress(Writer().head + Writer.named(table)), data


def test_r_values_of_both_versions():
    for version in (2, 3):
        head = Writer(version).head
        assert list(unserialize(head + Writer.text(["é", None, ""]))) == ["é", None, ""]
        assert list(unserialize(head + Writer.integers([1, -2]))) == [1, -2]
        assert list(unserialize(head + struct.pack(">iid", 14, 1, 0.5))) == [0.5]
        assert unserialize(head + Writer.named({"a": Writer.integers([7])})).as_dict() == {"a": [7]}
        latin = struct.pack(">iii", 16, 1, 0x4009) + struct.pack(">i", 1) + b"\xe9"
        assert list(unserialize(head + latin)) == ["é"]


def test_a_symbol_that_was_written_before_is_a_reference():
    tagged = struct.pack(">ii", 0x402, 1) + Writer.chars("names")
    inner = struct.pack(">ii", 0x213, 1) + Writer.integers([5])
    back = struct.pack(">ii", 0x402, 0x1FF) + Writer.text(["b"]) + struct.pack(">i", 254)
    outer = struct.pack(">ii", 0x213, 1) + inner
    # The list's own names come after its content, so the first `names` written is the inner one.
    first = tagged + Writer.text(["a"]) + struct.pack(">i", 254)
    found = unserialize(Writer().head + outer + first + back)
    assert found.as_dict()["b"].as_dict() == {"a": [5]}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"A\n1\n", "expected the XDR format"),
        (b"X\n" + struct.pack(">iii", 4, 0, 0), "serialisation version 4"),
        (Writer().head + struct.pack(">i", 3), "object of type 3"),
        (Writer().head + struct.pack(">ii", 13, 1 << 30), "cut off"),
    ],
)
def test_r_data_that_is_not_read_says_why(content, why):
    with pytest.raises(AssetError, match=why):
        unserialize(content)


def test_a_damaged_lazy_database_is_an_error():
    index, data = database({"a": ["one"]})
    assert lazy_database(index, data) == {"a": ["one"]}
    for broken in [(index[:-9], data), (b"no gzip", data), (index, data[:-3]), (index, b"\0" + data[1:-1] + b"\0")]:
        with pytest.raises(AssetError, match="R data"):
            lazy_database(*broken)
    wrong = struct.pack(">I", 1) + data[4:]
    with pytest.raises(AssetError, match="expected 1"):
        lazy_database(index, wrong)


def test_novels_keep_chapters_apart_and_paragraphs_whole(tmp_path, make_deb):
    long = ["word " * 100] * 5 + [""]
    lines = ["EMMA", "", "CHAPTER I", "", *long, "short", "line", "", "CHAPTER II", "", "end " * 40]
    index, data = database({name: lines if name == "emma" else ["x" * 200] for name in novels.TITLES})
    folder = "usr/lib/R/site-library/janeaustenr/data/"
    deb = make_deb(tmp_path / "a.deb", [(f"{folder}Rdata.rdx", index), (f"{folder}Rdata.rdb", data)])
    rows = list(novels.austen([deb]))
    assert rows[0] == Dropped("title page")
    emma = [row for row in rows[1:] if row["book"] == "Emma"]
    assert [row["text"].split("\n\n")[0] for row in emma] == ["CHAPTER I", "short line", "CHAPTER II"]
    assert emma[0]["text"].count("word") == 500
    assert [row["book"] for row in rows[-5:]] == [title for title in novels.TITLES.values() if title != "Emma"]
    with pytest.raises(AssetError, match="lacks"):
        list(novels.austen([make_deb(tmp_path / "b.deb", [("x", b"")])]))


def test_volume_and_chapter_open_one_passage():
    assert list(novels.passages(["VOLUME I", "", "CHAPTER I", "", "text"])) == ["VOLUME I\n\nCHAPTER I\n\ntext"]
    assert list(novels.passages(["a" * 1999, "", "b", "", "c"])) == ["a" * 1999 + "\n\nb", "c"]


HELP = {
    "scalc/a.html": (
        '<h1 id="hd_id1">Chèn một <b>cột</b> mới</h1><p id="par_id2">Insert a row here.</p>'
        '<p id="par_id3">Bấm <span class="x"><span hidden="true" class="MAC"><span class="k">Command</span></span>'
        '<span hidden="true">Ctrl</span></span>+D để  xoá.</p><p id="par_id4">Ngắn quá</p><p>Không có dấu hiệu nào cả</p>',
        '<h1 id="hd_id1">Insert a new column</h1><p id="par_id2">Insert a row here.</p>'
        '<p id="par_id3">Press Ctrl+D to delete.</p><p id="par_id4">Too short</p>',
    ),
    "swriter/b.html": (
        '<p id="par_id1">Trang này ở cả hai nơi.</p><p id="par_id2">Văn bản của riêng Writer thôi.</p>'
        '<p id="par_id3">Văn bản của riêng Writer thôi.</p><p id="par_id9">Chỉ có trong tiếng Việt.</p>',
        '<p id="par_id1">This page is in both.</p><p id="par_id2">Text of Writer only.</p><p id="par_id3">The same.</p>',
    ),
    "smath/c.html": ('<p id="par_id1">Trang này ở cả hai nơi.</p>', '<p id="par_id1">This page is in both.</p>'),
    "shared/d.html": ('<p id="par_id1">Phần chung của mọi ứng dụng.</p>', '<p id="par_id1">Shared by all.</p>'),
}


def test_help_pages_are_joined_on_file_and_paragraph(tmp_path, make_deb):
    debs = [
        make_deb(
            tmp_path / f"{language}.deb",
            [
                (f"usr/share/libreoffice/help/{language}/text/{name}", page[side].encode())
                for name, page in HELP.items()
            ],
        )
        for side, language in enumerate(("vi", "en-US"))
    ]
    found = list(help_pages.pairs(debs))
    rows = {row["id"]: row for row in found if not isinstance(row, Dropped)}
    assert {key: (row["text"], row["label"], row["english"]) for key, row in rows.items()} == {
        "scalc/a.html#hd_id1": ("Chèn một cột mới", "calc", "Insert a new column"),
        "scalc/a.html#par_id3": ("Bấm Ctrl+D để xoá.", "calc", "Press Ctrl+D to delete."),
        "swriter/b.html#par_id2": ("Văn bản của riêng Writer thôi.", "writer", "Text of Writer only."),
    }
    row = rows["scalc/a.html#hd_id1"]
    assert (row["prompt"], row["completion"]) == ("Translate into Vietnamese: Insert a new column", row["text"])
    assert sorted(drop.why for drop in found if isinstance(drop, Dropped)) == [
        "below 4 words",
        "empty, or not there in English",
        "not translated",
        "part of no one of the five applications",
        "said before",
        "said by several applications",
        "said by several applications",
    ]


STANZAS = """Package: alpha
Description-md5: 0
Description-en: the first letter
 Alpha is the first letter of the Greek
 alphabet, and this package is about
 nothing else, as long as it may be here.
 .
 Features:
  * it is short
    and sweet
  * it is Greek
 .
 - one
 - two

Package: alpha-doc
Description-en: the first letter (documentation)
 Alpha is the first letter of the Greek alphabet, and this package is about nothing else, as long as it may be here.
 .
 This is the documentation.

Package: beta
Description-en: the second letter
 Too short.

Package: gamma
Description-en: transitional package for delta
 This package is here so that nobody who upgrades loses anything, and it can be removed safely at any time.

Package: alpha
Description-en: the first letter, updated
 An update of the description that comes from another list later on, so it does not replace the first one at all.

Package: delta
Description-en: a synopsis that goes on and on and on, until it is no synopsis any more and nobody could use it for anything
 A description that nobody wrote a synopsis of, because some tool has put a long part of the text there instead of one.

Package: epsilon
Description-de: etwas anderes
 Etwas anderes.
"""


def test_synopses_unwrap_paragraphs_and_keep_one_of_a_family(tmp_path):
    (tmp_path / "t").write_text(STANZAS)
    rows = list(synopses.descriptions([tmp_path / "t"]))
    document = (
        (
            "Alpha is the first letter of the Greek alphabet, and this package is about nothing else, as long as it may be "
            "here.\n\nFeatures:\n  * it is short\n    and sweet\n  * it is Greek\n\n- one\n- two"
        )
        .replace("\n  *", "\n *")
        .replace("\n    and", "\n   and")
    )
    assert rows == [
        Dropped("same first paragraph or synopsis as another package"),
        Dropped("description below 100 characters"),
        Dropped("synopsis above 100 characters"),
        Dropped("tells nothing (transitional, debug symbols, metapackage)"),
        {"document": document, "summary": "the first letter", "package": "alpha"},
    ]
