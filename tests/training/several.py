"""Runs that are made by one process and by several: `python -m torch.distributed.run --nproc-per-node 2 several.py MODELS OUTPUT` makes them by two.

Each process writes what it met to OUTPUT/rank-N.json.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.testing.rows import rows_for, toy_rows

STILL = {"dropout": 0.0, "log_every": 1}
TASKS = [
    {"name": "reviews", "task": "text-classification", "train": toy_rows(24), "eval": toy_rows(8)},
    {"name": "words", "task": "token-classification", "train": rows_for("token-classification", 24), "eval": rows_for("token-classification", 8)},
]  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "choosing": {
        "kind": "bert", "technique": "lora", "lora": {"dropout": 0.0}, "max_steps": 8, "validation": toy_rows(9),
        "training": {**STILL, "evaluate_every": 2, "keep_best": True, "early_stopping": 2},
    },
    "packed": {"kind": "gpt2", "task": "language-modeling", "technique": "full", "max_length": 32},
    "masked": {
        "kind": "bert", "task": "language-modeling", "technique": "bitfit", "batch_size": 5, "training": {**STILL, "length_buckets": False},
    },
    "half": {"kind": "llama", "technique": "lora", "lora": {"dropout": 0.0}, "dtype": "bfloat16"},
    "pcgrad": {"kind": "bert", "technique": "full", "stream": {"stages": [{"name": "both", "tasks": TASKS, "weighting": "pcgrad"}]}},
    "uncertainty": {
        "kind": "bert", "technique": "full", "stream": {"stages": [{"name": "both", "tasks": TASKS, "weighting": "uncertainty"}]},
    },
    "sharded": {
        "kind": "t5", "task": "summarization", "technique": "full", "shard": True, "batch_size": 3,
        "training": {**STILL, "evaluate_every": 2, "keep_best": True, "length_buckets": False, "micro_batch_size": 1},
    },
}  # fmt: skip
HALVED: dict[str, Any] = {
    "kind": "llama", "technique": "lora", "lora": {"dropout": 0.0}, "max_steps": 8, "training": {**STILL, "checkpoint_every": 2},
}  # fmt: skip
"""Broken off in step 6, and gone on with."""
CUT: dict[str, Any] = {**HALVED, "training": {**HALVED["training"], "shard": True}}
"""The same with parameters shared out, which one process alone warns of and leaves."""


def go(models: Path, output: Path, *, kind: str, shard: bool = False, **settings: Any) -> Any:
    """One run on a tiny model, its parameters shared out if there are several processes."""
    import tunesmith
    from tunesmith import launch
    from tunesmith.testing import tiny_model

    task = settings.get("task", "text-classification")
    rows = {} if "stream" in settings else {"train": rows_for(task, 30), "eval": rows_for(task, 8)}
    usual = {"max_steps": 4, "batch_size": 8, "dtype": "float32", "learning_rate": 1e-3, "training": STILL}
    given = {**rows, **usual, **settings}
    if shard and launch.launched():
        given["training"] = {**given["training"], "shard": True}
    return tunesmith.train(str(tiny_model(kind, models / kind)), **given, output=output)


@contextmanager
def breaking(step: int, rank: int | None = None) -> Any:
    """Inside, a process (or each) fails in a step."""
    from tunesmith.training import loop
    from tunesmith.training.group import current

    real, steps = loop._train_step, 0

    def dying(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == step and rank in (None, current().rank):
            raise RuntimeError("power cut")
        return real(*args)

    loop._train_step = dying
    try:
        yield
    finally:
        loop._train_step = real


@contextmanager
def short_of_memory(step: int, rank: int) -> Any:
    """Inside, a process runs out of memory once, in the middle of a step."""
    from tunesmith.objectives.supervised import Supervised
    from tunesmith.training.group import current

    real, calls = Supervised.loss, 0

    def failing(self: Any, each: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step and current().rank == rank:
            raise MemoryError
        return real(self, each)

    Supervised.loss = failing
    try:
        yield
    finally:
        Supervised.loss = real


def main(models: Path, output: Path) -> None:
    """All of them, one after the other, by the processes of a group."""
    from tunesmith import launch, processes
    from tunesmith import run as runs

    place = launch.launched()
    assert place is not None
    if place.rank == 0:
        # Imported once, for itself and its children.
        processes._import_libraries((*processes.FIRST, *processes.THEN, *processes.OURS))
        processes.open_nursery(idle=True)
    met: dict[str, Any] = {}
    for name, settings in CASES.items():
        result = go(models, output / name, **settings)
        gc.freeze()  # what is there by now stays, and each run looks through it five times
        met[name] = {"folder": str(result.folder), "after": result.result["metrics"]["after"]}
    met["by-one"] = runs.resume(output / "by-one")["training"]["steps"]
    failures = {
        "by-two": (breaking(6), CUT),
        "one-fails": (breaking(3, rank=1), HALVED),
        "strategy": (breaking(99), {"kind": "bert", "strategy": "ewc"}),
        "technique": (breaking(99), {"kind": "bert", "technique": "prefix-tuning", "shard": True}),
    }
    for name, (how, settings) in failures.items():
        try:
            with how:
                go(models, output / name, **settings)
        except Exception as error:
            met[name] = f"{type(error).__name__}: {error}"
    with short_of_memory(3, rank=1):
        go(models, output / "short", **HALVED)
    met["environment"] = sorted(name for name in os.environ if name in launch.NAMES)
    (output / f"rank-{place.rank}.json").write_text(json.dumps(met))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
