"""Drawn tokens follow the distribution that a closed form gives, from a row's own generator."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.serve.sampling import FIRST, Sampler, Sampling, choose, draw

LOGITS = torch.tensor([1.0, 3.0, 2.0, 0.0])


def frequencies(temperature: float, top_p: float, draws: int = 6000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = [draw(LOGITS, temperature, top_p, generator) for _ in range(draws)]
    return torch.bincount(torch.tensor(drawn), minlength=4) / draws


def expected(temperature: float, top_p: float) -> torch.Tensor:
    """The nucleus by hand."""
    p = [math.exp(z / temperature) for z in LOGITS.tolist()]
    p = [each / sum(p) for each in p]
    kept, mass = [], 0.0
    for i in sorted(range(4), key=lambda i: -p[i]):
        kept.append(i)
        mass += p[i]
        if mass >= top_p:
            break
    return torch.tensor([p[i] / mass if i in kept else 0.0 for i in range(4)])


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.6), (1.0, 0.7), (2.0, 0.9), (1e-6, 1.0)]
)
def test_frequencies_are_those_of_the_nucleus(temperature: float, top_p: float) -> None:
    truth = expected(temperature, top_p) if temperature > 1e-3 else torch.tensor([0.0, 1.0, 0.0, 0.0])
    found = frequencies(temperature, top_p)
    assert torch.equal(found == 0, truth == 0)
    assert float((found - truth).abs().max()) < 4 * math.sqrt(0.25 / 6000)  # four standard deviations of a frequency


def test_a_wide_nucleus_of_a_large_vocabulary() -> None:
    logits = torch.zeros(4 * FIRST)  # everything equally likely: the nucleus is a share of the vocabulary
    generator = torch.Generator().manual_seed(0)
    drawn = {draw(logits, 1.0, 0.5, generator) for _ in range(3000)}
    assert 0.4 * len(logits) < len(drawn) <= 0.5 * len(logits) + 1


def test_a_seed_gives_the_same_tokens_whoever_else_is_there() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20, 3, 50, generator=generator)

    def tokens(rows: list[int], row: int) -> list[int]:
        samplers = [Sampler(Sampling(seed=7 if r == row else None, top_p=0.9)) for r in rows]
        return [choose(step[rows], samplers)[rows.index(row)].token for step in logits]

    assert tokens([1], 1) == tokens([0, 1, 2], 1) == tokens([2, 1], 1)
    assert len(set(tokens([1], 1))) > 5
    assert tokens([0], 0) != [choose(step[[0]], [Sampler(Sampling(temperature=0))])[0].token for step in logits]


def test_greedy_takes_the_likeliest_and_reports_the_models_own_probabilities() -> None:
    how = Sampling(temperature=0, logprobs=2)
    (chosen,) = choose(LOGITS[None].bfloat16(), [Sampler(how)])
    truth = LOGITS.log_softmax(0)
    assert chosen.token == 1
    assert chosen.logprob == pytest.approx(float(truth[1]))
    assert chosen.top == ((1, pytest.approx(float(truth[1]))), (2, pytest.approx(float(truth[2]))))
    (none,) = choose(LOGITS[None], [Sampler(Sampling(temperature=0))])
    assert (none.logprob, none.top) == (None, ())


def test_penalties_count_what_was_written() -> None:
    sampler = Sampler(Sampling(temperature=0, frequency_penalty=0.6, presence_penalty=0.5, logprobs=0))
    written, counts = [], [0] * 4
    for _ in range(6):
        by_hand = [z - 0.6 * c - 0.5 * (c > 0) for z, c in zip(LOGITS.tolist(), counts, strict=True)]
        (chosen,) = choose(LOGITS[None], [sampler])
        assert chosen.token == max(range(4), key=by_hand.__getitem__)
        assert chosen.logprob == pytest.approx(float(LOGITS.log_softmax(0)[chosen.token]))
        counts[chosen.token] += 1
        written.append(chosen.token)
    assert written == [1, 2, 1, 1, 0, 2]
