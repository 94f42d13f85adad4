"""Several runs at once: the same numbers as one after the other, cores divided, everything stopped by one signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import tunesmith
from tunesmith import processes
from tunesmith.compare import jobs
from tunesmith.errors import Interrupted
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows


def test_two_at_once_are_the_same_as_one_by_one(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(jobs.THREADS, "1")
    there: list[int] = []
    real = processes.call
    lock, now = threading.Lock(), 0

    def watched(target: str, payload: dict[str, Any], **more: Any) -> dict[str, Any]:
        nonlocal now
        with lock:
            now += 1
            there.append(now)
        try:
            return real(target, payload, **more)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(processes, "call", watched)
    found = {}
    for count in (1, 2):
        there.clear()
        done = tunesmith.compare(
            str(tiny_model("bert", models / "bert")), train=toy_rows(32), eval=toy_rows(8), techniques=["lora", "bitfit"], seeds=[0],
            baselines=[], max_steps=3, batch_size=4, jobs=count, output=tmp_path / str(count),
        )  # fmt: skip
        assert max(there) == count
        found[count] = done.results
        assert done.results["protocol"].get("jobs") == (None if count == 1 else 2)
        assert ("shared the machine" in done.report.read_text(encoding="utf-8")) == (count == 2)
    for one, two in zip(found[1]["runs"], found[2]["runs"], strict=True):
        assert (one["technique"], one["metrics"]) == (
            two["technique"],
            two["metrics"],
        )  # the same bits, in the same order
    for name in ("lora", "bitfit"):
        files = [(tmp_path / count / "runs" / name / "0" / "predictions.jsonl").read_bytes() for count in ("1", "2")]
        assert files[0] == files[1]


def test_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "cores", lambda: 8)
    monkeypatch.delenv(jobs.THREADS, raising=False)
    assert [jobs.threads_of(n) for n in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv(jobs.THREADS, "5")
    assert jobs.threads_of(2) == 5


THREADS = "{'threads': __import__('torch').get_num_threads(), 'pid': __import__('os').getpid()}"


def test_a_child_takes_the_threads_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    question: Any = THREADS
    found = processes.call("builtins:eval", question, environment={jobs.THREADS: "3"}, begun=told.append)
    assert found["threads"] == 3 and told == [found["pid"]]
    monkeypatch.setattr(processes, "_address", None)  # where nothing can be forked
    monkeypatch.setenv(jobs.THREADS, "2")
    assert processes.call("builtins:eval", question, environment={jobs.THREADS: "1"})["threads"] == 1


def test_a_failure_of_ours_stops_the_rest() -> None:
    pool = jobs.Pool(2)
    begun = []

    def work(number: int) -> dict[str, Any]:
        begun.append(number)
        if number == 0:
            raise ZeroDivisionError
        time.sleep(0.05)
        return {"number": number}

    with pytest.raises(ZeroDivisionError):
        pool.run([lambda n=n: work(n) for n in range(50)])
    assert len(begun) < 50
    assert jobs.Pool(3).run([lambda n=n: {"number": n} for n in range(7)]) == [{"number": n} for n in range(7)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs signals between processes")
def test_one_signal_stops_all_and_each_keeps_its_state(models: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in toy_rows(64)), encoding="utf-8")
    long = [
        sys.executable, "-m", "tunesmith", "compare", "--model", str(tiny_model("bert", models / "bert")), "--train", str(train),
        "--techniques", "lora,full", "--seeds", "0", "--baselines", "none", "--jobs", "2", "--output", str(tmp_path / "c"),
        "--batch-size", "4", "--set", "doctor=off", "--max-steps", "20000", "--set", "training.log_every=1",
        "--set", "training.evaluations=1", "--set", "training.plan=false",
    ]  # fmt: skip
    process = subprocess.Popen(long, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    logs = [tmp_path / "c" / "runs" / name / "0" / "metrics.jsonl" for name in ("lora", "full")]
    deadline = time.monotonic() + 120
    while not all(log.is_file() and log.stat().st_size for log in logs):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)  # to the comparison alone
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from there" in said
    assert psutil.wait_procs(children, timeout=10)[1] == []
    saved = [sorted((log.parent / "checkpoints").glob("*")) for log in logs]
    assert all(saved), "each run kept its state"


def test_a_run_that_was_stopped_goes_on_and_one_that_failed_starts_over(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = processes.call, []
    code = 130

    def stopping(target: str, payload: dict[str, Any], **_: Any) -> dict[str, Any]:
        asked.append((payload.get("resume", False), payload["overwrite"]))
        place = Path(yaml.safe_load(payload["config"])["output"])
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.yaml").write_text(payload["config"], encoding="utf-8")
        raise processes.ChildError("stopped", code)

    def compare() -> Any:
        return tunesmith.compare(
            str(tiny_model("bert", models / "bert")), train=toy_rows(32), eval=toy_rows(8), techniques=["lora"], seeds=[0], baselines=[],
            max_steps=2, batch_size=4, output=tmp_path / "c",
        )  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(processes, "call", stopping)
        for _ in range(2):
            with pytest.raises(Interrupted):
                compare()
        assert asked == [(False, True), (True, False)]  # begun, then gone on with
        code = 1
        compare()
        assert asked[2:] == [(True, False), (False, True)]  # it cannot go on, so it starts over, and fails
        compare()
        assert asked[4:] == [(False, True)]
    monkeypatch.setattr(processes, "call", real)
    assert compare().results["rows"][0]["status"] == "finished"
