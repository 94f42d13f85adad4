"""EWC, SI and L2-SP against closed forms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from continual.stand_ins import move, session
from tunesmith import registry


def strategy(name: str, **options: Any) -> Any:
    cls = registry.load("strategy", name)
    return cls(cls.Options.model_validate(options))


def gradient(given: Any, kept: Any) -> dict[str, torch.Tensor]:
    given.masters.clear()
    kept.penalty(given)
    return {n: t.grad for n, t in given.masters.tensors.items() if t.grad is not None}


class Logistic:
    """Logistic regression without a bias, as a task whose only model is a weight vector: log p(1|x) = sigmoid(w x)."""

    def forward(self, model: Any, batch: Any) -> Any:
        value = batch["x"] @ model.w
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(value), value], -1))

    def loss(self, outputs: Any, batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs.logits, batch["y"], reduction="sum")

    def distribution(self, outputs: Any, batch: Any) -> torch.Tensor:
        return outputs.logits

    def sampled_loss(self, outputs: Any, batch: Any, generator: torch.Generator) -> torch.Tensor:
        from tunesmith.tasks._base import Task

        return Task.sampled_loss(self, outputs, batch, generator)  # type: ignore[arg-type]


def rows_of(given: Any, x: torch.Tensor, y: torch.Tensor, times: int = 1) -> Any:
    def single_rows(most: int) -> Any:
        for _ in range(times):
            for each, label in zip(x, y, strict=True):
                yield given.model, Logistic(), {"x": each[None], "y": label[None]}

    return single_rows


def test_true_fisher_of_a_logistic_model() -> None:
    """F = mean_x p (1 - p) x^2; drawn labels come within the error of a mean of 4,000 draws (at most 0.5 / sqrt(4000) of x^2)."""
    x = torch.tensor([[1.0, 0.5], [-2.0, 1.0], [0.3, -1.0], [1.5, 2.0]])
    given = session(w=[0.4, -0.8])
    given.single_rows = rows_of(given, x, torch.zeros(4, dtype=torch.long), times=1000)
    ewc = strategy("ewc", normalise=False, rows=10**6)
    ewc.after_stage(given)
    p = torch.sigmoid(x @ torch.tensor([0.4, -0.8]))
    exact = ((p * (1 - p))[:, None] * x.square()).mean(0)
    found = ewc.anchors[0]["fisher"]["w"]
    assert torch.allclose(found, exact, rtol=0.06), (found, exact)


def test_empirical_fisher_is_the_mean_squared_gradient_of_the_labels() -> None:
    x = torch.tensor([[1.0, 0.5], [-2.0, 1.0], [0.3, -1.0]])
    y = torch.tensor([1, 0, 1])
    given = session(w=[0.4, -0.8])
    given.single_rows = rows_of(given, x, y)
    ewc = strategy("ewc", normalise=False, fisher="empirical")
    ewc.after_stage(given)
    p = torch.sigmoid(x @ torch.tensor([0.4, -0.8]))
    exact = ((p - y)[:, None] * x).square().mean(0)
    assert torch.allclose(ewc.anchors[0]["fisher"]["w"], exact, rtol=1e-5)


def test_the_penalty_of_ewc() -> None:
    """strength F (theta - theta*) for each anchor; separate anchors add up, online ones merge at the newest weights."""
    given = session(w=[1.0, 2.0])
    fisher, first, second = torch.tensor([3.0, 0.5]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    separate = strategy("ewc", strength=2.0)
    separate.anchors = [{"fisher": {"w": fisher}, "weights": {"w": place}} for place in (first, second)]
    now = torch.tensor([1.0, 2.0])
    assert torch.allclose(gradient(given, separate)["w"], 2 * fisher * (now - first) + 2 * fisher * (now - second))


@pytest.mark.parametrize(("mode", "anchors"), [("separate", 2), ("online", 1)])
def test_anchors_of_two_stages(mode: str, anchors: int) -> None:
    x, y = torch.tensor([[1.0, 0.5]]), torch.tensor([1])
    given = session(w=[0.4, -0.8])
    given.single_rows = rows_of(given, x, y)
    ewc = strategy("ewc", mode=mode, fisher="empirical", normalise=False, decay=0.5)
    ewc.after_stage(given)
    before = ewc.anchors[0]["fisher"]["w"].clone()
    move(given, "w", [0.1, 0.1])
    ewc.after_stage(given)
    assert len(ewc.anchors) == anchors
    p = torch.sigmoid(x @ torch.tensor([0.1, 0.1]))
    fresh = ((p - y)[:, None] * x).square().mean(0)
    wanted = fresh + 0.5 * before if mode == "online" else fresh
    assert torch.allclose(ewc.anchors[-1]["fisher"]["w"], wanted, rtol=1e-5)
    assert torch.allclose(ewc.anchors[-1]["weights"]["w"], torch.tensor([0.1, 0.1]))


def test_a_head_that_grew_is_held_where_it_was_known() -> None:
    given = session(w=[[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]])
    ewc = strategy("ewc", strength=1.0)
    ewc.anchors = [{"fisher": {"w": torch.ones(2, 2)}, "weights": {"w": torch.zeros(2, 2)}}]
    assert gradient(given, ewc)["w"].tolist() == [[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]]


def test_the_path_integral_of_si_on_a_quadratic() -> None:
    """L = sum a_i theta_i^2 / 2 under small steps: omega_i = the loss that parameter i lowered, sum_i omega_i = L(start) - L(end)."""
    a, start = torch.tensor([4.0, 1.0]), torch.tensor([1.0, -2.0])
    given = session(w=start.tolist())
    si = strategy("synaptic-intelligence", normalise=False, damping=1e-12)
    si.before_stage(given)
    for _ in range(4000):
        tensor = given.masters.tensors["w"]
        tensor.grad = a * tensor.detach()
        si.after_backward(given)
        si.penalty(given)
        with torch.no_grad():
            tensor -= 2.5e-4 * tensor.grad
        given.masters.clear()
        si.after_step(given)
    end = given.masters.tensors["w"].detach().clone()
    lowered = a * (start.square() - end.square()) / 2
    assert torch.allclose(si.path["w"], lowered, rtol=1e-3)
    si.after_stage(given)
    assert torch.allclose(si.importance["w"], lowered / (end - start).square(), rtol=1e-3)
    move(given, "w", (end + 1.0).tolist())
    si.options.strength = 0.25
    assert torch.allclose(gradient(given, si)["w"], 2 * 0.25 * si.importance["w"], rtol=1e-4)


def test_si_measures_the_raw_gradient() -> None:
    """The penalty's own gradient must not count as having lowered the task's loss."""
    given = session(w=[1.0])
    si = strategy("synaptic-intelligence", normalise=False)
    si.before_stage(given)
    si.importance, si.anchor = {"w": torch.tensor([100.0])}, {"w": torch.tensor([5.0])}
    given.masters.tensors["w"].grad = torch.tensor([1.0])
    si.after_backward(given)
    si.penalty(given)
    move(given, "w", [0.5])
    si.after_step(given)
    assert float(si.path["w"]) == pytest.approx(0.5)


def test_l2_sp_draws_back_to_the_start_of_the_stage() -> None:
    given = session(number=1, w=[1.0, 2.0])
    spring = strategy("l2-sp", strength=0.3)
    spring.before_stage(given)
    move(given, "w", [2.0, 0.0])
    assert torch.allclose(gradient(given, spring)["w"], 0.3 * torch.tensor([1.0, -2.0]))


@pytest.mark.parametrize(("first", "held"), [(False, False), (True, True)])
def test_l2_sp_in_the_first_stage(first: bool, held: bool) -> None:
    given = session(number=0, w=[1.0])
    spring = strategy("l2-sp", first_stage=first)
    spring.before_stage(given)
    move(given, "w", [2.0])
    assert bool(gradient(given, spring)) == held


def test_normalised_importance_has_a_mean_of_one() -> None:
    x, y = torch.tensor([[1.0, 0.5], [2.0, 0.1]]), torch.tensor([1, 0])
    given = session(w=[0.4, -0.8])
    given.single_rows = rows_of(given, x, y)
    ewc = strategy("ewc", fisher="empirical")
    ewc.after_stage(given)
    assert float(ewc.anchors[0]["fisher"]["w"].mean()) == pytest.approx(1.0)
