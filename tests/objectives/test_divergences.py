"""Distances between distributions, against closed forms and torch's own; teachers mixed; the rest beyond the k likeliest."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from tunesmith.objectives._divergences import Choices, divergence, log_one_minus, mixture

P = torch.tensor([[0.5, 0.5]]).log()
Q = torch.tensor([[0.9, 0.1]]).log()


def top(logits: torch.Tensor, k: int, heat: float) -> Choices:
    log_p = (logits / heat).log_softmax(-1)
    values, ids = log_p.topk(k, -1)
    return Choices(values, ids, log_one_minus(values.logsumexp(-1)))


def test_closed_forms_of_two_choices() -> None:
    """KL((1/2, 1/2) || (9/10, 1/10)) = log(5/3); the other way round 9/10 log 9/5 + 1/10 log 1/5; T^2 in front."""
    middle = (0.7, 0.3)
    js = sum(0.5 * a * math.log(a / m) for a, m in zip((0.5, 0.5), middle, strict=True))
    js += sum(0.5 * a * math.log(a / m) for a, m in zip((0.9, 0.1), middle, strict=True))
    wanted = {"forward": math.log(5 / 3), "reverse": 0.9 * math.log(1.8) + 0.1 * math.log(0.2), "jensen-shannon": js}
    for kind, value in wanted.items():
        assert divergence(kind, P, Q, 1.0).item() == pytest.approx(value, abs=1e-6)
        assert divergence(kind, P, Q, 3.0).item() == pytest.approx(9 * value, abs=1e-5)
        assert divergence(kind, P, P, 2.0).item() == pytest.approx(0, abs=1e-7)


def test_forward_is_torchs_kl_at_a_temperature() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(7, 11), torch.randn(7, 11)
    log_p, log_q = Choices((teacher / 2).log_softmax(-1)).pair(student, 2.0)
    wanted = 4 * F.kl_div((student / 2).log_softmax(-1), (teacher / 2).softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(divergence("forward", log_p, log_q, 2.0), wanted)


def test_large_temperatures_come_to_matching_centred_logits() -> None:
    """T^2 KL -> mean squared difference of centred logits / 2 (Hinton et al. 2015, equation 4)."""
    torch.manual_seed(1)
    teacher, student = torch.randn(5, 8), torch.randn(5, 8)
    log_p, log_q = Choices((teacher / 30).double().log_softmax(-1)).pair(student.double(), 30.0)
    gap = (teacher - teacher.mean(-1, keepdim=True)) - (student - student.mean(-1, keepdim=True))
    torch.testing.assert_close(
        divergence("forward", log_p, log_q.double(), 30.0).float(), gap.square().mean(-1) / 2, rtol=0.15, atol=2e-2
    )


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen-shannon"])
def test_the_k_likeliest_and_the_rest(kind: str) -> None:
    """Never more than the whole distance, nearer with more choices, the whole with all but one; exact where only the rest is merged."""
    torch.manual_seed(2)
    teacher, student = torch.randn(6, 20) * 2, torch.randn(6, 20) * 2
    log_p, log_q = Choices((teacher / 2).log_softmax(-1)).pair(student, 2.0)
    whole = divergence(kind, log_p, log_q, 2.0)
    before = torch.zeros(6)
    for k in (2, 5, 12, 19):
        found = divergence(kind, *top(teacher, k, 2.0).pair(student, 2.0), 2.0)
        assert bool((found <= whole + 1e-4).all()) and bool((found >= before - 1e-4).all())
        before = found
    torch.testing.assert_close(before, whole, rtol=1e-3, atol=1e-3)


def test_the_rest_has_a_gradient() -> None:
    teacher, student = torch.tensor([[4.0, 1.0, 0.0, 0.0]]), torch.zeros(1, 4, requires_grad=True)
    divergence("forward", *top(teacher, 2, 1.0).pair(student, 1.0), 1.0).sum().backward()
    p = teacher.softmax(-1)
    rest = p[0, 2:].sum() / 2  # spread as the student spreads it: evenly
    torch.testing.assert_close(
        student.grad, student.softmax(-1) - torch.stack([p[0, 0], p[0, 1], rest, rest])[None], rtol=0, atol=1e-5
    )


def test_a_mixture_is_the_mean_of_probabilities() -> None:
    torch.manual_seed(3)
    first, second = torch.randn(4, 9), torch.randn(4, 9)
    found = mixture([Choices(first.log_softmax(-1)), Choices(second.log_softmax(-1))], [3.0, 1.0])
    torch.testing.assert_close(found.log_p.exp(), 0.75 * first.softmax(-1) + 0.25 * second.softmax(-1))


def test_mixed_top_choices_merge_by_token() -> None:
    """Two lists of the likeliest become one without repetition; with all choices listed it is the mean again."""
    torch.manual_seed(4)
    first, second, student = torch.randn(4, 9), torch.randn(4, 9), torch.randn(4, 9)
    found = mixture([top(first, 8, 1.0), top(second, 8, 1.0)], [1.0, 1.0])
    assert found.ids is not None and found.rest is not None
    total = found.log_p.exp().masked_fill(found.log_p <= -29, 0).sum(-1) + found.rest.exp()
    torch.testing.assert_close(total, torch.ones(4), rtol=0, atol=1e-4)
    _, log_q = found.pair(student, 1.0)
    assert log_q.exp().sum(-1).allclose(torch.ones(4), atol=1e-4)
    for row in range(4):
        kept = found.ids[row][found.log_p[row] > -29].tolist()
        assert len(kept) == len(set(kept))
    alone = mixture([top(first, 4, 1.0), top(first, 4, 1.0)], [1.0, 1.0])
    torch.testing.assert_close(
        divergence("forward", *alone.pair(student, 1.0), 1.0),
        divergence("forward", *top(first, 4, 1.0).pair(student, 1.0), 1.0),
    )
