"""Where memory runs out, a step is taken in smaller passes: the same step."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tunesmith
from tunesmith.errors import MemoryShortage
from tunesmith.evaluation import evaluate as evaluation
from tunesmith.evaluation.shortage import is_shortage
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows
from tunesmith.training.feed import Pass

MESSAGES = {
    "torch.OutOfMemoryError": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "allocator": RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    "python": MemoryError(),
}  # fmt: skip

STILL: dict[str, Any] = {"training": {"dropout": 0.0}, "lora": {"dropout": 0.0}}
"""Without dropout, whose masks depend on how a step is cut."""


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """`room_for(3)`: a pass of more rows runs out of memory, from some step on; returns the sizes of those that ran."""

    def limit(rows: int, error: BaseException = MESSAGES["allocator"], first: int = 1) -> list[int]:
        sizes: list[int] = []
        real, begun = Pass.arm, 0

        def arm(self: Pass) -> None:
            nonlocal begun
            begun += 1
            count = len(self.batch["input_ids"])
            if begun >= first and count > rows:
                raise error
            sizes.append(count)
            real(self)

        monkeypatch.setattr(Pass, "arm", arm)
        return sizes

    return limit


def go(place: Path, models: Path, kind: str = "bert", **settings: Any) -> tunesmith.RunResult:
    given: dict[str, Any] = {
        "technique": "lora", "max_steps": 6, "batch_size": 8, "dtype": "float32", "doctor": False, "device": "cpu", "learning_rate": 1e-2,
        "train": toy_rows(32), "eval": toy_rows(8), **settings,
    }  # fmt: skip
    given["training"] = {"plan": False, **given.get("training", {})}  # or its passes would be the first to run out
    return tunesmith.train(str(tiny_model(kind, models / kind)), output=place, **given)


def weights(run: tunesmith.RunResult) -> dict[str, torch.Tensor]:
    return load_file(run.artifact / "adapter_model.safetensors")


def apart(one: tunesmith.RunResult, other: tunesmith.RunResult) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.parametrize("error", MESSAGES.values(), ids=MESSAGES)
def test_the_step_is_the_same_in_smaller_passes(
    error: Exception, tmp_path: Path, models: Path, room_for: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """With dropout: the run is that with a small `micro_batch_size` from the start, to the bit."""
    wanted = go(tmp_path / "small", models, training={"micro_batch_size": 2}, lora={"dropout": 0.3})
    sizes = room_for(3, error)
    capsys.readouterr()
    found = go(tmp_path / "short", models, lora={"dropout": 0.3})
    assert apart(wanted, found) == 0.0
    assert max(sizes) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "memory ran out at step 1: from here on a forward pass has at most 4 rows" in said
    assert "at most 2 rows" in said and "step 2" not in said


@pytest.mark.parametrize("error", MESSAGES.values(), ids=MESSAGES)
def test_a_plan_that_runs_out_says_less_and_the_run_goes_on(
    error: Exception, tmp_path: Path, models: Path, room_for: Any
) -> None:
    room_for(1, error)
    found = go(tmp_path / "run", models, max_steps=2, training={"plan": True})
    cost = found.result["cost"]
    assert cost["predicted_seconds"] is None and cost["predicted_memory_bytes"] is None
    assert "could not be counted" in str(found.result["plan"])


def test_later_in_a_run_nothing_is_learned_twice(tmp_path: Path, models: Path, room_for: Any) -> None:
    """It runs out in the second of several passes, when the first has left its gradient."""
    plain = go(tmp_path / "plain", models, **STILL)
    sizes = room_for(4, first=4)
    short = go(tmp_path / "short", models, **STILL)
    assert max(sizes[:3]) == 8 and max(sizes[4:]) <= 4
    assert apart(plain, short) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("bert", "text-classification"),
        ("llama", "language-modeling"),
        ("t5", "summarization"),
        ("lstm", "language-modeling"),
    ],
)
def test_a_backward_pass_that_broke_off_leaves_nothing(
    kind: str, task: str, dtype: str, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradients are there when memory runs out; in half precision they are the model's, and not the masters' yet."""
    from accelerate import Accelerator

    rows = rows_for(task, 64)
    settings: dict[str, Any] = {
        "task": task,
        "train": rows,
        "eval": rows[:8],
        "max_steps": 2,
        "dtype": dtype,
        "max_length": 24,
        **STILL,
    }
    wanted = go(tmp_path / "small", models, kind, **{**settings, "training": {"dropout": 0.0, "micro_batch_size": 4}})
    real, broken = Accelerator.backward, []

    def backward(self: Any, loss: torch.Tensor, **more: Any) -> None:
        real(self, loss, **more)
        if not broken:
            broken.append(1)
            raise MESSAGES["allocator"]

    monkeypatch.setattr(Accelerator, "backward", backward)
    found = go(tmp_path / "short", models, kind, **settings)
    assert broken
    assert apart(wanted, found) == 0.0


@pytest.mark.parametrize("weighting", ["pcgrad", "uncertainty"])
def test_several_tasks_in_a_step(weighting: str, tmp_path: Path, models: Path, room_for: Any) -> None:
    tasks = [
        {"name": "films", "train": toy_rows(32), "eval": toy_rows(8)},
        {"name": "words", "task": "token-classification", "train": rows_for("token-classification", 32), "eval": rows_for("token-classification", 8)},
    ]  # fmt: skip
    settings = {
        "train": None,
        "eval": None,
        "batch_size": 16,
        "stream": {"stages": [{"name": "both", "tasks": tasks, "weighting": weighting}]},
        **STILL,
    }
    plain = go(tmp_path / "plain", models, **settings)
    room_for(3, first=2)
    assert apart(plain, go(tmp_path / "short", models, **settings)) < 1e-5


