"""A made-up comparison with realistic numbers: ten techniques, three baselines, the untouched model."""

from __future__ import annotations

import math
import random
from typing import Any

from tunesmith.compare.statistics import aggregate

MIB = 1024**2
# name: accuracy, spread over seeds, trainable parameters, peak MiB, seconds, learning rate
TECHNIQUES: dict[str, tuple[float, float, int, float, float, float]] = {
    "full": (0.846, 0.005, 4_386_178, 942, 128.0, 5e-5),
    "feature-based": (0.701, 0.002, 258, 402, 6.4, 1e-3),
    "bitfit": (0.792, 0.006, 9_090, 611, 71.0, 2e-3),
    "prompt-tuning": (0.712, 0.024, 2_818, 688, 96.0, 1e-2),
    "prefix-tuning": (0.768, 0.011, 20_738, 655, 88.0, 5e-3),
    "adapter": (0.831, 0.006, 67_458, 634, 79.0, 1e-3),
    "lora": (0.841, 0.004, 33_026, 622, 74.0, 5e-4),
    "dora": (0.843, 0.005, 34_562, 703, 109.0, 5e-4),
    "ia3": (0.783, 0.008, 1_538, 605, 69.0, 5e-3),
    "peft:VERA": (0.774, 0.009, 4_354, 640, 83.0, 5e-3),
}
BASELINES = {"majority": 0.502, "tfidf": 0.815, "linear-probe": 0.699}
TOTAL = 4_386_178


def fake_run(name: str, seed: int, *, kind: str = "technique", steps: int = 250) -> dict[str, Any]:
    """One finished run of a technique with a loss curve that goes down."""
    accuracy, spread, trainable, memory, seconds, rate = TECHNIQUES[name]
    noise = random.Random(f"{name}/{seed}")
    after = round(accuracy + spread * noise.gauss(0, 1), 4)
    curve: list[dict[str, Any]] = []
    for step in range(10, steps + 1, 10):
        progress = 1 - math.exp(-step / (60 if trainable > 1e5 else 110))
        loss = 0.693 - (accuracy - 0.45) * 0.95 * progress + 0.018 * noise.gauss(0, 1)
        entry = None
        if step % 50 == 0:
            entry = {
                "accuracy": round(0.5 + (after - 0.5) * progress**0.7 + 0.004 * noise.gauss(0, 1), 4),
                "loss": loss + 0.02,
            }
        curve.append({"step": step, "seconds": seconds * step / steps, "loss": round(loss, 4), "eval": entry})
    return {
        "technique": name,
        "kind": kind,
        "seed": seed,
        "status": "finished",
        "reason": None,
        "folder": f"runs/{name}/{seed}",
        "learning_rate": rate,
        "metrics": {
            "before": {"accuracy": 0.497, "f1_macro": 0.34, "mcc": 0.0, "loss": 0.6987},
            "after": {
                "accuracy": after,
                "f1_macro": after - 0.002,
                "mcc": 2 * after - 1,
                "loss": round(1.25 * (1 - after) + 0.2, 4),
            },
            "primary": "accuracy",
        },
        "cost": {
            "trainable_parameters": trainable,
            "total_parameters": TOTAL + (0 if name in ("full", "feature-based") else trainable),
            "train_seconds": seconds * (1 + 0.02 * noise.gauss(0, 1)),
            "tokens_per_second": 760_000 / seconds,
            "peak_memory_bytes": int(memory * MIB * (1 + 0.004 * noise.gauss(0, 1))),
            "artifact_bytes": 4 * trainable + 1800,
            "predicted_memory_bytes": int(memory * MIB * 1.06),
            "predicted_seconds": seconds * 0.9,
        },
        "curve": curve,
    }


def fake_baseline(name: str, accuracy: float, seed: int, kind: str = "baseline") -> dict[str, Any]:
    """A run without training of the model: costs are zeros or null."""
    return {
        "technique": name,
        "kind": kind,
        "seed": seed,
        "status": "finished",
        "reason": None,
        "folder": f"runs/{name}/{seed}",
        "learning_rate": None,
        "metrics": {
            "before": {},
            "after": {"accuracy": accuracy, "f1_macro": accuracy - 0.01, "mcc": 2 * accuracy - 1, "loss": 0.6},
            "primary": "accuracy",
        },
        "cost": {
            "trainable_parameters": 0,
            "total_parameters": TOTAL if kind == "untouched" else 0,
            "train_seconds": 0.0,
            "tokens_per_second": 0.0,
            "peak_memory_bytes": 0,
            "artifact_bytes": 0,
            "predicted_memory_bytes": None,
            "predicted_seconds": None,
        },
        "curve": [],
    }


def failed_run(name: str, seed: int, reason: str, status: str = "failed") -> dict[str, Any]:
    """A run that ended without a result."""
    run = {"technique": name, "kind": "technique", "seed": seed, "status": status, "reason": reason}
    return {**run, "folder": f"runs/{name}/{seed}", "learning_rate": None, "metrics": None, "cost": None, "curve": []}


def fake_protocol(seeds: int = 3) -> dict[str, Any]:
    """The settings that the made-up runs share."""
    return {
        "model": "asset:bert-tiny",
        "task": "text-classification",
        "train": "asset:movie-reviews",
        "eval": "/data/đánh-giá-phim/kiểm-tra.jsonl",
        "seeds": list(range(seeds)),
        "epochs": 1.0,
        "max_steps": None,
        "batch_size": 16,
        "techniques": [*TECHNIQUES, "qlora"],
        "baselines": list(BASELINES),
        "primary": "accuracy",
        "higher_is_better": True,
        "command": "tunesmith compare --model asset:bert-tiny --task text-classification --train asset:movie-reviews "
        "--eval /data/đánh-giá-phim/kiểm-tra.jsonl --techniques full,lora,dora --seeds 3 --epochs 1 --output out",
        "versions": {
            "tunesmith": "0.1.0",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "peft": "0.21.2",
            "python": "3.11.9",
        },
        "hardware": {"cpu": "Intel Xeon 8488C", "cores": 2, "memory_bytes": 8 * 1024**3, "gpu": None},
        "rows": {"train": 4000, "validation": 0, "eval": 1000},
        "data_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "model_sha256": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
        "created": "2026-11-22T00:00:00Z",
        "wall_seconds": 2712.0,
    }


def comparison(runs: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """results.json of some runs, rows aggregated as the runner does it."""
    protocol = {**fake_protocol(), **changes}
    return {"schema_version": 1, "protocol": protocol, "rows": aggregate(runs, protocol), "runs": runs}


def full_comparison(seeds: int = 3) -> dict[str, Any]:
    """Ten techniques, three baselines, the untouched model, one refused technique and one seed that failed."""
    runs = [fake_baseline("untouched", 0.497, 0, "untouched")]
    runs += [fake_baseline(name, accuracy, 0) for name, accuracy in BASELINES.items()]
    runs += [fake_run(name, seed) for name in TECHNIQUES for seed in range(seeds)]
    if seeds > 1:
        lost = next(i for i, run in enumerate(runs) if run["technique"] == "prompt-tuning" and run["seed"] == 1)
        runs[lost] = failed_run("prompt-tuning", 1, "the loss was not finite at step 40; lower --learning-rate")
    reason = "nf4 needs bitsandbytes, which is not installed; pip install 'tunesmith[qlora]'"
    runs += [failed_run("qlora", seed, reason, "refused") for seed in range(seeds)]
    return comparison(runs, seeds=list(range(seeds)))
