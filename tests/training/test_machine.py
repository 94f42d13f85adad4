"""bf16 where it is faster: measured once for a machine, kept, and told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tunesmith.training import machine
from tunesmith.training.precision import SMALL, pick_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No measurement of another test, in memory or on disk."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
    machine.half_precision_gain.cache_clear()
    yield
    machine.half_precision_gain.cache_clear()


def test_a_measurement_is_a_ratio() -> None:
    before = torch.random.get_rng_state()
    assert 0.001 < machine.measure() < 1000
    assert torch.equal(torch.random.get_rng_state(), before)  # no run is another for it


@pytest.mark.parametrize(("gain", "dtype"), [(0.4, torch.float32), (1.05, torch.float32), (2.0, torch.bfloat16)])
def test_auto_is_what_is_faster(gain: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "measure", lambda: gain)
    assert pick_dtype("auto", CPU, SMALL) == (dtype, f"bf16 is {gain:.1f} times as fast as fp32 here")


def test_it_is_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(machine, "measure", lambda: calls.append(1) or 2.5)
    assert [machine.half_precision_gain(), machine.half_precision_gain()] == [2.5, 2.5]
    machine.half_precision_gain.cache_clear()  # as in another process
    assert machine.half_precision_gain() == 2.5
    assert len(calls) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    machine.half_precision_gain.cache_clear()
    machine.half_precision_gain()
    assert len(calls) == 2  # another number of threads is another machine


def test_a_cache_that_cannot_be_written_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("file") / "cache"
    place.write_text("a file", encoding="utf-8")
    monkeypatch.setenv("TUNESMITH_CACHE", str(place))
    monkeypatch.setattr(machine, "measure", lambda: 3.0)
    assert machine.half_precision_gain() == 3.0


def test_nothing_is_measured_where_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "measure", lambda: pytest.fail("not asked for"))
    assert pick_dtype("bfloat16", CPU, 1) == (torch.bfloat16, "")
    assert pick_dtype("float32", CPU, SMALL) == (torch.float32, "")
    assert pick_dtype("auto", CPU, SMALL - 1) == (torch.float32, "")
