"""How several tasks become one step: projected gradients and learned noises by hand, mixing by count."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.stream import Stage
from tunesmith.training.feed import MixedFeed
from tunesmith.training.precision import Masters
from tunesmith.training.weighting import PCGrad, Uncertainty


def masters(dtype: torch.dtype = torch.float32) -> Masters:
    model = torch.nn.Linear(2, 1, bias=False)
    return Masters(model, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]),  # no conflict: the sum
        ([1.0, 0.0], [-1.0, 1.0], [0.5, 1.5]),  # g1 -> (0.5, 0.5), g2 -> (0, 1)
        ([1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]),  # straight against each other: nothing is left
    ],
)
def test_conflicting_gradients_are_projected(first: Any, second: Any, wanted: Any, dtype: torch.dtype) -> None:
    learned = masters(dtype)
    projecting = PCGrad(["a", "b"], 0)
    for part, gradient in (("a", first), ("b", second)):
        learned.set_gradient("weight", torch.tensor([gradient]))
        projecting.after_part(part, float, learned)
    projecting.finish(learned, 0)
    assert learned.tensors["weight"].grad.flatten().tolist() == pytest.approx(wanted)


def test_heads_of_their_own_take_no_part() -> None:
    """Straight against each other in what both have: nothing of that is left, whatever their own heads want."""
    learned = Masters(
        torch.nn.ModuleDict({"w": torch.nn.Linear(2, 1, bias=False), "head": torch.nn.Linear(1, 1, bias=False)}),
        torch.float32,
    )
    projecting = PCGrad(["a", "b"], 0)
    learned.set_gradient("w.weight", torch.tensor([[1.0, 0.0]]))
    projecting.after_part("a", float, learned)
    learned.set_gradient("w.weight", torch.tensor([[-1.0, 0.0]]))
    learned.set_gradient("head.weight", torch.tensor([[3.0]]))
    projecting.after_part("b", float, learned)
    projecting.finish(learned, 0)
    assert learned.tensors["w.weight"].grad.flatten().tolist() == pytest.approx([0.0, 0.0])
    assert learned.tensors["head.weight"].grad.flatten().tolist() == pytest.approx([3.0])


def test_the_noise_of_a_task_settles_where_its_loss_says() -> None:
    """exp(-s) L + s / 2 is least at s = log(2 L): a task with a large loss counts less."""
    weighting = Uncertainty(["a", "b"], 0)
    for step in range(3000):
        for part, loss in (("a", 2.0), ("b", 0.25)):
            weighting.after_part(part, lambda loss=loss: loss, None)  # type: ignore[arg-type]
        weighting.finish(None, step)  # type: ignore[arg-type]
    assert weighting.factor("a") == pytest.approx(1 / 4.0, rel=0.02)
    assert weighting.factor("b") == pytest.approx(1 / 0.5, rel=0.02)
    assert weighting.factor("replay:a") == 1.0
    again = Uncertainty(["a", "b"], 0)
    again.load_state_dict(weighting.state_dict())
    assert again.factor("a") == weighting.factor("a")


@pytest.mark.parametrize(
    ("mixing", "temperature", "wanted"),
    [("proportional", 1.0, 100.0), ("equal", 1.0, 1.0), ("temperature", 2.0, 10.0), ("temperature", 1.0, 100.0)],
)
def test_shares(mixing: str, temperature: float, wanted: float) -> None:
    tasks = [{"name": name, "train": "x.csv"} for name in ("small", "large")]
    stage = Stage.model_validate({"tasks": tasks, "mixing": mixing, "temperature": temperature})
    shares = stage.shares({"small": 100, "large": 10_000, "of another stage": 5})
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["large"] / shares["small"] == pytest.approx(wanted)


def feeds(shares: dict[str, float]) -> MixedFeed:
    def feed(name: str) -> Any:
        def steps(first: int, total: int) -> Any:
            yield from (np.asarray([i]) for i in range(first, first + 10_000))

        return SimpleNamespace(
            order=SimpleNamespace(batch_size=4, steps=steps),
            cut=lambda indices, step: [SimpleNamespace(rows=indices, part="", weight=1.0)],
        )

    return MixedFeed({name: feed(name) for name in shares}, shares, {"a": 1.0, "b": 3.0}, 1000)


def test_slots_follow_the_shares_exactly_and_continue_where_they_stopped() -> None:
    mixed = feeds({"a": 9.0, "b": 1.0})
    counts: Counter[str] = Counter()
    whole = []
    for step in mixed.steps(0, 100):
        for each in step:
            counts[each.part] += len(each.rows)
            assert each.weight == pytest.approx((3.0 if each.part == "b" else 1.0) * len(each.rows) / 4)
        whole.append([(each.part, each.rows.tolist()) for each in step])
    assert counts == {"a": 360, "b": 40}
    resumed = [
        [(each.part, each.rows.tolist()) for each in step] for step in feeds({"a": 9.0, "b": 1.0}).steps(37, 100)
    ]
    assert resumed == whole[37:]
    assert math.isclose(mixed.shares.sum(), 1.0)
