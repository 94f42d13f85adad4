"""What it is worth that heads which begin at random learn faster: small cases on real rows, techniques at their default rates, without and with it.

    python benchmarks/head_rates.py [--only NAME,...] [--folder DIR]

Each is a `tunesmith compare --grid training.head_learning_rate=1e-9,auto` with three seeds (a floor of 1e-9 is none). Cases that are in the results already are not
repeated. Why it is the default: docs/decisions/0012.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

RESULTS = Path(__file__).parent / "results" / "head_rates.json"
OFF, ON = "1e-09", "auto"
SHORT = "--max-length 64 --batch-size 8"
CASES = {
    "spam-400-bert-tiny": f"--model asset:bert-tiny --train asset:spam --max-train-rows 400 --max-eval-rows 1000 --epochs 2 {SHORT}",
    "reviews-200-bert-tiny": f"--model asset:bert-tiny --train asset:movie-reviews --max-train-rows 200 --max-eval-rows 1000 --epochs 5 {SHORT}",
    "amazon-500-bert-tiny": f"--model asset:bert-tiny --train asset:amazon-reviews --max-train-rows 500 --max-eval-rows 1000 --epochs 3 {SHORT}",
    "entities-1000-bert-tiny": "--task token-classification --model asset:bert-tiny --train asset:wnut-tweets --max-train-rows 1000 --max-eval-rows 300 --epochs 3 "
    f"{SHORT}",
    "reviews-100-minilm": f"--model asset:minilm --train asset:movie-reviews --max-train-rows 100 --max-eval-rows 500 --epochs 4 {SHORT}",
    "questions-150-minilm": "--task question-answering --model asset:minilm --train asset:population-qa --max-train-rows 150 --max-eval-rows 40 --epochs 3 "
    "--max-length 192 --batch-size 8",
    "reviews-200-smollm2": "--model asset:smollm2-135m --train asset:movie-reviews --max-train-rows 200 --max-eval-rows 200 --epochs 2 --max-length 48 --batch-size 8",
    "entities-200-smollm2": "--task token-classification --model asset:smollm2-135m --train asset:wnut-tweets --max-train-rows 200 --max-eval-rows 200 --epochs 3 "
    "--max-length 48 --batch-size 8",
}
"""By name, what the command line says of rows and model."""


def result(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    """What a run of a comparison wrote."""
    return dict(json.loads((folder / run["folder"] / "result.json").read_text(encoding="utf-8")))


def carry_out(name: str, folder: Path) -> dict[str, Any]:
    """One case: by technique the primary metric and the loss, without and with it."""
    words = [
        "tunesmith",
        "compare",
        *shlex.split(CASES[name]),
        "--techniques",
        "full,lora,adapter",
        "--baselines",
        "none",
        "--seeds",
        "0,1,2",
    ]
    words += ["--jobs", "2", "--grid", f"training.head_learning_rate={OFF},{ON}", "--set", "doctor=off"]
    own = [sys.executable, "-m", *words, "--output", str(folder / name), "-q"]
    done = subprocess.run(own, check=False, env={"OMP_NUM_THREADS": "1", **os.environ})
    if done.returncode:
        raise SystemExit(f"{name} came to an end with exit code {done.returncode}.")
    found = json.loads((folder / name / "results.json").read_text(encoding="utf-8"))
    techniques: dict[str, Any] = {}
    for entry in found["studies"]:
        sides = {}
        for label, value in (("off", OFF), ("on", ON)):
            runs = [
                run
                for run in found["runs"]
                if run["kind"] == "technique"
                and run["technique"] == entry["technique"]
                and run["setting"] == f"{entry['key']}={value}"
            ]
            after = [run["metrics"]["after"] for run in runs]
            sides[label] = {
                "scores": [each[found["protocol"]["primary"]] for each in after],
                "loss": mean(each["loss"] for each in after),
                "heads": [result(folder / name, run)["training"].get("head_learning_rate") for run in runs],
            }
        techniques[entry["technique"]] = sides
    protocol = found["protocol"]
    return {
        "command": shlex.join(words),
        "metric": protocol["primary"],
        "versions": protocol["versions"],
        "techniques": techniques,
    }


def main() -> None:
    """Run what is missing and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names, comma-separated (default: all)")
    parser.add_argument("--folder", type=Path, help="keep the runs here (default: a temporary folder)")
    given = parser.parse_args()
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory() as place:
        for name in given.only.split(",") if given.only else CASES:
            if name in found:
                continue
            found[name] = carry_out(name, given.folder or Path(place))
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            for technique, sides in found[name]["techniques"].items():
                means = [mean(sides[side]["scores"]) for side in ("off", "on")]
                print(f"{name} {technique}: {means[0]:.3f} -> {means[1]:.3f}", flush=True)


if __name__ == "__main__":
    main()
