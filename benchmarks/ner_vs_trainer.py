"""tunesmith against transformers' Trainer on named entities: same model, rows, steps, rate and seeds; scored by seqeval there.

    python benchmarks/ner_vs_trainer.py --model bert-tiny --steps 810 --seeds 0,1,2

Runs alternate, each in a process of its own. Times are only comparable on an otherwise idle machine; the subject here is the
score, together with what looking words up in the training rows scores (`majority`).
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
BATCH, MAX_LENGTH = 16, 256


def split(folder: Path) -> tuple[dict[str, Path], dict[str, float], dict[str, int]]:
    """The rows both tools read, with a held-out 10 % for measuring, and the scores of the baseline on them."""
    from tunesmith import registry
    from tunesmith.config import RunConfig
    from tunesmith.data.splits import load_roles

    task_class = registry.load("task", "token-classification")
    task = task_class(task_class.Options())
    config = RunConfig(model="asset:bert-tiny", task="token-classification", train="asset:wnut-tweets")
    roles = load_roles(config, task)
    paths = {}
    for role, part in roles.present():
        paths[role] = folder / f"{role}.jsonl"
        paths[role].write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part.table), encoding="utf-8"
        )
    task.fit(roles.train)
    baseline = registry.load("baseline", "majority")
    guess = baseline(baseline.Options()).predict(task, roles, config)
    metric = task.metric()
    for value, row in zip(guess.values, roles.eval.table, strict=True):
        metric.update(value, task.truth(row))
    rows = {role: len(part) for role, part in roles.present()}
    return paths, {**metric.compute(), "loss": guess.loss}, rows


def common(args: argparse.Namespace, seed: int, paths: dict[str, Path], folder: Path, model: str) -> list[str]:
    return [
        "--model", model, "--train", str(paths["train"]), "--eval", str(paths["eval"]), "--technique", args.technique, "--max-steps",
        str(args.steps), "--batch-size", str(BATCH), "--learning-rate", str(args.rate), "--max-length", str(MAX_LENGTH), "--seed", str(seed),
        "--output", str(folder),
    ]  # fmt: skip


def ours(args: argparse.Namespace, seed: int, paths: dict[str, Path], folder: Path) -> dict:
    command = [
        sys.executable, "-m", "tunesmith", "train", "--task", "token-classification", "--json", "--quiet", "--dtype", "float32",
        "--set", "training.head_learning_rate=null",  # the peer has one rate for everything
        *common(args, seed, paths, folder / f"ours-{seed}", f"asset:{args.model}"),
    ]  # fmt: skip
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    after = result["metrics"]["after"]
    return {
        "tool": "tunesmith", "technique": args.technique, "seed": seed, **{n: after[n] for n in ("f1", "precision", "recall", "loss")},
        "train_seconds": result["cost"]["train_seconds"], "steps": result["training"]["steps"],
    }  # fmt: skip


def peer(args: argparse.Namespace, seed: int, paths: dict[str, Path], folder: Path) -> dict:
    from tunesmith import assets

    command = [
        sys.executable, str(HERE / "peer_ner.py"), *common(args, seed, paths, folder / f"peer-{seed}", str(assets.fetch(args.model))),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def summarise(runs: list[dict]) -> dict:
    """Mean and spread over seeds, the difference, and the half-width of its 95 % interval (two independent samples)."""
    mine, other = ([r["f1"] for r in runs if (r["tool"] == "tunesmith") == own] for own in (True, False))
    summary = {
        "f1": statistics.mean(mine), "f1_peer": statistics.mean(other), "f1_each": mine, "f1_peer_each": other,
        "difference": statistics.mean(mine) - statistics.mean(other),
        "loss": statistics.mean(r["loss"] for r in runs if r["tool"] == "tunesmith"),
        "loss_peer": statistics.mean(r["loss"] for r in runs if r["tool"] != "tunesmith"),
    }  # fmt: skip
    if len(mine) > 1:
        from scipy.stats import t

        error = ((statistics.variance(mine) + statistics.variance(other)) / len(mine)) ** 0.5
        summary["half_width_95"] = float(t.ppf(0.975, 2 * len(mine) - 2)) * error
        summary["within_noise"] = abs(summary["difference"]) <= summary["half_width_95"]
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bert-tiny", help="an asset's name")
    parser.add_argument("--technique", default="full", choices=["full", "lora"])
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=810)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--output", default=str(HERE / "results" / "ner_vs_trainer.json"))
    args = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths, baseline, rows = split(folder)
        for seed in map(int, args.seeds.split(",")):
            for tool in (ours, peer):
                runs.append(tool(args, seed, paths, folder))
                run = runs[-1]
                print(
                    f"{run['tool']:<22} seed {seed}  f1 {run['f1']:.4f}  loss {run['loss']:.4f}  {run['train_seconds']:6.1f} s",
                    flush=True,
                )
    from tunesmith.evaluation import cost

    content = {
        "what": f"{args.model} on wnut-tweets, {args.technique}", "rows": rows, "steps": args.steps, "batch_size": BATCH,
        "learning_rate": args.rate, "dtype": "float32", "versions": cost.versions(), "hardware": cost.hardware(),
        "summary": summarise(runs), "majority": baseline, "runs": runs,
    }  # fmt: skip
    Path(args.output).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(content["summary"]))


if __name__ == "__main__":
    main()
