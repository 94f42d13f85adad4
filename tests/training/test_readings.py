"""Numbers of steps that are read together: the same as read at once, and nothing is learned after one that is not finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tunesmith.training.readings import Diverged, Readings


def losses(values: list[float]) -> list[torch.Tensor]:
    return [torch.tensor(value) for value in values]


def late() -> Readings:
    """As on a GPU, whose numbers wait; a CPU's stand in for them."""
    found = Readings(torch.device("cpu"), 0.1)
    found._bad = torch.zeros(())
    return found


@pytest.mark.parametrize("make", [lambda: Readings(torch.device("cpu"), 0.1), late])
def test_a_step_is_the_sum_of_its_parts_means_by_their_weights(make: Any) -> None:
    readings = make()
    for scale in (1.0, 10.0):
        readings.begin(0.1)
        for values, units, weight in (([2.0, 4.0], 3.0, 0.5), ([6.0], 2.0, 2.0)):
            readings.part([readings.check(each) for each in losses([scale * v for v in values])], units, weight)
        assert readings.last() == pytest.approx(scale * 6.0)
        readings.end(torch.tensor(scale))
    assert readings.fetch() == pytest.approx([7.0, 70.0])
    assert readings.norm == 10.0
    assert readings.fetch() == [] and readings.norm == 10.0


def test_a_cpu_refuses_at_once() -> None:
    readings = Readings(torch.device("cpu"), 0.1)
    readings.begin(0.05)
    with pytest.raises(Diverged, match=r"the loss is nan at a learning rate of 0\.05"):
        readings.check(torch.tensor(float("nan")))


def test_a_gpu_holds_the_optimiser_back_until_it_is_read() -> None:
    readings, weight = late(), torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    for loss, moves in ((1.0, True), (float("inf"), False), (1.0, False)):
        before = weight.detach().clone()
        readings.begin(0.1)
        readings.part([readings.check(torch.tensor(loss))], 1.0, 1.0)
        weight.grad = torch.ones(3)
        readings.hold_back(optimizer)
        optimizer.step()
        assert torch.equal(before, weight) != moves
    with pytest.raises(Diverged, match="the loss is inf"):
        readings.fetch()
