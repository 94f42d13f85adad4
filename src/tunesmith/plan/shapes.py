"""Which forward passes a run is made of, known from the lengths of its rows alone: nothing is put together for it.

The order of the rows, the cut into batches and the cut of a batch into passes are functions of lengths and seed (`data.batching`), so the plan sees
the very passes that training will take. Of a long run the first `SEEN` steps stand for the rest: their order is random.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.training.feed import Feed, MixedFeed

SEEN = 200  # steps


@dataclass(frozen=True)
class Shape:
    """One forward pass to come.

    Attributes:
        feed: that will make it.
        places: which of its features (or packed sequences).
        step: of which optimiser step.
    """

    feed: Feed
    places: np.ndarray[Any, Any]
    step: int

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(self.places)

    @property
    def length(self) -> int:
        """Tokens of a row, padding included."""
        return int(self.feed.lengths[self.places].max())

    @property
    def area(self) -> int:
        """Positions, padding included."""
        return self.rows * self.length

    def few(self, rows: int) -> Shape:
        """The same with at most so many rows, the longest of them."""
        order = np.argsort(-self.feed.lengths[self.places], kind="stable")
        return Shape(self.feed, self.places[order[:rows]], self.step)


def shapes(feed: Feed | MixedFeed, total: int) -> list[list[Shape]]:
    """The passes of each step, of the first `SEEN` of `total` steps at most."""
    return list(_steps(feed, min(total, SEEN)))


def _steps(feed: Feed | MixedFeed, total: int) -> Iterator[list[Shape]]:
    if isinstance(feed, MixedFeed):
        for step, drawn in enumerate(feed.drawn(0, total)):
            yield [
                Shape(feed.feeds[name], places, step)
                for name, (indices, _) in drawn.items()
                for places in feed.feeds[name].layout(indices)
            ]
        return
    for step, indices in enumerate(feed.order.steps(0, total)):
        yield [Shape(feed, places, step) for places in feed.layout(indices)]


def largest(feed: Feed | MixedFeed, steps: list[list[Shape]], total: int) -> Shape:
    """The pass with the most positions; where not all steps are seen, or epochs are cut differently, one of the longest rows.

    Args:
        feed: of the run.
        steps: what `shapes` gave.
        total: steps of the run.
    """
    seen = max((shape for step in steps for shape in step), key=lambda shape: shape.area)
    if total <= len(steps):
        return seen
    feeds = list(feed.feeds.values()) if isinstance(feed, MixedFeed) else [feed]
    worst = [seen]
    for each in feeds:
        longest = np.argsort(-each.lengths, kind="stable")[: max(1, min(each.micro, each.order.batch_size))]
        worst += [Shape(each, places, 0) for places in each.layout(longest)]
    return max(worst, key=lambda shape: shape.area)
