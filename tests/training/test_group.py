"""One run on several processes: the losses of one, checkpoints for any number, one voice, no hang."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import several
import torch
from safetensors.torch import load_file

from command_line import Cli
from tunesmith import launch, processes
from tunesmith import run as runs
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows
from tunesmith.training.group import Alone, current
from tunesmith.training.log import read
from tunesmith.training.parcels import buckets, filled, plan

HERE = Path(__file__).parent
SAME = 1e-5
"""Of losses: fp32 sums in another order."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def by_one(folder: Path, models: Path) -> Path:
    """The runs by one process; one of them broken off for two to go on with."""
    for name, settings in several.CASES.items():
        several.go(models, folder / "one" / name, **settings)
        gc.freeze()  # what a kind of model imports stays, and each run looks through it five times
    several.go(models, folder / "one" / "halved", **several.HALVED)
    with several.breaking(6), pytest.raises(RuntimeError, match="power cut"):
        several.go(models, folder / "two" / "by-one", **several.HALVED)
    return folder / "one"


@pytest.fixture(scope="module")
def by_two(folder: Path, models: Path, by_one: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    done = subprocess.run(
        [*command, str(HERE / "several.py"), str(models), str(folder / "two")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    (folder / "two" / "stderr").write_text(done.stderr)
    return folder / "two"


def met(by_two: Path, rank: int) -> Any:
    return json.loads((by_two / f"rank-{rank}.json").read_text())


def lines(run: Path, event: str = "train") -> list[dict[str, Any]]:
    return [line for line in read(run / "metrics.jsonl") if line["event"] == event]


def compared(one: Path, two: Path, bound: float = SAME) -> None:
    for event in ("train", "evaluate"):
        assert len(lines(one, event)) == len(lines(two, event))
    for a, b in zip(lines(one), lines(two), strict=True):
        assert a["step"] == b["step"]
        assert a["tokens"] == b["tokens"]
        assert a["loss"] == pytest.approx(b["loss"], abs=bound)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=10 * bound, abs=bound)
    for a, b in zip(lines(one, "evaluate"), lines(two, "evaluate"), strict=True):
        assert a["metrics"] == pytest.approx(b["metrics"], abs=bound)


@pytest.mark.parametrize("name", several.CASES)
def test_two_processes_take_the_steps_of_one(name: str, by_one: Path, by_two: Path) -> None:
    """Losses, gradients, what is chosen and what is saved; fails if a share is left out, counted twice or weighed by its own units."""
    half = name == "half"  # rounded to 8 bits in another order
    compared(by_one / name, by_two / name, 2e-3 if half else SAME)
    one, two = (json.loads((place / name / "result.json").read_text()) for place in (by_one, by_two))
    assert two["training"].pop("processes") == 2
    if not half:
        assert two["metrics"]["after"] == pytest.approx(one["metrics"]["after"], abs=1e-4)
        assert {**one["training"], "warnings": []} == {**two["training"], "warnings": []}
    for path in (by_one / name / "artifact").glob("*.safetensors"):
        mine, theirs = load_file(str(path)), load_file(str(by_two / name / "artifact" / path.name))
        # AdamW's first steps move a weight by the rate whatever the gradient's size, so near a gradient of zero its sign is chance.
        assert mine.keys() == theirs.keys()
        apart = torch.cat([(mine[n].float() - theirs[n].float()).abs().flatten() for n in mine])
        assert float((apart > 1e-4).float().mean()) < (0.2 if half else 0.002)


def test_every_process_is_told_what_the_run_found(by_two: Path) -> None:
    first, second = met(by_two, 0), met(by_two, 1)
    for name in several.CASES:
        assert first[name] == second[name]
        assert first[name]["folder"] == str(by_two / name)


def test_a_checkpoint_goes_on_with_another_number_of_processes(
    by_one: Path, by_two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 -> 2, and 2 that share the parameters out -> 1, broken off in step 6 of 8; fails if a checkpoint holds one process's share."""
    compared(by_one / "halved", by_two / "by-one")
    assert met(by_two, 0)["by-one"] == met(by_two, 1)["by-one"] == 8
    assert [line["step"] for line in lines(by_two / "by-two")] == [1, 2, 3, 4, 5]
    runs.resume(by_two / "by-two")
    compared(by_one / "halved", by_two / "by-two")
    assert "training.shard=true has no effect in one process" in capsys.readouterr().err


def test_an_error_in_one_process_ends_all(by_two: Path) -> None:
    assert met(by_two, 1)["one-fails"] == "RuntimeError: power cut"
    assert met(by_two, 0)["one-fails"] == "Parted: process 1 of the run stopped: power cut"


def test_what_one_process_alone_can_do_is_refused(by_two: Path) -> None:
    assert met(by_two, 0)["strategy"].startswith("UserError: strategy ewc works in one process")
    assert met(by_two, 1)["strategy"].startswith("Parted: process 0 of the run stopped: strategy ewc")
    assert not (by_two / "strategy" / "config.yaml").exists()
    assert met(by_two, 0)["technique"].startswith(
        "UserError: training.shard: it is for the techniques full, lora, bitfit, and this is prefix-tuning"
    )


def test_memory_that_runs_out_in_one_process_makes_smaller_passes_in_all(by_one: Path, by_two: Path) -> None:
    compared(by_one / "halved", by_two / "short")
    assert "from here on a forward pass has at most 2 rows" in (by_two / "stderr").read_text()


def test_one_voice(by_two: Path) -> None:
    said = (by_two / "stderr").read_text()
    for name in ("packed sequences", "bitfit on ", "Resuming at step 4"):
        assert said.count(name) == 1, said
    assert said.count("(its blocks are shared out), in 2 processes") == 2
    for rank in (0, 1):  # the launcher's variables are put back
        assert {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(met(by_two, rank)["environment"])


# ---- the command line


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Any]:
    """`tunesmith ARGS` in two processes without a launcher that watches them: what each gave back, to come, and the number of each."""
    rows = "".join(json.dumps(row) + "\n" for row in toy_rows(32))
    (tmp_path / "train.jsonl").write_text(rows)
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with ThreadPoolExecutor(2) as pool:

        def start(*args: object) -> tuple[list[Future[Any]], list[int]]:
            found = []
            for rank in ("0", "1"):
                own = {"RANK": rank, "LOCAL_RANK": rank, **place}
                payload = {
                    "place": own,
                    "folder": str(tmp_path),
                    "file": str(tmp_path / f"pid-{rank}"),
                    "args": [str(a) for a in args],
                }
                found.append(pool.submit(processes.call, "command_line:beside", payload))
            until = time.monotonic() + 90
            while not lines(tmp_path / "run"):
                assert not found[0].done(), found[0].result()
                assert time.monotonic() < until
                time.sleep(0.05)
            return found, [int((tmp_path / f"pid-{rank}").read_text()) for rank in ("0", "1")]

        yield start


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("how", ["asked to stop", "killed"])
def test_what_happens_to_one_happens_to_all(how: str, pair: Any, tmp_path: Path, models: Path) -> None:
    """SIGTERM to the second saves the state and ends both with 130; SIGKILL of the second ends the first with 1. Neither hangs."""
    args = ("--model", tiny_model("bert", models / "bert"), "--train", "train.jsonl", "--max-steps", 20000)
    answers, numbers = pair(
        "train", *args, "--set", "training.log_every=1", "--set", "training.plan=false", "--output", "run"
    )
    os.kill(numbers[1], signal.SIGTERM if how == "asked to stop" else signal.SIGKILL)
    first = answers[0].result(timeout=60)
    assert first["out"] == ""
    assert not (tmp_path / "run" / "artifact").exists()
    if how == "killed":
        with pytest.raises(processes.ChildError, match="killed"):
            answers[1].result(timeout=60)
        assert first["code"] == 1
        assert "another process of the run is gone without a word" in first["err"]
        return
    second = answers[1].result(timeout=60)
    assert (first["code"], second["code"]) == (130, 130)
    assert (second["out"], second["err"]) == ("", "")
    step = max(line["step"] for line in lines(tmp_path / "run"))
    assert f"interrupted at step {step}; its state is saved; go on with: tunesmith resume run" in first["err"]
    assert list((tmp_path / "run" / "checkpoints").glob(f"step-{step:08d}.*"))


# ---- without processes


def test_only_runs_are_made_by_several(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    found = cli("compare", "--model", "x")
    assert found.code == 2
    assert (
        "`tunesmith compare` works in one process; start it without a launcher (train and resume take several)."
        in found.err
    )
    found = cli("train", "--model", "x", "--train", "y", "--find-learning-rate")
    assert found.code == 2
    assert "--find-learning-rate works in one process" in found.err
    assert cli("train", "--help").code == 0


def test_what_a_launcher_says() -> None:
    said = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
    assert launch.launched(said) == launch.Launch(3, 4, 1, "host", 29500)
    more = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2", "ACCELERATE_USE_FSDP": "true"}
    assert launch.launched({**said, **more}) == launch.Launch(3, 4, 1, "host", 29500, True, 2, True)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        assert launch.launched({k: v for k, v in said.items() if k != name}) is None


def test_nothing_that_a_run_starts_belongs_to_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with launch.set_aside():
        assert not [n for n in os.environ if n == "RANK" or n.startswith(("ACCELERATE_", "TORCHELASTIC_"))]
    assert os.environ["RANK"] == "1" and os.environ["ACCELERATE_MIXED_PRECISION"] == "fp16"


def test_a_state_travels_as_a_plan_and_tensors() -> None:
    state = {"a": torch.arange(3), "b": [(1, 2.5), None, {"c": torch.ones(2, 2, dtype=torch.bfloat16)}], 3: "x"}
    sent: list[torch.Tensor] = []
    received: list[torch.Tensor] = []
    found = filled(plan(state, sent), received)
    for mine, theirs in zip(received, sent, strict=True):
        mine.copy_(theirs)
    assert torch.equal(found["a"], state["a"]) and torch.equal(found["b"][2]["c"], state["b"][2]["c"])
    assert found["b"][:2] == [(1, 2.5), None] and found[3] == "x"


def test_buckets_hold_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.training.parcels.BUCKET", 10)
    tensors = [
        torch.zeros(n, dtype=d)
        for n, d in (
            (4, torch.float32),
            (30, torch.float32),
            (6, torch.float64),
            (4, torch.float32),
            (3, torch.float32),
            (3, torch.float32),
        )
    ]
    found = list(buckets(tensors))
    assert sorted(id(t) for bucket in found for t in bucket) == sorted(map(id, tensors))
    assert [[t.numel() for t in bucket] for bucket in found] == [[4], [30], [4, 3, 3], [6]]
    assert isinstance(current(), Alone) and current().size == 1


def test_too_few_gpus_are_told_by_the_process_that_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only by the one that finds none: it is a follower, which says nothing."""
    from tunesmith.errors import UserError
    from tunesmith.training import group, precision

    monkeypatch.setattr(precision, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for rank in (0, 1):
        with pytest.raises(UserError, match="a GPU of its own"):
            group._device("auto", launch.Launch(rank, 2, rank, "localhost", 1, local_size=2))
