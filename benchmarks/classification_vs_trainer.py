"""tunesmith against transformers' Trainer (and peft) on text classification: same rows, steps, rate and seeds.

    python benchmarks/classification_vs_trainer.py --rows 4000 --seeds 0,1,2 --output benchmarks/results/classification_vs_trainer.json

Runs alternate, each in a process of its own, on an otherwise idle machine. `train_seconds` is from the start of the first
step to the end of the last for both; tokens are real ones, not padding. The peer runs as its documentation shows it, and with
`--tuned` also with length grouping and bf16 as it allows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
RATES = {"full": 5e-5, "lora": 5e-4}
BATCH, MAX_LENGTH = 16, 256


def split(rows: int, folder: Path) -> dict[str, Path]:
    """The rows both tools read: a fixed subset for training, a held-out 10 % for measuring."""
    from tunesmith import registry
    from tunesmith.config import RunConfig
    from tunesmith.data.splits import load_roles

    task_class = registry.load("task", "text-classification")
    task = task_class(task_class.Options())
    roles = load_roles(RunConfig(model="asset:minilm", train="asset:movie-reviews", max_train_rows=rows), task)
    paths = {}
    for role, part in roles.present():
        paths[role] = folder / f"{role}.jsonl"
        lines = (
            json.dumps({"text": t, "label": y}, ensure_ascii=False)
            for t, y in zip(part.table["text"], part.table["label"], strict=True)
        )
        paths[role].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def ours(technique: str, seed: int, paths: dict[str, Path], folder: Path, epochs: float) -> dict:
    command = [
        sys.executable, "-m", "tunesmith", "train", "--model", "asset:minilm", "--train", str(paths["train"]), "--eval", str(paths["eval"]),
        "--technique", technique, "--epochs", str(epochs), "--batch-size", str(BATCH), "--learning-rate", str(RATES[technique]),
        "--max-length", str(MAX_LENGTH), "--seed", str(seed), "--output", str(folder / f"{technique}-{seed}"), "--json", "--quiet",
        "--set", "training.head_learning_rate=null",  # the peer has one rate for everything
    ]  # fmt: skip
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    cost = result["cost"]
    return {
        "tool": "tunesmith", "technique": technique, "seed": seed, "accuracy": result["metrics"]["after"]["accuracy"],
        "train_seconds": cost["train_seconds"], "tokens_per_second": cost["tokens_per_second"],
        "peak_memory_bytes": cost["peak_memory_bytes"], "steps": result["training"]["steps"], "dtype": result["training"]["dtype"],
    }  # fmt: skip


def peer(technique: str, seed: int, paths: dict[str, Path], folder: Path, epochs: float, tuned: bool) -> dict:
    from tunesmith import assets

    command = [
        sys.executable, str(HERE / "peer_trainer.py"), "--model", str(assets.fetch("minilm")), "--train", str(paths["train"]), "--eval",
        str(paths["eval"]), "--technique", technique, "--learning-rate", str(RATES[technique]), "--epochs", str(epochs), "--seed",
        str(seed), "--output", str(folder / "peer"), *(["--tuned"] if tuned else []),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def summarise(runs: list[dict]) -> list[dict]:
    rows = []
    for technique in RATES:
        mine = [r for r in runs if r["technique"] == technique and r["tool"] == "tunesmith"]
        for tool in sorted({r["tool"] for r in runs if r["technique"] == technique and r["tool"] != "tunesmith"}):
            other = [r for r in runs if r["technique"] == technique and r["tool"] == tool]
            ratios = [b["train_seconds"] / a["train_seconds"] for a, b in zip(mine, other, strict=True)]
            gaps = [a["accuracy"] - b["accuracy"] for a, b in zip(mine, other, strict=True)]
            rows.append({
                "technique": technique, "peer": tool, "runs": len(mine),
                "speed_ratio": statistics.mean(ratios), "speed_ratio_lowest": min(ratios), "speed_ratio_highest": max(ratios),
                "memory_ratio": statistics.mean(a["peak_memory_bytes"] for a in mine) / statistics.mean(b["peak_memory_bytes"] for b in other),
                "accuracy": statistics.mean(a["accuracy"] for a in mine), "accuracy_peer": statistics.mean(b["accuracy"] for b in other),
                "accuracy_difference": statistics.mean(gaps), "accuracy_difference_each": gaps,
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--techniques", default="full,lora")
    parser.add_argument("--tuned", action="store_true", help="also against the peer with length grouping and bf16")
    parser.add_argument("--output", default=str(HERE / "results" / "classification_vs_trainer.json"))
    args = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = split(args.rows, folder)
        for seed in map(int, args.seeds.split(",")):
            for technique in args.techniques.split(","):
                runs.append(ours(technique, seed, paths, folder, args.epochs))
                runs.append(peer(technique, seed, paths, folder, args.epochs, tuned=False))
                if args.tuned:
                    runs.append(peer(technique, seed, paths, folder, args.epochs, tuned=True))
                for run in runs[-3 if args.tuned else -2 :]:
                    print(
                        f"{run['tool']:<32} {technique:<5} seed {seed}  {run['train_seconds']:7.1f} s  accuracy {run['accuracy']:.4f}",
                        flush=True,
                    )
    from tunesmith.evaluation import cost

    content = {
        "what": "minilm on movie-reviews, one epoch", "rows": args.rows, "batch_size": BATCH, "epochs": args.epochs, "learning_rates": RATES,
        "versions": cost.versions(), "hardware": cost.hardware(), "summary": summarise(runs), "runs": runs,
    }  # fmt: skip
    Path(args.output).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for row in content["summary"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
