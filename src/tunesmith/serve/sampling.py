"""The next token of every row: greedy at temperature 0, else drawn from the row's own generator.

    p = softmax((z - penalties) / temperature)
    the nucleus: the smallest set of likeliest tokens whose probability reaches top_p (Holtzman et al. 2020, section 3.1)
    token: the first of the nucleus at which the cumulated probability exceeds u p(nucleus), with u uniform in [0, 1)

One uniform number a token comes from a generator that belongs to the request, so that a seed gives the same text whoever else is in
the batch. Log-probabilities are those of the model's own distribution, before penalties and temperature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

FIRST = 256
"""Likeliest tokens that are looked at before the whole vocabulary is sorted."""


@dataclass(frozen=True)
class Sampling:
    """How a request wants its tokens chosen.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: probability of the nucleus; 1 for all tokens.
        seed: of the row's generator; None for one that nobody knows.
        presence_penalty: taken off the logit of each token that was written.
        frequency_penalty: the same, times how often.
        logprobs: alternatives that are reported beside each token; None for no log-probabilities at all.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None


@dataclass(frozen=True)
class Chosen:
    """A token, and how likely it and the likeliest ones were."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Sampler:
    """What choosing the tokens of one row needs to remember."""

    how: Sampling
    written: Counter[int] = field(default_factory=Counter)
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __post_init__(self) -> None:
        if self.how.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(self.how.seed % 2**63)

    @property
    def penalises(self) -> bool:
        """Whether what was written counts against a token."""
        return bool(self.written) and (self.how.presence_penalty != 0 or self.how.frequency_penalty != 0)

    def penalties(self) -> tuple[list[int], list[float]]:
        """Tokens that were written, and what is taken off the logit of each."""
        return list(self.written), [
            self.how.presence_penalty + self.how.frequency_penalty * count for count in self.written.values()
        ]


def choose(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Chosen]:
    """The next token of every row.

    Args:
        logits: [rows, vocabulary], of any dtype.
        samplers: one a row.
    """
    reported = [i for i, s in enumerate(samplers) if s.how.logprobs is not None]
    raw = logits[reported].float().log_softmax(-1) if reported else logits[:0]
    changed = logits
    for i, sampler in enumerate(samplers):
        if sampler.penalises:
            tokens, amounts = sampler.penalties()
            if changed is logits:
                changed = logits.float().clone()
            changed[i, tokens] -= torch.tensor(amounts, device=logits.device)
    tokens = changed.argmax(-1).tolist()
    for i, sampler in enumerate(samplers):
        if sampler.how.temperature > 0:
            tokens[i] = draw(changed[i], sampler.how.temperature, sampler.how.top_p, sampler.generator)
    found = [Chosen(token) for token in tokens]
    for place, i in enumerate(reported):
        count = min(samplers[i].how.logprobs or 0, raw.shape[1])
        values, ids = raw[place].topk(count)
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        found[i] = Chosen(tokens[i], float(raw[place, tokens[i]]), top)
    for sampler, token in zip(samplers, tokens, strict=True):
        sampler.written[token] += 1
    return found


def draw(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """A token drawn from the nucleus of one row of logits, [vocabulary]."""
    u = float(torch.rand((), generator=generator, dtype=torch.float64))
    scaled = logits.cpu().double()  # some devices have no double precision
    weights = (
        (scaled - scaled.max()) / temperature
    ).exp()  # a tiny temperature divides nothing but zeros and negatives
    total = weights.sum()
    if top_p >= 1:
        return _at(weights.cumsum(0), u)
    for count in (min(FIRST, len(weights)), len(weights)):
        ordered, ids = weights.topk(count)
        reached = ordered.cumsum(0)
        if bool(reached[-1] >= top_p * total) or count == len(weights):
            break
    size = int((reached < top_p * total).sum()) + 1
    return int(ids[_at(reached[:size], u)])


def _at(cumulated: torch.Tensor, u: float) -> int:
    """The first place whose cumulated weight exceeds the share u of all."""
    place = int(torch.searchsorted(cumulated, u * cumulated[-1], right=True))
    return min(place, len(cumulated) - 1)
