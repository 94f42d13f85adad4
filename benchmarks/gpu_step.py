"""What a step of LoRA on a GPU gains from fewer and larger kernels: variants of one run, one after the other in one process.

    python benchmarks/gpu_step.py --device cuda --output benchmarks/results/gpu_step.json
    python benchmarks/gpu_step.py --device cpu --rows 40 --batch-size 2 --steps 8 --output /tmp/look.json

The rate is that of the second half of the steps; what comes before the first half is over is mostly compiling, where that is done. Rows, model and
settings are those of the case j of `bench.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE / "speed"))

from bench import Bench  # noqa: E402
from cases import GPU_CASES  # noqa: E402
from rows import OPTIONS  # noqa: E402

VARIANTS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "norms as the model writes them": {"norms": False},
    "LoRA as peft computes it": {"training": {"fused_lora": False}},
    "both as they were": {"norms": False, "training": {"fused_lora": False}},
    "as it comes, again": {},
    "compiled": {"training": {"compile": True}},
}


PROFILED = (6, 9)  # steps


class _Enough(Exception):
    """The fit is over; nothing behind it is measured."""


def run(bench: Bench, place: Path, given: argparse.Namespace, variant: dict[str, Any], steps: int) -> dict[str, Any]:
    """One fit: its rate, the seconds of its first half, memory and last loss."""
    import torch

    import tunesmith
    from tunesmith.training import loop, norms
    from tunesmith.training.log import read

    plain, found = loop.fit, {}

    def fit(session: Any) -> Any:
        plain(session)
        lines = [line for line in read(session.log.path) if line["event"] == "train"]
        half, last = lines[len(lines) // 2 - 1], lines[-1]
        found.update(
            tokens_per_second=(last["tokens"] - half["tokens"]) / (last["seconds"] - half["seconds"]), seconds_of_first_half=half["seconds"],
            seconds_of_second_half=last["seconds"] - half["seconds"], loss=last["loss"], peak_memory_bytes=last["peak_memory_bytes"],
        )  # fmt: skip
        raise _Enough

    with ExitStack() as patched:
        patched.enter_context(mock.patch.object(loop, "fit", fit))
        if variant.get("norms") is False:
            patched.enter_context(mock.patch.object(norms, "install", lambda *_: None))
        if given.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with suppress(_Enough):
            tunesmith.train(
                bench.own, task=bench.case.task, technique="lora", train=bench.files["rows"], eval=bench.files["eval"], seed=0,
                batch_size=given.batch_size, max_length=bench.case.max_length, learning_rate=2e-4, dtype="bfloat16", output=place / "run",
                overwrite=True, doctor=False, device=given.device, max_steps=steps, lora={"rank": 16, "alpha": 32, "dropout": 0.05},
                training={"log_every": max(1, steps // 8), "plan": False, **variant.get("training", {})}, **OPTIONS,
            )  # fmt: skip
    return found


def profiled(bench: Bench, place: Path, given: argparse.Namespace) -> dict[str, Any]:
    """A run whose steps are looked into: by kind of work, calls and milliseconds a step, on the host and on the device (profiling slows the host)."""
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    from tunesmith.training import loop

    plain, first, last = loop._train_step, *PROFILED
    seen: list[Any] = []
    look = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if given.device == "cuda" else [])])

    def step(session: Any, *more: Any) -> Any:
        if session.step == first:
            look.__enter__()
        found = plain(session, *more)
        if session.step == last - 1:
            if given.device == "cuda":
                torch.cuda.synchronize()
            look.__exit__(None, None, None)
            seen.extend(look.key_averages())
        return found

    with mock.patch.object(loop, "_train_step", step):
        run(bench, place, given, {}, last + 1)
    steps = last - first
    rows = [
        {"what": each.key, "calls": each.count / steps, "host_ms": each.self_cpu_time_total / 1e3 / steps,
         "device_ms": each.self_device_time_total / 1e3 / steps}
        for each in seen
    ]  # fmt: skip
    return {
        "host": sorted(rows, key=lambda row: -row["host_ms"])[:30],
        "device": sorted(rows, key=lambda row: -row["device_ms"])[:20],
        "host_ms": sum(row["host_ms"] for row in rows),
        # A kernel's time stands beside its own name and beside the operation that started it.
        "device_ms": sum(
            each.self_device_time_total / 1e3 / steps for each in seen if each.device_type == DeviceType.CUDA
        ),
    }


def launching(device: str, times: int = 4000) -> float:
    """Microseconds of the host for one operation on a few numbers: what an operation costs at least."""
    import torch

    x = torch.zeros(8, device=device)
    for _ in range(2):
        began = time.perf_counter()
        for _ in range(times):
            x.add_(1)
        seconds = time.perf_counter() - began
        if device == "cuda":
            torch.cuda.synchronize()
    return seconds / times * 1e6


def main() -> None:
    """Measure all variants and store them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    from tunesmith.console import quiet_libraries, set_verbosity
    from tunesmith.evaluation import cost

    set_verbosity(-1)
    quiet_libraries()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        bench = Bench(GPU_CASES[0], place, False, given.rows, given.device)
        run(bench, place, given, {}, max(2, given.steps // 4))  # what only the first run of a process pays
        microseconds = launching(given.device)
        looked = profiled(bench, place, given)
        print(
            f"{microseconds:.1f} us an operation; profile {looked['host_ms']:.0f} ms host, {looked['device_ms']:.0f} ms device",
            flush=True,
        )
        for name, variant in VARIANTS.items():
            rows[name] = run(bench, place, given, variant, given.steps)
            print(f"{name:<34}{rows[name]['tokens_per_second']:10,.0f} tokens/s", rows[name], flush=True)
            found = {"what": GPU_CASES[0].what, "steps": given.steps, "batch_size": given.batch_size, "rows": rows}
            found |= {"microseconds_an_operation": microseconds, "profile": looked}
            found |= {"versions": cost.versions(), "hardware": cost.hardware()}
            given.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
