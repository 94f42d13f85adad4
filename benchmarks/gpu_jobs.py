"""Several configurations of LoRA at once on one GPU (what `tunesmith compare --jobs N` does): tokens a second of all of them together.

    python benchmarks/gpu_jobs.py --device cuda --output benchmarks/results/gpu_jobs.json
    python benchmarks/gpu_jobs.py --device cpu --rows 32 --batch-size 2 --together 1,2 --output /tmp/look.json

A step of a small model on a large GPU waits for its host most of the time, and other runs can compute meanwhile. Each run is a process with its
own copy of the base and a rank of its own. The rate of each is that of the second half of its steps. Rows and settings are those of case j of `bench.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE / "speed"))

from bench import Bench  # noqa: E402
from cases import GPU_CASES  # noqa: E402
from rows import OPTIONS  # noqa: E402

CHILD = "import json, sys, tunesmith; tunesmith.train(**json.load(open(sys.argv[1])))"
RANKS = (2, 4, 8, 16, 32, 64, 12, 24)


def measured(bench: Bench, place: Path, given: argparse.Namespace, together: int) -> dict[str, Any]:
    """So many runs at once: what they learn from in a second, and what each of them holds."""
    case, children, folders = bench.case, [], []
    for number in range(together):
        folder = place / f"{together}-{number}"
        settings = {
            "model": bench.own, "task": case.task, "technique": "lora", "train": bench.files["rows"], "eval": bench.files["eval"], "seed": 0,
            "batch_size": given.batch_size, "max_length": case.max_length, "learning_rate": case.learning_rate, "dtype": "bfloat16",
            "output": str(folder), "doctor": False, "device": given.device, "epochs": 1.0, "lora": {"rank": RANKS[number], "dropout": 0.05},
            "training": {"log_every": 1, "plan": False}, **OPTIONS,
        }  # fmt: skip
        spec = place / f"{together}-{number}.json"
        spec.write_text(json.dumps(settings), encoding="utf-8")
        command = [sys.executable, "-c", CHILD, str(spec)]
        children.append(
            subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        )
        folders.append(folder)
    for child in children:
        _, said = child.communicate()
        if child.returncode:
            raise SystemExit(said.decode()[-3000:])
    rates, peaks = [], []
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = [line for line in lines if line["event"] == "train"]
        half, last = steps[len(steps) // 2 - 1], steps[-1]
        rates.append((last["tokens"] - half["tokens"]) / (last["seconds"] - half["seconds"]))
        peaks.append(last["peak_memory_bytes"])
    return {"runs": together, "tokens_per_second": sum(rates), "each": rates, "peak_memory_bytes_each": max(peaks)}


def main() -> None:
    """Measure one, two and more at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--together", default="1,2,4,8")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    from tunesmith.console import quiet_libraries, set_verbosity
    from tunesmith.evaluation import cost

    set_verbosity(-1)
    quiet_libraries()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        bench = Bench(GPU_CASES[0], place, False, given.rows, given.device)
        for together in map(int, given.together.split(",")):
            rows.append(measured(bench, place, given, together))
            print(f"{together} at once: {rows[-1]['tokens_per_second']:,.0f} tokens/s together", flush=True)
            found = {"what": GPU_CASES[0].what, "batch_size": given.batch_size, "rows": rows}
            found |= {"versions": cost.versions(), "hardware": cost.hardware()}
            given.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
