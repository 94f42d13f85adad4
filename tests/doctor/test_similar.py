"""Near duplicates: what is found is what comparing all pairs finds."""

from __future__ import annotations

import random

import pytest
from clean_rows import Writer

from tunesmith.doctor import similar


def all_pairs(queries: list[tuple[str, ...]], corpus: list[tuple[str, ...]], threshold: float) -> dict[int, float]:
    """The definition: the largest Jaccard index of 5-character pieces, over all pairs."""

    def pieces(text: str) -> set[str]:
        return {text[i : i + 5] for i in range(len(text) - 4)}

    found = {}
    for number, query in enumerate(queries):
        best = max(
            min(len(pieces(a) & pieces(b)) / len(pieces(a) | pieces(b)) for a, b in zip(query, text, strict=True))
            for text in corpus
        )
        if best >= threshold:
            found[number] = best
    return found


def edited(text: str, edits: int, dice: random.Random) -> str:
    letters = list(text)
    for _ in range(edits):
        letters[dice.randrange(len(letters))] = dice.choice("abcxyz")
    return "".join(letters)


@pytest.mark.parametrize("language", ["en", "vi"])
def test_finds_what_comparing_all_pairs_finds(language: str) -> None:
    writer, dice = Writer(language), random.Random(1)
    corpus = [(writer.text(1 + i % 3),) for i in range(120)]
    # From untouched to so many edits that the pair is under the threshold: both sides of it are met.
    queries = [(edited(corpus[i][0], i % 8, dice),) for i in range(120)]
    found, truth = similar.near(queries, corpus), all_pairs(queries, corpus, similar.THRESHOLD)
    assert 20 < len(truth) < 115
    assert set(found) <= set(truth)
    assert len(found) >= 0.97 * len(truth)
    for number, (_, value) in found.items():
        assert value == pytest.approx(truth[number])


def test_the_threshold_is_exact() -> None:
    #  60 different letters make 56 pieces; with one letter exchanged in the middle, 51 of 61 are common.
    text = "".join(chr(0x4E00 + i) for i in range(60))
    other = text[:30] + "x" + text[31:]
    assert similar.jaccard(similar.shingles(text), similar.shingles(other)) == 51 / 61
    assert similar.near([(other,)], [(text,)], 51 / 61) == {0: (0, 51 / 61)}
    assert similar.near([(other,)], [(text,)], 51 / 61 + 1e-9) == {}


def test_all_columns_must_be_alike() -> None:
    """Two questions about one long context are two rows."""
    writer = Writer("en")
    context, question, another = writer.text(4), writer.sentence(), writer.sentence()
    corpus = [(question, context), (writer.sentence(), writer.text(4))]
    assert similar.near([(another, context)], corpus) == {}
    assert set(similar.near([(question, f"{context}!")], corpus)) == {0}


def test_short_texts_are_not_compared() -> None:
    assert similar.near([("turn on the lights",)], [("turn on the light",)]) == {}
    assert similar.near([("",)], [("",)]) == {}
    assert similar.near([], [("a",)]) == {}


def test_long_texts_are_read_to_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    text = Writer("en").text(20)
    monkeypatch.setattr(similar, "BLOCK", 500)  # several blocks give what one gives
    assert set(similar.near([(text + "y",)] * 5, [(text,)] * 3 + [("other words " * 10,)])) == set(range(5))
    monkeypatch.setattr(similar, "LONGEST", 200)
    assert set(similar.near([(text[:200] + "different " * 40,)], [(text,)])) == {0}
