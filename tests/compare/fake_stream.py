"""A made-up comparison on a stream of four stages: nine strategies, three techniques, each stage alone, one strategy refused."""

from __future__ import annotations

import random
from typing import Any

from fake_comparison import MIB, TECHNIQUES, TOTAL, failed_run, fake_protocol

from tunesmith.compare.statistics import aggregate
from tunesmith.compare.streams import complete
from tunesmith.metrics.transfer import transfer

STAGES = ["movie-reviews", "tweets", "amazon-reviews", "nyt-editorials"]
# name: how much of a stage is lost with every later one, its own score's loss, factor of training time, bytes of state
STRATEGIES: dict[str, tuple[float, float, float, float]] = {
    "none": (0.06, 0.0, 1.0, 0),
    "ewc": (0.03, 0.01, 1.6, 35 * MIB),
    "synaptic-intelligence": (0.035, 0.01, 1.2, 50 * MIB),
    "l2-sp": (0.045, 0.015, 1.1, 17 * MIB),
    "lwf": (0.03, 0.005, 2.2, 17 * MIB),
    "experience-replay": (0.012, 0.002, 1.5, 0.2 * MIB),
    "generative-replay": (0.03, 0.01, 3.5, 1.4 * MIB),
    "progressive": (0.0, 0.03, 2.5, 70 * MIB),
    "joint": (0.0, -0.005, 1.0, 0),
}
HEIGHT = (0.82, 0.86, 0.78, 0.7)


def stream_run(technique: str, strategy: str, seed: int) -> dict[str, Any]:
    """One finished run."""
    noise = random.Random(f"{technique}/{strategy}/{seed}")
    lost, less, factor, held = STRATEGIES[strategy]
    own = strategy == "progressive"
    height = [h - 0.85 + TECHNIQUES[technique][0] - less for h in HEIGHT]

    def score(i: int, j: int) -> float | None:
        if j > i:
            return None if own else round(0.55 + 0.1 * (i + 1) / (j + 1) + 0.01 * noise.gauss(0, 1), 4)
        return round(height[j] - lost * (i - j) + (0.0 if own else 0.006 * noise.gauss(0, 1)), 4)

    matrix = [[score(i, j) for j in range(4)] for i in range(4)]
    if own:
        matrix = [[matrix[j][j] if j <= i else None for j in range(4)] for i in range(4)]
    if strategy == "joint":
        matrix = matrix[3:]
    untouched = [0.5, *([None] * 3 if own else [0.51, 0.49, 0.5])]
    found = transfer(matrix, untouched, [1.0] * 4)
    after = {f"{name}/accuracy": matrix[-1][j] for j, name in enumerate(STAGES)}
    seconds = TECHNIQUES[technique][4] * factor
    return {
        "technique": technique, "strategy": strategy, "model": "asset:bert-tiny", "kind": "technique", "seed": seed, "status": "finished",
        "reason": None, "folder": f"runs/{technique}+{strategy}/{seed}", "learning_rate": 5e-4, "curve": [],
        "metrics": {"before": {}, "after": {"mean_score": found["average_accuracy"], **after, "loss": 0.5}, "primary": "mean_score"},
        "cost": {
            "trainable_parameters": TECHNIQUES[technique][2], "total_parameters": TOTAL, "train_seconds": seconds, "tokens_per_second": 9e5 / seconds,
            "peak_memory_bytes": int(TECHNIQUES[technique][3] * MIB + held), "artifact_bytes": 1e6,
        },
        "stream": {
            "stages": STAGES, **found, "untouched": untouched, "higher_is_better": [True] * 4, "strategy": strategy,
            "strategy_parameters": int(held / 4), "strategy_bytes": {"memory": int(held), "disk": 0 if strategy == "lwf" else int(held)},
            "tasks": {name: {"stage": name, "primary": "accuracy", "higher_is_better": True} for name in STAGES},
        },
    }  # fmt: skip


def alone_run(technique: str, place: int, seed: int) -> dict[str, Any]:
    """A stage trained by itself."""
    noise = random.Random(f"{technique}/{place}/{seed}")
    name, score = STAGES[place], HEIGHT[place] - 0.85 + TECHNIQUES[technique][0] - 0.01 + 0.004 * noise.gauss(0, 1)
    run = stream_run(technique, "none", seed)
    del run["stream"]
    after = {"accuracy": score, "loss": 0.5}
    return {
        **run,
        "strategy": None,
        "task": name,
        "kind": "alone",
        "metrics": {"before": {}, "after": after, "primary": "accuracy"},
    }


def stream_comparison(
    seeds: int = 3, techniques: tuple[str, ...] = ("full", "lora", "adapter"), *, alone: bool = True
) -> dict[str, Any]:
    """results.json; generative replay is refused with the first technique, and EWC lost a seed with the second."""
    runs = []
    for seed in range(seeds):
        for technique in techniques:
            for strategy in STRATEGIES:
                run = stream_run(technique, strategy, seed)
                if strategy == "generative-replay" and technique == "full":
                    run = {
                        **failed_run(technique, seed, "generative-replay cannot make up rows of it", "refused"),
                        "strategy": strategy,
                        "model": run["model"],
                    }
                if strategy == "ewc" and technique == "lora" and seed == 1:
                    run = {
                        **failed_run(technique, seed, "the loss was not finite at step 40"),
                        "strategy": strategy,
                        "model": run["model"],
                    }
                runs.append(run)
            runs += [alone_run(technique, place, seed) for place in range(4)] if alone else []
    tasks = [{"name": name, "tasks": [{"name": name, "train": f"asset:{name}"}]} for name in STAGES]
    protocol = {
        **fake_protocol(seeds), "train": None, "eval": None, "task": "text-classification", "techniques": list(techniques), "baselines": [],
        "strategies": list(STRATEGIES), "stream": tasks, "alone": alone, "primary": "mean_score",
        "rows": {name: {"train": 1500, "validation": 0, "eval": 400} for name in STAGES}, "data_sha256": {},
    }  # fmt: skip
    return {"schema_version": 1, "protocol": protocol, "rows": complete(aggregate(runs, protocol), runs), "runs": runs}
