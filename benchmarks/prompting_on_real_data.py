"""Prompting without training: zero-shot and few-shot of SmolLM2-135M beside the baselines that need no model, on real rows.

    python benchmarks/prompting_on_real_data.py
    python benchmarks/prompting_on_real_data.py --only token-classification --rows 20

The numbers say what a small instruction model knows of a task before anything is learned, on the first rows of the eval part.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DATA = {
    "text-classification": "movie-reviews",
    "token-classification": "wnut-tweets",
    "question-answering": "population-qa",
    "instruction": "alpaca-mix",
}
BASELINES = ("majority", "zero-shot", "few-shot")


def measure(name: str, rows: int, shots: int) -> dict[str, Any]:
    """Every baseline that knows a task."""
    from tunesmith import config as configuration
    from tunesmith import registry
    from tunesmith.config import RunConfig
    from tunesmith.data.splits import load_roles

    config = configuration.build(
        RunConfig, {"model": "asset:smollm2-135m", "task": name, "train": f"asset:{DATA[name]}", "max_eval_rows": rows, "max_train_rows": 2000}
    )  # fmt: skip
    found: dict[str, Any] = {}
    for kind in BASELINES:
        baseline = registry.load("baseline", kind)
        if name not in baseline.tasks:
            continue
        task = registry.load("task", name)(configuration.options_of(config, "task", name))
        roles = load_roles(config, task)
        task.fit(roles.train)
        options = {"shots": shots} if kind == "few-shot" else {}
        started = time.perf_counter()
        guess = baseline(baseline.Options.model_validate(options)).predict(task, roles, config)
        metric = task.metric()
        for value, row in zip(guess.values, roles.eval.table, strict=True):
            metric.update(value, task.truth(row))
        found[kind] = {**metric.compute(), "loss": guess.loss, "seconds": time.perf_counter() - started}
        print(
            f"{name} {kind}: " + "  ".join(f"{k} {v:.4f}" for k, v in found[kind].items() if v is not None)[:200],
            flush=True,
        )
    return {"data": DATA[name], "rows": len(roles.eval), "primary": task.primary, "shots": shots, "baselines": found}


def main() -> None:
    """Measure what was asked for and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=DATA, action="append")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS / "prompting.json")
    args = parser.parse_args()
    from tunesmith.console import quiet_libraries
    from tunesmith.evaluation import cost

    quiet_libraries()
    tasks = {name: measure(name, args.rows, args.shots) for name in args.only or DATA}
    content = {"model": "smollm2-135m", "tasks": tasks, "versions": cost.versions(), "hardware": cost.hardware()}
    args.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
