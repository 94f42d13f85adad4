"""tunesmith against transformers' Trainer on extractive question answering: same model, rows, windows, steps, rate and seeds.

    python benchmarks/qa_vs_trainer.py --seeds 0,1,2 --output benchmarks/results/qa_vs_trainer.json

bert-tiny on `population-qa`, a quarter of its rows held out. Runs alternate, each in a process of its own; what is compared is
quality (the times are those of a machine that did other work as well).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
MODEL, RATE, BATCH, LENGTH, STRIDE = "bert-tiny", 5e-4, 16, 384, 64
LONGEST = 128  # tokens of an answer, for both


def split(folder: Path) -> dict[str, Path]:
    """The rows that both tools read: a quarter, chosen by the hash of its context, is only measured."""
    from tunesmith import registry
    from tunesmith.data.sources import read
    from tunesmith.data.splits import cut

    task = registry.load("task", "question-answering")
    parts = cut(read("asset:population-qa", {}, task.required), task.groups, "eval", 0.25)
    paths = {}
    for role, part in zip(("train", "eval"), parts, strict=True):
        paths[role] = folder / f"{role}.jsonl"
        rows = ({**row, "answers": json.loads(row["answers"])} for row in part.table)
        paths[role].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return paths


def ours(seed: int, paths: dict[str, Path], folder: Path, epochs: float) -> dict:
    command = [
        sys.executable, "-m", "tunesmith", "train", "--task", "question-answering", "--model", f"asset:{MODEL}", "--train", str(paths["train"]),
        "--eval", str(paths["eval"]), "--technique", "full", "--epochs", str(epochs), "--batch-size", str(BATCH), "--learning-rate", str(RATE),
        "--max-length", str(LENGTH), "--set", f"question-answering.stride={STRIDE}", "--set", f"question-answering.max_answer={LONGEST}",
        "--dtype", "float32", "--seed", str(seed), "--output", str(folder / f"run-{seed}"), "--json", "--quiet",
        "--set", "training.head_learning_rate=null",  # the peer has one rate for everything
    ]  # fmt: skip
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    after = result["metrics"]["after"]
    return {
        "tool": "tunesmith", "seed": seed, "f1": after["f1"], "exact_match": after["exact_match"],
        "train_seconds": result["cost"]["train_seconds"], "steps": result["training"]["steps"],
    }  # fmt: skip


def peer(seed: int, paths: dict[str, Path], folder: Path, epochs: float) -> dict:
    from tunesmith import assets

    command = [
        sys.executable, str(HERE / "peer_qa.py"), "--model", str(assets.fetch(MODEL)), "--train", str(paths["train"]), "--eval",
        str(paths["eval"]), "--learning-rate", str(RATE), "--epochs", str(epochs), "--seed", str(seed), "--length", str(LENGTH),
        "--stride", str(STRIDE), "--longest", str(LONGEST), "--output", str(folder / "peer"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def summarise(runs: list[dict]) -> dict:
    """Mean difference over seeds, and the 95 % interval of a paired t-test (Student's t with n - 1 degrees of freedom)."""
    from scipy import stats

    mine, other = ([r for r in runs if (r["tool"] == "tunesmith") is own] for own in (True, False))
    found: dict = {"runs": len(mine)}
    for name in ("f1", "exact_match"):
        gaps = [a[name] - b[name] for a, b in zip(mine, other, strict=True)]
        found[name] = statistics.mean(r[name] for r in mine)
        found[f"{name}_peer"] = statistics.mean(r[name] for r in other)
        found[f"{name}_difference"] = statistics.mean(gaps)
        found[f"{name}_difference_each"] = gaps
        if len(gaps) > 1:
            half = stats.t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps))
            found[f"{name}_difference_interval"] = [
                found[f"{name}_difference"] - half,
                found[f"{name}_difference"] + half,
            ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--output", default=str(HERE / "results" / "qa_vs_trainer.json"))
    args = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = split(folder)
        counts = {role: sum(1 for _ in path.open(encoding="utf-8")) for role, path in paths.items()}
        for seed in map(int, args.seeds.split(",")):
            for run in (ours(seed, paths, folder, args.epochs), peer(seed, paths, folder, args.epochs)):
                runs.append(run)
                print(
                    f"{run['tool']:<22} seed {seed}  {run['train_seconds']:6.1f} s  {run['steps']} steps  f1 {run['f1']:.4f}  "
                    f"exact match {run['exact_match']:.4f}",
                    flush=True,
                )
    from tunesmith.evaluation import cost

    content = {
        "what": f"{MODEL} on population-qa, extractive questions", "rows": counts, "batch_size": BATCH, "epochs": args.epochs,
        "learning_rate": RATE, "max_length": LENGTH, "stride": STRIDE, "max_answer": LONGEST, "versions": cost.versions(),
        "hardware": cost.hardware(), "summary": summarise(runs), "runs": runs,
    }  # fmt: skip
    Path(args.output).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(content["summary"]))


if __name__ == "__main__":
    main()
