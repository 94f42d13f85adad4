"""The pieces of a plan against closed forms."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tunesmith.cli.commands_plan import crowded
from tunesmith.plan import clock, machine, room, shapes, waiting
from tunesmith.plan.alive import peak_of
from tunesmith.plan.prediction import SPARE, Prediction, several
from tunesmith.training.precision import Masters


def test_the_pace_is_found_again() -> None:
    sizes = [(4, 16), (8, 16), (8, 64), (16, 128), (2, 256)]
    true = clock.Pace(3e-3, 2e-6, 5e-9)
    found = clock.fit(sizes, [true.of(*size) for size in sizes])
    assert (found.fixed, found.position, found.square) == pytest.approx((3e-3, 2e-6, 5e-9), rel=1e-6)
    assert found.of(3, 100) == pytest.approx(true.of(3, 100))


def test_one_size_is_scaled_by_its_positions() -> None:
    found = clock.fit([(4, 16), (4, 16)], [1.0, 3.0])
    assert found.of(8, 16) == pytest.approx(4.0)


def test_no_coefficient_is_negative() -> None:
    found = clock.fit([(1, 8), (1, 16), (1, 32)], [0.1, 0.05, 0.2])
    assert min(found.fixed, found.position, found.square) >= 0


def made(lengths: list[int], rows: int = 4) -> Any:
    """A feed of rows of these lengths."""
    from tunesmith.data.batching import BatchOrder

    array = np.asarray(lengths)
    order = BatchOrder(array, rows, 0)
    return SimpleNamespace(lengths=array, order=order, micro=rows, layout=lambda indices: [indices])


def test_the_largest_pass_is_one_of_the_longest_rows_where_not_all_are_seen() -> None:
    feed = made([8] * 997 + [100, 90, 80])
    steps = shapes.shapes(feed, 5)
    every = shapes.shapes(feed, 100_000)
    assert len(steps) == 5 and len(every) == shapes.SEEN
    found = shapes.largest(feed, every, 100_000)
    assert found.rows == 4 and found.length == 100
    assert shapes.largest(feed, steps, 5).area == max(shape.area for step in steps for shape in step)
    assert found.few(2).rows == 2 and found.few(2).length == 100


def test_what_is_alive_is_counted() -> None:
    def work(turn: Any) -> None:
        a = torch.zeros(1000)  # 4,000 bytes
        b = a + 1  # 8,000
        del a
        turn()
        c = torch.zeros(50, 200)  # 44,000
        del b, c

    found = peak_of(work, (), wide=200)
    assert (found.all, found.wide, found.forward) == (44_000, 40_000, 8_000)


def test_views_and_what_exists_anyway_do_not_count() -> None:
    there = torch.zeros(1000)

    def work(turn: Any) -> None:
        held = [there.view(10, 100), (there * 2)[:500], there.add_(1)]
        del held

    assert peak_of(work, {there.untyped_storage().data_ptr()}).all == 4_000


def test_what_a_linear_model_keeps() -> None:
    layer = torch.nn.Linear(64, 32, bias=False)

    def work(shape: Any, turn: Any) -> None:
        x = torch.ones(shape.rows, 64)
        loss = layer(x).sum()
        turn()
        loss.backward()
        layer.weight.grad = None

    shape = SimpleNamespace(rows=16, length=1, few=lambda n: SimpleNamespace(rows=n))
    found = room.kept(shape, work, layer, 0)  # type: ignore[arg-type]
    assert found is not None
    assert found.forward.row == pytest.approx(4 * (64 + 32), rel=0.1)  # the input and, until it is summed, the output
    assert found.of(16, 0.0) >= 16 * 4 * 64


def test_logits_made_in_chunks_do_not_grow_with_the_rows() -> None:
    found = room.Kept(room.Line(1000.0, 10.0), room.Line(1200.0, 10.0), room.Line(900.0, 0.0), 8)
    assert room.chunked(found, 2, 1800.0) == found
    capped = room.chunked(found, 64, 1800.0)
    assert capped.of(64, 0.0) == pytest.approx(64 * 300 + 10 + 1800) and capped.wide.of(64) == 1800


@pytest.mark.parametrize("spare", [1.0, 0.4])
def test_no_smaller_pass_makes_measuring_cheaper(spare: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened again, the model takes 2,000 beside 1,000 of libraries; a row takes 50."""
    monkeypatch.setattr(
        room.memory, "available", lambda device: round((3000 + 1000 * spare) * SPARE) - 1000 if spare == 1 else 2300
    )
    layer = torch.nn.Linear(1, 1, bias=False)
    kept = room.Kept(room.Line(50.0, 0.0), room.Line(50.0, 0.0), room.Line(0.0, 0.0), 8)
    found = room.room(
        layer, Masters(layer, torch.float32), torch.device("cpu"), kept, 8, 1000, 0, 2000, now=1000, peak=1000
    )
    assert found.largest == (59 if spare == 1 else 0)


def test_measuring_takes_libraries_weights_passes_and_what_kernels_keep() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)  # 4 bytes; as many of gradients, 8 of moments
    kept = room.Kept(room.Line(50.0, 0.0), room.Line(50.0, 0.0), room.Line(0.0, 0.0), 8)
    given = {"now": 1000, "peak": 1000, "slack": 0.0}

    def found(**more: Any) -> dict[str, int]:
        asked = (layer, Masters(layer, torch.float32), torch.device("cpu"), kept, 8, 1000, 0, 2000)
        return room.room(*asked, **{**given, **more}).parts

    step = sum(found().values()) - found()["evaluation"]
    assert step == 996 + 4 + 4 + 8 + 8 * 50
    assert found()["evaluation"] == 996 + 2000 - step
    assert found(evaluated=700, stays=30.0)["evaluation"] == 996 + 2000 + 700 + 30 - step
    assert found(evaluated=700, peak=10_000)["evaluation"] == 10_000 - step  # it was higher before


