"""Interpolated modified Kneser-Ney n-gram model, counted and queried with numpy alone.

    p_n(w | h) = max(a(h w) - D(a(h w)), 0) / a(h .) + g(h) p_(n-1)(w | h'),      h' = h without its first token
    g(h)       = (D1 N1(h .) + D2 N2(h .) + D3 N3+(h .)) / a(h .)
    p_0(w)     = 1 / V

    a(h w)     the count at the highest order and for n-grams at the start of a document, else the number of different
               tokens seen before h w                              (Kneser & Ney 1995)
    Nk(h .)    different tokens w with a(h w) = k; N3+ three and more
    Dk         k - (k + 1) Y t_(k+1) / t_k,  Y = t_1 / (t_1 + 2 t_2),  t_k n-grams of that order with a = k
                                                                   (Chen & Goodman 1999, section 3 and equation 26)

Counts stay within documents, which begin with one start token that is never predicted, as in KenLM (Heafield et al. 2013,
sections 2 and 3). There the estimation runs on disk for corpora of any size; here an n-gram is a number: the pair (number of
its context, last token) made dense by `np.unique`, order after order, so that nothing loops over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
FALLBACK = (0.5, 1.0, 1.5)  # discounts where counts of counts are too few to estimate them, as in KenLM


@dataclass
class Order:
    """The n-grams of one order, numbered by their (context, token).

    Attributes:
        keys: context number x (V + 1) + token, ascending; a position in it is an n-gram's number.
        suffix: number of the n-gram without its first token, in the order below.
        gain: max(a - D, 0) / a(h .).
        weight: g of each context (numbers of the order below).
        seen: whether that context was ever continued.
        best: most probable token after each context.
    """

    keys: Ints
    suffix: Ints
    gain: Floats
    weight: Floats
    seen: np.ndarray[Any, np.dtype[np.bool_]]
    best: Ints


class KneserNey:
    """An n-gram model over token ids below `vocabulary`.

    Args:
        order: n of the longest n-gram.
        vocabulary: tokens that could be predicted.
        discount: one fixed discount instead of the three estimated ones of each order, for comparisons.
    """

    def __init__(self, order: int, vocabulary: int, discount: float | None = None) -> None:
        self.order, self.vocabulary, self.discount = order, vocabulary, discount
        self.base = vocabulary + 1  # the start token has the number `vocabulary`
        self.orders: list[Order] = []
        self.top: Floats = np.zeros(1)  # while fitting: the highest probability after each context

    def fit(self, documents: Sequence[Any]) -> KneserNey:
        """Count and estimate.

        Args:
            documents: token ids of each, without a start token.
        """
        tokens, place = self._join(documents)
        numbers = [tokens]  # of the n-gram that ends at each position; -1 where it would begin before the document
        keys: list[Ints] = [np.arange(self.base)]
        counts: list[Ints] = [np.bincount(tokens, minlength=self.base)]
        suffixes: list[Ints] = [np.zeros(self.base, np.int64)]
        at_start: list[Any] = [np.arange(self.base) == self.vocabulary]
        for n in range(2, self.order + 1):
            ends = np.flatnonzero(place >= n - 1)
            found, index, count = np.unique(
                numbers[-1][ends - 1] * self.base + tokens[ends], return_inverse=True, return_counts=True
            )
            number = np.full(len(tokens), -1, np.int64)
            number[ends] = index
            suffix, start = np.zeros(len(found), np.int64), np.zeros(len(found), bool)
            suffix[index] = numbers[-1][ends]
            start[index] = place[ends] == n - 1
            numbers.append(number)
            keys.append(found)
            counts.append(count)
            suffixes.append(suffix)
            at_start.append(start)
        below: list[Floats] = []  # p of every n-gram of the order before
        for n in range(1, self.order + 1):
            adjusted = counts[n - 1]
            if n < self.order:
                different = np.bincount(suffixes[n], minlength=len(adjusted))
                adjusted = np.where(at_start[n - 1], adjusted, different)
            if n == 1:
                adjusted[self.vocabulary] = 0  # the start token is a context only
            self.orders.append(self._estimate(n, keys[n - 1], adjusted, suffixes[n - 1], below))
        return self

    @property
    def size(self) -> int:
        """N-grams of all orders."""
        return sum(int((o.gain > 0).sum()) if n == 0 else len(o.keys) for n, o in enumerate(self.orders))

    def score(self, document: Any) -> tuple[Floats, Ints]:
        """Probability of every token of a document, and the most probable token in its place."""
        tokens, place = self._join([document])
        predicted = np.arange(1, len(tokens))
        unigrams = self.orders[0]
        p = unigrams.gain[tokens[1:]] + unigrams.weight[0] / self.vocabulary
        best = np.full(len(predicted), unigrams.best[0])
        context = tokens[:-1].copy()  # number of the (n - 1)-gram before each predicted token, -1 where it was not seen
        number = tokens.copy()  # number of the (n - 1)-gram that ends at each position
        for n in range(2, self.order + 1):
            level = self.orders[n - 1]
            known = (context >= 0) & (place[predicted] >= n - 1)
            known[known] &= level.seen[context[known]]
            key = np.where(known, context, 0) * self.base + tokens[1:]
            at = np.minimum(np.searchsorted(level.keys, key), len(level.keys) - 1)
            there = known & (level.keys[at] == key)
            row = np.where(known, context, 0)
            p = np.where(known, np.where(there, level.gain[at], 0.0) + level.weight[row] * p, p)
            best = np.where(known, level.best[row], best)
            number = np.full(len(tokens), -1, np.int64)
            number[1:] = np.where(there, at, -1)
            context = number[:-1]
        return p, best

    def _join(self, documents: Sequence[Any]) -> tuple[Ints, Ints]:
        """All tokens with a start token before each document, and each position's place in its document."""
        parts = [np.concatenate([[self.vocabulary], np.asarray(d, np.int64)]) for d in documents]
        lengths = np.asarray([len(part) for part in parts], np.int64)
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        return np.concatenate(parts), np.arange(lengths.sum()) - starts

    def _estimate(self, n: int, keys: Ints, adjusted: Ints, suffix: Ints, below: list[Floats]) -> Order:
        """Discount, interpolate with the order below, and find what is most probable after each context.

        Args:
            n: the order.
            keys: of its n-grams.
            adjusted: a of each.
            suffix: of each.
            below: the probabilities of the order below, replaced by this order's.
        """
        discounts = self._discounts(n, adjusted)
        context = keys // self.base if n > 1 else np.zeros(len(keys), np.int64)
        contexts = len(below[0]) if n > 1 else 1
        total = np.bincount(context, adjusted, contexts)
        taken = discounts[np.minimum(adjusted, 3)]  # what each n-gram gives to the order below
        seen = total > 0
        divisor = np.where(seen, total, 1.0)
        gain = (adjusted - taken) / divisor[context]
        weight = np.where(seen, np.bincount(context, taken, contexts) / divisor, 1.0)
        if n == 1:
            p = gain + weight[0] / self.vocabulary
            p[self.vocabulary] = 0.0
            best = np.asarray([p.argmax()])
        else:
            lower = self.orders[-1]
            p = gain + weight[context] * below[0][suffix]
            # After a context either one of the tokens seen there is most probable, or what is so one order below.
            ascending = np.lexsort((p, context))
            last = ascending[np.flatnonzero(np.diff(context[ascending], append=-1))]
            top, best = np.zeros(contexts), np.zeros(contexts, np.int64)
            top[context[last]], best[context[last]] = p[last], keys[last] % self.base
            # Contexts are n-grams of the order below; without their first token they are contexts there.
            shorter = lower.suffix if n > 2 else np.zeros(contexts, np.int64)
            rest = weight * self.top[shorter]
            best = np.where(seen & (top >= rest), best, lower.best[shorter])
        self.top = np.asarray([p.max()]) if n == 1 else np.where(seen, np.maximum(top, rest), self.top[shorter])
        below[:] = [p]
        return Order(keys, suffix, gain, weight, seen, best)

    def _discounts(self, n: int, adjusted: Ints) -> Floats:
        """D by min(a, 3), 0 for a = 0."""
        if self.discount is not None:
            return np.asarray([0.0, *[self.discount] * 3])
        t = np.bincount(np.minimum(adjusted, 5), minlength=6).astype(np.float64)
        if not t[1:5].all():
            return np.asarray([0.0, *FALLBACK])
        y = t[1] / (t[1] + 2 * t[2])
        found = [k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)]
        if not all(0 <= d <= k for k, d in enumerate(found, 1)):
            return np.asarray([0.0, *FALLBACK])
        return np.asarray([0.0, *found])
