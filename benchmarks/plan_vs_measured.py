"""What `train` predicts of a run before its first step, beside what it then measures.

    OMP_NUM_THREADS=1 python benchmarks/plan_vs_measured.py [--only TEXT] [--most N]

Every cell is a run of its own in a process of its own; cells that are in the results already are not repeated. A prediction knows the passes that
it has timed in the same process and a measurement of the machine's optimiser; no coefficient was regressed on these runs. But the rules of memory were
written with runs of bert-tiny, minilm and smollm2 in view: gemma3-270m is the model that was held out. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from tunesmith.plan.prediction import SPARE

RESULTS = Path(__file__).parent / "results" / "plan_vs_measured.json"
COMMAND = "python benchmarks/plan_vs_measured.py"
TOLERANCE = 3.0  # seconds that a prediction of time may be off whatever its share
Cell = dict[str, Any]


def cells() -> Iterator[Cell]:
    """All of them, the cheapest first."""
    reviews, tweets = ["--train", "asset:movie-reviews"], ["--train", "asset:wnut-tweets"]
    texts = ["--train", "asset:tweets", "--columns", "text=text"]
    bert = ("full", "lora", "adapter", "bitfit", "prompt-tuning", "feature-based")
    for model, steps, rows in (("bert-tiny", 20, 600), ("minilm", 10, 400)):
        for technique in bert:
            for batch in (8, 32):
                yield cell(model, "text-classification", technique, batch, steps, rows, reviews)
    for technique in ("full", "lora", "dora", "prefix-tuning"):
        for batch in (4, 16):
            yield cell("minilm", "token-classification", technique, batch, 10, 300, tweets)
    for model in ("smollm2-135m", "gemma3-270m"):
        for technique in ("full", "lora", "bitfit", "prompt-tuning"):
            for batch in (2, 8) if model == "smollm2-135m" else (2,):
                yield cell(model, "language-modeling", technique, batch, 8, 200, texts)


def cell(model: str, task: str, technique: str, batch: int, steps: int, rows: int, data: list[str]) -> Cell:
    """One run."""
    return {
        "model": model,
        "task": task,
        "technique": technique,
        "batch_size": batch,
        "steps": steps,
        "rows": rows,
        "data": data,
    }


def name_of(each: Cell) -> str:
    """What tells a cell from the others."""
    return " ".join(str(each[key]) for key in ("model", "task", "technique", "batch_size"))


def measure(each: Cell, folder: Path) -> dict[str, Any]:
    """Carry a cell out; prediction, measurement and signed error of both, or why there are none."""
    command = [
        sys.executable, "-m", "tunesmith", "train", "--model", f"asset:{each['model']}", "--task", each["task"], *each["data"],
        "--technique", each["technique"], "--batch-size", str(each["batch_size"]), "--max-steps", str(each["steps"]), "--max-train-rows", str(each["rows"]),
        "--max-eval-rows", "64", "--max-length", "128", "--no-doctor", "--output", str(folder / "run"), "--overwrite", "--json", "-q",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"OMP_NUM_THREADS": "1", **os.environ}
    )
    if done.returncode:
        return {
            "reason": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        }
    result = json.loads(done.stdout)
    cost = result["cost"]
    found: dict[str, Any] = {
        "parts": result["plan"]["memory"],
        "fits": result["plan"]["fits"],
        "hardware": result["provenance"]["hardware"],
    }
    for name, before, after in (
        ("memory", "predicted_memory_bytes", "peak_memory_bytes"),
        ("seconds", "predicted_seconds", "train_seconds"),
        ("artifact", None, "artifact_bytes"),
    ):
        said = result["plan"]["artifact_bytes"] if before is None else cost[before]
        found[name] = {"predicted": said, "measured": cost[after], "error": said / cost[after] - 1}
    return found


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and worst of the errors without sign; of time, those within 3 seconds count as none in `worst beyond 3 s`."""
    found = {}
    for name in ("memory", "seconds", "artifact"):
        errors = [abs(run[name]["error"]) for run in runs]
        found[name] = {"runs": len(errors), "median": median(errors), "worst": max(errors)}
    beyond = [
        abs(run["seconds"]["error"])
        if abs(run["seconds"]["predicted"] - run["seconds"]["measured"]) > TOLERANCE
        else 0.0
        for run in runs
    ]
    found["seconds, beyond 3 s"] = {"runs": len(beyond), "median": median(beyond), "worst": max(beyond)}
    return found


def wrongly(runs: list[dict[str, Any]]) -> int:
    """Runs that some machine exists for on which the plan says `fits` and the run does not: a plan says so from `SPARE` times its peak on."""
    return sum(SPARE * run["memory"]["predicted"] < run["memory"]["measured"] for run in runs)


def main() -> None:
    """Carry out what is missing and write the results after every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cells whose name holds this")
    parser.add_argument("--most", type=int, default=None, help="so many at most")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    kept = (
        json.loads(asked.output.read_text(encoding="utf-8")) if asked.output.is_file() else {"runs": [], "refused": []}
    )
    there = {name_of(each) for each in [*kept["runs"], *kept["refused"]]}
    todo = [each for each in cells() if asked.only in name_of(each) and name_of(each) not in there][: asked.most]
    for number, each in enumerate(todo, 1):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(each, Path(folder))
        kept["refused" if "reason" in found else "runs"].append({**each, **found})
        content = {
            "what": "Runs of a few steps, each predicted before its first step and then measured, in a process of its own.",
            "command": COMMAND,
            **({"summary": summary(kept["runs"]), "fits_wrongly": wrongly(kept["runs"])} if kept["runs"] else {}),
            **kept,
        }
        asked.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        shown = found.get("reason") or ", ".join(
            f"{name} {found[name]['error']:+.1%}" for name in ("memory", "seconds", "artifact")
        )
        print(f"[{number}/{len(todo)}] {name_of(each)}: {shown}", flush=True)


if __name__ == "__main__":
    main()