def test_timing_large_passes_of_one_size_stays_short(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    feed = made([512] * 64, rows=16)

    def run(shape: Any) -> None:
        now[0] += shape.area * 1e-3  # eight seconds for a whole pass

    found = clock.pace([shapes.Shape(feed, np.arange(16), 0)] * 10, run)
    assert found.of(16, 512) == pytest.approx(8.192) and now[0] < 4


def test_the_optimiser_costs_more_with_more_numbers() -> None:
    one = machine.Machine(1e-6, {1000: 1e-9, 1_000_000: 3e-9}, 0.0)
    assert one.seconds(10, 500) == pytest.approx(10e-6 + 500e-9)
    assert one.seconds(1, 10_000_000) == pytest.approx(1e-6 + 3e-2)
    middle = one.seconds(0, 31623) / 31623
    assert middle == pytest.approx(2e-9, rel=0.01)


def test_a_machine_is_measured_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "BUSY", 2.0)  # whatever else this machine does
    machine.machine.cache_clear()
    first = machine.machine("cpu", False, torch.get_num_threads())
    machine.machine.cache_clear()
    monkeypatch.setattr(machine.processes, "call", lambda *_: pytest.fail("measured again"))
    assert machine.machine("cpu", False, torch.get_num_threads()) == first
    assert first.tensor > 0 and list(cache.glob("machine/*/machine.json"))


def test_a_busy_machine_is_measured_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured beside other processes serves its run and is not kept."""
    found: list[dict[str, Any]] = [
        {"tensor": each, "number": {"1000": 1e-9}, "byte": 0.0, "waited": share}
        for each, share in ((9.0, 0.5), (1.0, 0.01))
    ]
    monkeypatch.setattr(machine.processes, "call", lambda *_: found.pop(0))
    seen = []
    for _ in range(3):
        machine.machine.cache_clear()
        seen.append(machine.machine("cpu", False, 77).tensor)
    assert seen == [9.0, 1.0, 1.0]


def test_waiting_for_a_core(tmp_path: Path) -> None:
    for name, text in (("1", "4000000000 1000000000 7"), ("2", "0 1000000000 1"), ("3", "ended")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(text, encoding="ascii")
    before = waiting.waited(tmp_path)
    assert before == waiting.Waited(4.0, 2.0)
    assert waiting.Waited(7.0, 3.0).since(before) == pytest.approx(0.25)
    assert before.since(before) == 0.0
    assert waiting.waited(tmp_path / "nothing") is None


def test_the_own_threads_are_counted() -> None:
    """Where the system says so, a product of matrices is time on a core."""
    before = waiting.waited()
    if before is None:
        pytest.skip("this system does not count how long threads wait")
    torch.ones(500, 500) @ torch.ones(500, 500)
    after = waiting.waited()
    assert after is not None and after.ran > before.ran


def prediction(**more: Any) -> Prediction:
    given = {"technique": "lora", "trainable_parameters": 10, "total_parameters": 100, "steps": 5, "memory": {"libraries": 60, "weights": 40},
             "seconds": 2.0, "artifact_bytes": 7, "available_bytes": 1000, "largest_batch": 9, "rows": 40, "architecture": "encoder",
             "unknown": {}}  # fmt: skip
    return Prediction(**{**given, **more})


def test_fits_only_with_room_to_spare() -> None:
    assert prediction(available_bytes=int(100 * SPARE)).fits is True
    assert prediction(available_bytes=int(100 * SPARE) - 1).fits is False
    assert prediction(memory=None).fits is None
    said = prediction(available_bytes=110).sentence()
    assert "does not fit safely" in said and "9 rows" in said


def test_stages_add_up() -> None:
    one, two = prediction().as_json(), prediction(seconds=3.0, memory={"libraries": 150}, available_bytes=160).as_json()
    found = several([one, two])
    assert (found["seconds"], found["memory_bytes"], found["fits"], found["steps"]) == (5.0, 150, False, 10)
    assert several([one, prediction(seconds=None, unknown={"seconds": "why"}).as_json()])["seconds"] is None
    assert several([one]) == one
    waits = [prediction(waited=share).as_json() for share in (None, 0.1, 0.3)]
    assert several(waits)["waited"] == 0.3 and several(waits[:1] * 2)["waited"] is None
    older = {
        name: value for name, value in waits[0].items() if name not in ("waited", "num_labels")
    }  # of a run that an earlier version began
    assert several([older, waits[2]])["waited"] == 0.3


def test_a_busy_machine_is_said() -> None:
    said = "other processes had the cores 30% of the time"
    assert said in prediction(waited=0.3).sentence()
    assert said not in prediction(waited=0.1).sentence()
    assert said not in prediction(waited=0.3, seconds=None).sentence()
    assert crowded([prediction(waited=0.1).as_json(), prediction(waited=0.3).as_json(), {"status": "failed"}])
    assert not crowded([prediction(waited=0.1).as_json(), prediction().as_json()])
