r"""Distances between what a teacher and a student say of the same decision.

    p = softmax(z_T / T),  q = softmax(z_S / T)                          one choice of K, T the temperature

    forward          T^2 KL(p || q)                                      Hinton et al. 2015, section 2: soft targets, T^2 keeps the
                                                                         gradient's size where T is large
    reverse          T^2 KL(q || p)                                      Gu et al. 2024 (MiniLLM), section 2.1: the student need not cover
                                                                         what it cannot say
    jensen-shannon   T^2 (KL(p || m) + KL(q || m)) / 2,  m = (p + q)/2   Lin 1991, equation 4.1; symmetric, at most T^2 log 2

Over a large vocabulary the k likeliest tokens of the teacher are kept, and all others are one further choice with the mass that is left:
the distance between these coarser distributions is at most that between the full ones (log sum inequality), and 0 only where those
agree on the k and on the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

FLOOR = -30.0
"""Log-probability below which a choice counts as impossible: e^-30 is beyond what fp32 tells from 0 beside 1."""


@dataclass(frozen=True)
class Choices:
    """Log-probabilities of n decisions over the same choices.

    Attributes:
        log_p: [n, m], at the temperature of the comparison.
        ids: which of the student's outputs each of them is, [n, m]; None: all of them in their order.
        rest: log of what is left for all other outputs, [n]; with `ids`.
    """

    log_p: torch.Tensor
    ids: torch.Tensor | None = None
    rest: torch.Tensor | None = None

    def at(self, places: slice) -> Choices:
        """Some of the decisions."""
        ids = None if self.ids is None else self.ids[places]
        return Choices(self.log_p[places], ids, None if self.rest is None else self.rest[places])

    def pair(self, logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(teacher, student) log-probabilities over the same choices, the rest as the last of them.

        Args:
            logits: the student's, [n, K].
            temperature: T.
        """
        log_q = (logits.float() / temperature).log_softmax(-1)
        if self.ids is None or self.rest is None:
            return self.log_p, log_q
        known = self.log_p > FLOOR
        chosen = log_q.gather(1, self.ids).masked_fill(~known, -math.inf)
        left = log_one_minus(chosen.logsumexp(-1))
        return torch.cat([self.log_p, self.rest[:, None]], 1), torch.cat([chosen, left[:, None]], 1)


def log_one_minus(log_p: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x <= 0, with 1 - exp(x) at least e^FLOOR."""
    return torch.log((-torch.expm1(log_p.clamp(max=0.0))).clamp(min=math.exp(FLOOR)))


def mixture(parts: Sequence[Choices], weights: Sequence[float]) -> Choices:
    """The weighted mean of several teachers' probabilities (Hinton et al. 2015, section 5.3: an ensemble's arithmetic mean).

    A token that is among the k of one teacher and not of another adds nothing of the second but to the rest.
    """
    if len(parts) == 1:
        return parts[0]
    shares = [weight / sum(weights) for weight in weights]
    if all(part.ids is None for part in parts):
        stacked = torch.stack([part.log_p + math.log(share) for part, share in zip(parts, shares, strict=True)])
        return Choices(stacked.logsumexp(0))
    ids = torch.cat([part.ids for part in parts if part.ids is not None], 1)
    p = torch.cat([part.log_p.exp() * share for part, share in zip(parts, shares, strict=True)], 1)
    ids, order = ids.sort(dim=1, stable=True)
    p = p.gather(1, order)
    new = torch.cat([torch.ones_like(ids[:, :1], dtype=torch.bool), ids[:, 1:] != ids[:, :-1]], 1)
    slot = new.long().cumsum(1) - 1
    merged = torch.zeros_like(p).scatter_add(1, slot, p)
    places = torch.zeros_like(ids).scatter(1, slot, ids)
    rest = sum(part.rest.exp() * share for part, share in zip(parts, shares, strict=True) if part.rest is not None)
    assert isinstance(rest, torch.Tensor)
    return Choices(merged.log().clamp(min=FLOOR), places, rest.log().clamp(min=FLOOR))


def divergence(kind: str, log_p: torch.Tensor, log_q: torch.Tensor, temperature: float) -> torch.Tensor:
    """The distance of every decision, [n], in nats times T^2.

    Args:
        kind: `forward`, `reverse` or `jensen-shannon`.
        log_p: the teacher's log-probabilities, [n, m].
        log_q: the student's, of the same shape; -inf in both where there is no choice.
        temperature: T.
    """
    log_p, log_q = log_p.clamp(min=FLOOR), log_q.clamp(min=FLOOR)
    if kind == "forward":
        found = _kl(log_p, log_q)
    elif kind == "reverse":
        found = _kl(log_q, log_p)
    else:
        middle = torch.logaddexp(log_p, log_q) - math.log(2)
        found = (_kl(log_p, middle) + _kl(log_q, middle)) / 2
    return found * temperature**2


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)
