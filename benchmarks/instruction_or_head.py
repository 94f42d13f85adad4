"""Instruction tuning, head fine-tuning and prompting of one model on the same rows, in one table.

    python benchmarks/instruction_or_head.py                 about a quarter of an hour on one core
    python benchmarks/instruction_or_head.py --seeds 0,1,2   more seeds

smollm2-135m on 400 movie reviews, measured on 200 others (64 tokens each), LoRA with its default rate where something is trained:

    prompting      zero-shot, and 4 and 16 solved rows before each question: nothing is trained
    instruction    the same rows as an instruction and the label in words (task text-to-text): the model's own output layer
    head           a new classification head on the last token (task text-classification)

Both trained rows see every row equally often. Finished rows are kept in the JSON file: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import tunesmith
from tunesmith import assets, registry
from tunesmith.config import RunConfig, build
from tunesmith.console import quiet_libraries, set_verbosity
from tunesmith.data.splits import load_roles
from tunesmith.evaluation import cost

RESULT = Path(__file__).parent / "results" / "instruction_or_head.json"
MODEL, DATA, TRAIN, EVAL = "asset:smollm2-135m", "movie-reviews", 400, 200
SHARED: dict[str, Any] = {
    "max_length": 64,
    "batch_size": 8,
    "epochs": 2,
    "technique": "lora",
    "device": "cpu",
    "doctor": False,
    "training": {"head_learning_rate": None},  # as the committed figures were measured
}
INSTRUCTION = "Is the opinion of this film review negative or positive?"
ROWS: dict[str, dict[str, Any]] = {
    "majority": {"baseline": "majority"},
    "zero-shot": {"baseline": "zero-shot"},
    "few-shot, 4": {"baseline": "few-shot", "options": {"shots": 4}},
    "few-shot, 16": {"baseline": "few-shot", "options": {"shots": 16}},
    "instruction tuning": {
        "task": "text-to-text",
        "options": {"text-to-text": {"instruction": INSTRUCTION, "max_new_tokens": 4}},
    },
    "head fine-tuning": {"task": "text-classification", "options": {}},
}


def slices(folder: Path) -> dict[str, str]:
    """The rows to learn from and those to measure on, as files."""
    lines = [line for line in assets.fetch(DATA).read_text(encoding="utf-8").split("\n") if line]
    random.Random(0).shuffle(lines)
    files = {}
    for role, part in (("eval", lines[:EVAL]), ("train", lines[EVAL : EVAL + TRAIN])):
        files[role] = str(folder / f"{role}.jsonl")
        Path(files[role]).write_text("\n".join(part) + "\n", encoding="utf-8")
    return files


def prompted(name: str, options: dict[str, Any], seed: int, files: dict[str, str]) -> dict[str, Any]:
    """A baseline's metrics."""
    config = build(RunConfig, {"model": MODEL, "seed": seed, **files, **SHARED})
    cls, made = registry.load("task", "text-classification"), registry.load("baseline", name)
    task = cls(cls.Options())
    roles = load_roles(config, task)
    task.fit(roles.train)
    started = time.perf_counter()
    guess = made(made.Options(**options)).predict(task, roles, config)
    metric = task.metric()
    for value, row in zip(guess.values, roles.eval.table, strict=True):
        metric.update(value, task.truth(row))
    return {**metric.compute(), "loss": guess.loss, "parameters": 0, "seconds": time.perf_counter() - started}


def trained(task: str, options: dict[str, Any], seed: int, files: dict[str, str], folder: Path) -> dict[str, Any]:
    """A run's metrics."""
    result = tunesmith.train(
        MODEL, task=task, seed=seed, output=folder / "run", overwrite=True, **files, **SHARED, **options
    ).result
    return {
        **result["metrics"]["after"], "before": result["metrics"]["before"], "parameters": result["cost"]["trainable_parameters"],
        "seconds": result["cost"]["train_seconds"], "steps": result["training"]["steps"], "dtype": result["training"]["dtype"],
    }  # fmt: skip


def main() -> None:
    """Run what is missing and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--output", type=Path, default=RESULT, help="the JSON file")
    given = parser.parse_args()
    found = json.loads(given.output.read_text(encoding="utf-8")) if given.output.is_file() else {"rows": {}}
    set_verbosity(-1)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as place:
        files = slices(Path(place))
        for name, row in ROWS.items():
            for seed in (int(seed) for seed in given.seeds.split(",")):
                if str(seed) in found["rows"].setdefault(name, {}):
                    continue
                if "baseline" in row:
                    scores = prompted(row["baseline"], row.get("options", {}), seed, files)
                else:
                    scores = trained(row["task"], row["options"], seed, files, Path(place))
                found["rows"][name][str(seed)] = scores
                print(f"{name}, seed {seed}: accuracy {scores['accuracy']:.4f}", flush=True)
                found |= {
                    "what": f"{MODEL} on {TRAIN} rows of {DATA}, measured on {EVAL} others", "settings": SHARED,
                    "tasks": {n: r.get("task", "text-classification") for n, r in ROWS.items()},
                    "versions": cost.versions(), "hardware": cost.hardware(),
                }  # fmt: skip
                given.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