@pytest.mark.parametrize("strategy", ["lwf", "experience-replay"])
def test_what_a_strategy_adds_is_added_once(strategy: str, tmp_path: Path, models: Path, room_for: Any) -> None:
    flipped = [{**row, "label": "negative" if row["label"] == "positive" else "positive"} for row in toy_rows(32)]
    stages = [
        {"name": name, "train": rows, "eval": toy_rows(8)} for name, rows in (("one", toy_rows(32)), ("two", flipped))
    ]
    settings = {
        "train": None,
        "eval": None,
        "strategy": strategy,
        "stream": {"stages": stages},
        "max_steps": 4,
        **STILL,
    }
    plain = go(tmp_path / "plain", models, **settings)
    room_for(6)
    short = go(tmp_path / "short", models, **settings)
    assert apart(plain, short) < 1e-4
    assert short.result["stream"]["matrix"] == plain.result["stream"]["matrix"]


def test_a_resumed_run_keeps_to_the_smaller_passes(tmp_path: Path, models: Path, room_for: Any, power_cut: Any) -> None:
    settings: dict[str, Any] = {"lora": {"dropout": 0.3}, "training": {"checkpoint_every": 2}}
    sizes = room_for(5)
    whole = go(tmp_path / "whole", models, **settings)
    with power_cut(4):
        go(tmp_path / "cut", models, **settings)
    sizes.clear()
    tunesmith.resume(tmp_path / "cut")
    assert max(sizes) == 4
    again = tunesmith.RunResult(tmp_path / "cut", {})
    assert apart(whole, again) == 0.0


def test_one_row_that_does_not_fit_ends_the_run(tmp_path: Path, models: Path, room_for: Any) -> None:
    room_for(0)
    with pytest.raises(
        MemoryShortage, match=r"memory ran out at step 1 in a forward pass of 1 row of \d+ tokens .*lower --max-length"
    ):
        go(tmp_path / "run", models)


def test_it_can_be_turned_off(tmp_path: Path, models: Path, room_for: Any) -> None:
    room_for(4)
    with pytest.raises(MemoryShortage, match="a forward pass of 8 rows"):
        go(tmp_path / "run", models, training={"auto_micro_batch": False})


def test_other_errors_are_not_taken_for_it(tmp_path: Path, models: Path, room_for: Any) -> None:
    sizes = room_for(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        go(tmp_path / "run", models)
    assert not sizes
    assert not is_shortage(ValueError("out of memory"))
    # What oneDNN says where an allocation of its own fails, and where it does not know an operation.
    assert is_shortage(RuntimeError("could not create a primitive"))
    assert not is_shortage(RuntimeError("could not create a primitive descriptor for a matmul primitive"))


def test_measuring_takes_smaller_batches_too(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = go(tmp_path / "plain", models)
    real, sizes = evaluation._answers, []

    def short(model: Any, task: Any, encoded: Any, indices: Any, *others: Any) -> Any:
        if len(indices) > 3:
            raise MESSAGES["allocator"]
        sizes.append(len(indices))
        return real(model, task, encoded, indices, *others)

    monkeypatch.setattr(evaluation, "_answers", short)
    found = go(tmp_path / "short", models)
    assert max(sizes) <= 3
    assert found.metrics == pytest.approx(plain.metrics, abs=1e-6)


# It is about tensors, so nothing else may need the room that is left: libraries are loaded by a short run first and the limit holds for one
# step, a thread's first allocation reserves nothing (glibc: 64 MB), and tensors are mapped each for itself and gone when freed. In the heap
# they would leave holes that count as taken, and the pages for the code of oneDNN's next kernel would find no room whatever its batch.
SCRIPT = """
import resource, sys
import torch, tunesmith
from tunesmith.training import loop, memory
torch.set_num_threads(1)
memory.available = lambda device: 1 << 40          # or what is missing would be known, and activations recomputed
rows = [{{"text": " ".join(["good" if i % 2 else "bad"] * 100), "label": ["no", "yes"][i % 2]}} for i in range(128)]
def go(place, **more):
    tunesmith.train({model!r}, train=rows, eval=rows[:4], technique="full", dtype="float32", doctor=False, device="cpu", output={place!r} + place,
                    training={{"plan": False}}, **more)
go("warm", max_steps=1, batch_size=2)
real = loop._train_step
def tight(*args):
    loop._train_step = real
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + {room} * 2**20, resource.RLIM_INFINITY))
    try:
        return real(*args)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
loop._train_step = tight
go("tight", max_steps=2, batch_size=128)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_a_real_limit_of_the_address_space(tmp_path: Path, models: Path) -> None:
    model = str(tiny_model("bert", models / "bert"))
    script = SCRIPT.format(room=60, model=model, place=str(tmp_path / "run-"))
    surroundings = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False, env=surroundings
    )
    said = " ".join(done.stderr.split())
    assert done.returncode == 0, said[-2000:]
    assert "memory ran out at step 1" in said
    assert (tmp_path / "run-tight" / "result.json").is_file()
