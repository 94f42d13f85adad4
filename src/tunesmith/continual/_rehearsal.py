"""What strategies that learn earlier rows along share: a batch of them in every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tunesmith.continual._base import Strategy
from tunesmith.seeding import derive


class Rehearsal(Strategy):
    """Steps in which rows of earlier stages take part.

    Attributes:
        features: for every kept row its task (`Part`) and its encoded pieces.
    """

    trains_earlier_heads: ClassVar[bool] = True

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.features: list[tuple[Any, list[Any]]] = []

    def extra_batches(self, session: Any, passes: Sequence[Any]) -> list[Any]:
        """A batch of earlier rows, one pass a task; `share` of the batch size, `weight` times their mean loss."""
        if not self.features:
            return []
        rng = np.random.default_rng(derive(session.config.seed, "replay", session.stage, session.step))
        count = max(1, round(self.options.share * session.config.batch_size))
        drawn = rng.choice(len(self.features), size=min(count, len(self.features)), replace=False)
        groups: dict[str, list[int]] = {}
        for index in sorted(map(int, drawn)):
            groups.setdefault(self.features[index][0].name, []).append(index)
        found = []
        for name, members in groups.items():
            part = self.features[members[0]][0]
            features = [piece for i in members for piece in self.features[i][1]]
            if features:
                weight = self.options.weight * len(members) / len(drawn)
                model = session.heads[part.head].model
                each = session.make_pass(part.task, model, features, part=f"replay:{name}", weight=weight)
                found += [each, *self.beside(session, each, members)]
        return found

    def beside(self, session: Any, each: Any, members: Sequence[int]) -> list[Any]:
        """Further passes over the same rows.

        Args:
            session: of the run.
            each: the pass over them.
            members: their places in `features`.
        """
        return []


def encoded(session: Any, part: Any, row: dict[str, Any]) -> list[Any]:
    """A row's pieces as the task reads them now."""
    (pieces,) = list(part.task.encode([row], session.heads.first.tokenizer, part.max_length))
    return [{**piece, "row": 0} for piece in pieces]
