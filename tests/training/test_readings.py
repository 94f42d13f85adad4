"""Numbers of steps that are read together: the same as read at once, and nothing is learned after one that is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.training.diverged import Diverged
from tunesmith.training.feed import Pass
from tunesmith.training.readings import Readings

ROWS = Pass(None, None, {}, 1.0, 3, np.asarray([4, 7]))  # type: ignore[arg-type]


def losses(values: list[float]) -> list[torch.Tensor]:
    return [torch.tensor(value) for value in values]


def late() -> Readings:
    """As on a GPU, whose numbers wait; a CPU's stand in for them."""
    found = Readings(torch.device("cpu"), 0.1)
    found._bad = torch.zeros(())
    return found


@pytest.mark.parametrize("make", [lambda: Readings(torch.device("cpu"), 0.1), late])
def test_a_step_is_the_sum_of_its_parts_means_by_their_weights(make: Any) -> None:
    readings, optimizer = make(), torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], fused=True)
    for step, scale in enumerate((1.0, 10.0), 1):
        readings.begin(step, 0.1)
        for values, units, weight in (([2.0, 4.0], 3.0, 0.5), ([6.0], 2.0, 2.0)):
            found = [readings.check(each, ROWS) for each in losses([scale * v for v in values])]
            readings.part(found, [ROWS] * len(found), units, weight)
        assert readings.last() == pytest.approx(scale * 6.0)
        readings.hold_back(optimizer, torch.tensor(scale))
    assert readings.fetch() == pytest.approx([7.0, 70.0])
    assert readings.norm == 10.0
    assert readings.fetch() == [] and readings.norm == 10.0


def test_a_cpu_refuses_at_once() -> None:
    readings = Readings(torch.device("cpu"), 0.1)
    readings.begin(3, 0.05)
    with pytest.raises(Diverged, match=r"the loss is nan at step 3, at a learning rate of 0\.05") as caught:
        readings.check(torch.tensor(float("nan")), ROWS)
    assert (caught.value.step, caught.value.rows) == (3, {"": [4, 7]})
    with pytest.raises(Diverged, match="the gradient's norm is inf at step 3"):
        readings.hold_back(None, torch.tensor(float("inf")))


def test_a_gpu_holds_the_optimiser_back_until_it_is_read() -> None:
    readings, weight = late(), torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    for step, (loss, moves) in enumerate(((1.0, True), (float("inf"), False), (1.0, False)), 1):
        before = weight.detach().clone()
        readings.begin(step, 0.1)
        readings.part([readings.check(torch.tensor(loss), ROWS)], [ROWS], 1.0, 1.0)
        weight.grad = torch.ones(3)
        readings.hold_back(optimizer, torch.tensor(1.0))
        optimizer.step()
        assert torch.equal(before, weight) != moves
    with pytest.raises(Diverged, match="the loss is inf at step 2") as caught:
        readings.fetch()
    assert caught.value.rows == {"": [4, 7]}


def test_a_gpu_holds_the_optimiser_back_for_a_gradient_too() -> None:
    readings, weight = late(), torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    readings.begin(1, 0.1)
    readings.part([readings.check(torch.tensor(1.0), ROWS)], [ROWS], 1.0, 1.0)
    weight.grad = torch.full((3,), float("inf"))
    readings.hold_back(optimizer, torch.tensor(float("inf")))
    optimizer.step()
    assert torch.equal(weight, torch.ones(3))
    with pytest.raises(Diverged, match="the gradient's norm is inf at step 1"):
        readings.fetch()
