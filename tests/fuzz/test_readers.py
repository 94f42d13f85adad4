"""A few hundred nearly right files a reader; `make fuzz` is the long form."""

from __future__ import annotations

import random

import pytest
from mutate import mutate
from targets import TARGETS

EACH = 150


@pytest.mark.parametrize("name", TARGETS)
def test_reads_what_is_right(name: str) -> None:
    target = TARGETS[name]
    if name not in ("artifact", "peft"):  # those need files beside them
        assert all(target(seed) for seed in target.seeds)


@pytest.mark.parametrize("name", TARGETS)
def test_refuses_the_rest_in_a_sentence(name: str) -> None:
    target, random_ = TARGETS[name], random.Random(name)
    pool, refused = list(target.seeds), 0
    for _ in range(EACH):
        data = mutate(random_.choice(pool), random_)
        try:
            refused += not target(data)
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error} on {data[:400]!r}")
        pool.append(data)
    assert refused > 10 or name in ("text", "messages")
