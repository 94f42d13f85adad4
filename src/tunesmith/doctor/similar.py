"""Texts that are almost the same, found without comparing all pairs (MinHash with banding).

    text -> set of its 5-character shingles -> 64 minima -> 16 bands of 4 -> texts that agree in a band are compared exactly

Similarity is the Jaccard index of the shingle sets, |A and B| / |A or B|; a word exchanged in a sentence of 100 characters
leaves about 0.8. Texts of index s agree in at least one band with probability 1 - (1 - s^4)^16: 0.9998 at s = 0.8 (the
minima come from one hash by bins, which makes short texts a little worse). Candidates are checked exactly, so that nothing
is reported that is not so.

Broder 1997; one permutation hashing: Li, Owen & Zhang 2012; filling empty bins from the next: Shrivastava & Li 2014.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

SHINGLE = 5  # characters
THRESHOLD = 0.8
SHORTEST = 30  # characters below which two texts are alike by chance ("turn on the light", "turn on the lights")
LONGEST = 5000  # characters of a text that are looked at
BINS, BAND = 64, 4
CANDIDATES = 16  # exact comparisons a text at most, the likeliest first
BLOCK = 2_000_000  # characters hashed at a time

Array = np.ndarray[Any, Any]
Key = Sequence[str]


def near(queries: Sequence[Key], corpus: Sequence[Key], threshold: float = THRESHOLD) -> dict[int, tuple[int, float]]:
    """For each query the most similar text of the corpus, if there is one above the threshold.

    Args:
        queries: texts in columns; two rows are as similar as their least similar column.
        corpus: rows of the same columns.
        threshold: least Jaccard index.

    Returns:
        query index -> (corpus index, index of similarity).
    """
    if not queries or not corpus:
        return {}
    column = _telling(corpus)
    left, right = _bands([key[column] for key in queries]), _bands([key[column] for key in corpus])
    votes: dict[int, Counter[int]] = {}
    for band in range(BINS // BAND):
        order = np.argsort(right[:, band], kind="stable")
        values = right[order, band]
        first = np.searchsorted(values, left[:, band], "left")
        last = np.minimum(np.searchsorted(values, left[:, band], "right"), first + CANDIDATES)
        for query in np.flatnonzero(last > first).tolist():
            votes.setdefault(query, Counter()).update(order[first[query] : last[query]].tolist())
    shingled: dict[int, list[frozenset[str]]] = {}
    found = {}
    for query, seen in votes.items():
        if _short(queries[query]):
            continue
        mine = [shingles(text) for text in queries[query]]
        best = (-1, 0.0)
        for match, _ in seen.most_common(CANDIDATES):
            if match not in shingled:
                shingled[match] = [shingles(text) for text in corpus[match]]
            value = min(map(jaccard, mine, shingled[match]))
            best = (match, value) if value > best[1] else best
        if best[1] >= threshold:
            found[query] = best
    return found


def shingles(text: str) -> frozenset[str]:
    """The set of overlapping pieces of a text (the text itself where it is shorter than one)."""
    text = text[:LONGEST]
    return frozenset(text[i : i + SHINGLE] for i in range(max(len(text) - SHINGLE + 1, 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """|A and B| / |A or B|; 1 for two empty sets."""
    common = len(one & other)
    return common / (len(one) + len(other) - common) if one or other else 1.0


def _short(key: Key) -> bool:
    return max(map(len, key)) < SHORTEST


def _telling(corpus: Sequence[Key]) -> int:
    """The column that tells rows apart best: most different values, then most text."""
    return max(range(len(corpus[0])), key=lambda c: (len({k[c] for k in corpus}), sum(len(k[c]) for k in corpus)))


def _bands(texts: Sequence[str]) -> Array:
    """A hash of each band of minima, [texts, BINS / BAND]."""
    bands = np.empty((len(texts), BINS // BAND), np.uint64)
    for start, stop in _blocks(texts):
        minima = _minima([text[:LONGEST] for text in texts[start:stop]])
        keys = np.zeros((stop - start, BINS // BAND), np.uint64)
        for place in range(BAND):
            keys = _mix(keys + minima.reshape(stop - start, -1, BAND)[:, :, place])
        bands[start:stop] = keys
    return bands


def _blocks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    start = size = 0
    for i, text in enumerate(texts):
        size += min(len(text), LONGEST)
        if size >= BLOCK:
            yield start, i + 1
            start, size = i + 1, 0
    if start < len(texts):
        yield start, len(texts)


def _minima(texts: Sequence[str]) -> Array:
    """The smallest hash in each bin of a text's shingles, [texts, BINS]; empty bins take the next one's."""
    lengths = np.asarray([len(text) for text in texts])
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    rolled = np.zeros(max(len(codes) - SHINGLE + 1, 0), np.uint64)
    for place in range(SHINGLE):
        rolled = rolled * np.uint64(1_099_511_628_211) + codes[place : place + len(rolled)]
    counts = np.maximum(lengths - SHINGLE + 1, 0)
    owner = np.repeat(np.arange(len(texts)), counts)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    hashes = _mix(rolled[np.repeat(starts, counts) + within])
    none = np.uint64(2**64 - 1)
    table: Array = np.full((len(texts), BINS), none)
    np.minimum.at(table.reshape(-1), owner * BINS + (hashes >> np.uint64(58)).astype(np.int64), hashes)
    filled = table != none
    # The shift keeps a borrowed minimum from looking like one of the bin's own; texts without shingles get their number.
    table[~filled.any(1), 0] = _mix(np.flatnonzero(~filled.any(1)).astype(np.uint64))
    filled[~filled.any(1), 0] = True
    for place in [*range(BINS - 1, -1, -1)] * 2:
        after = (place + 1) % BINS
        take = ~filled[:, place] & filled[:, after]
        table[take, place] = table[take, after] + np.uint64(0x9E3779B97F4A7C15)
        filled[take, place] = True
    return table


def _mix(values: Array) -> Array:
    """A hash of 64-bit numbers whose every bit depends on every bit (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
