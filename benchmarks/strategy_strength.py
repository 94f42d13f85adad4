"""How strong a penalty should be: a strength chosen on validation rows against the default one, on the real streams.

    python benchmarks/strategy_strength.py                       EWC, SI, L2-SP and LwF on both streams: hours on two cores
    python benchmarks/strategy_strength.py --only tasks --strategies ewc --grid 0.1,1,10 --seeds 0

Every fifth of a stage's training rows is held out as a validation row. Each strength of the grid learns the stream on the rest
with one seed and is scored on the validation rows; the best one, the default and `none` then learn it with all seeds and are
scored on the eval rows, which nothing was chosen on. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
STREAMS = ("domains", "tasks")
STRENGTHS = {"ewc": "ewc", "synaptic-intelligence": "synaptic-intelligence", "l2-sp": "l2-sp", "lwf": "lwf"}


def split(name: str, folder: Path) -> dict[str, Path]:
    """The stream as two files: measured on validation rows, and on eval rows; both train on the same rows."""
    from tunesmith import config as configuration
    from tunesmith import registry
    from tunesmith.config import RunConfig
    from tunesmith.data.splits import load_roles
    from tunesmith.stream import for_task, stages_of

    source = HERE / "streams" / f"{name}.yaml"
    config = configuration.build(RunConfig, {"model": "asset:bert-tiny", "stream": str(source)})
    files: dict[str, dict[str, str]] = {}
    for stage in stages_of(config):
        for spec in stage.tasks:
            task = registry.load("task", spec.task)(configuration.options_of(config, "task", spec.task))
            roles = load_roles(for_task(config, spec), task)
            rows = [json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in roles.train.table]
            parts = {
                "train": [row for i, row in enumerate(rows) if i % 5 < 4],
                "validation": rows[4::5],
            }  # files are sorted by label
            parts["eval"] = [json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in roles.eval.table]
            files[spec.name] = {}
            for role, lines in parts.items():
                path = folder / f"{name}-{spec.name}-{role}.jsonl"
                path.write_text("".join(lines), encoding="utf-8")
                files[spec.name][role] = str(path)
    written = {}
    for role in ("validation", "eval"):
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
        for stage in content["stages"]:
            stage |= {"train": files[stage["name"]]["train"], "eval": files[stage["name"]][role]}
            stage.pop("max_train_rows", None)
            stage.pop("max_eval_rows", None)
        written[role] = folder / f"{name}-{role}.yaml"
        written[role].write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return written


def run(stream: Path, strategy: str, strength: float | None, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Average and forgetting of one stream."""
    name = f"{strategy}-{'default' if strength is None else f'{strength:g}'}"
    place = args.folder / args.technique / stream.stem / name / str(seed)
    if not (place / "result.json").is_file():
        words = [
            sys.executable, "-m", "tunesmith", "train", "--model", "asset:bert-tiny", "--stream", str(stream), "--strategy", strategy,
            "--technique", args.technique, "--seed", str(seed), "--output", str(place), "--overwrite", "--quiet",
            "--set", "training.head_learning_rate=null",  # as the committed figures were measured
        ]  # fmt: skip
        words += shlex.split(args.more)
        if strength is not None:
            words += ["--set", f"{STRENGTHS[strategy]}.strength={strength}"]
        subprocess.run(words, check=True)
    found = json.loads((place / "result.json").read_text(encoding="utf-8"))
    print(f"{stream.stem} {name} seed {seed}: average {found['stream']['average_accuracy']:.4f}", flush=True)
    return {"average": found["stream"]["average_accuracy"], "forgetting": found["stream"]["forgetting"]}


def main() -> None:
    """Choose, measure, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=STREAMS, action="append")
    parser.add_argument("--strategies", default=",".join(STRENGTHS))
    parser.add_argument("--grid", default="0.01,0.1,1,10,100")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--technique", default="full")
    parser.add_argument("--more", default="", help="further words of the command line")
    parser.add_argument("--folder", type=Path, default=Path("runs/strength"))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "strategy_strength.json")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    rows = []
    for name in args.only or STREAMS:
        files = split(name, args.folder)

        def measured(strategy: str, strength: float | None, stream: Path = files["eval"]) -> dict[str, Any]:
            runs = [run(stream, strategy, strength, seed, args) for seed in seeds]
            return {
                "each": runs,
                **{key: statistics.mean(r[key] for r in runs) for key in ("average", "forgetting")},
            }

        rows.append({"stream": name, "strategy": "none", "strength": None, "chosen": False, **measured("none", None)})
        for strategy in args.strategies.split(","):
            tried = {
                float(s): run(files["validation"], strategy, float(s), seeds[0], args)["average"]
                for s in args.grid.split(",")
            }
            best = max(tried, key=lambda strength: tried[strength])
            common = {"stream": name, "strategy": strategy}
            rows.append({**common, "strength": "default", "chosen": False, **measured(strategy, None)})
            rows.append({**common, "strength": best, "chosen": True, "tried": tried, **measured(strategy, best)})
    from tunesmith.evaluation import cost

    content = {
        "what": f"{args.technique} on bert-tiny {args.more}; strengths chosen on validation rows with seed {seeds[0]}", "seeds": seeds,
        "versions": cost.versions(), "hardware": cost.hardware(), "rows": rows,
    }  # fmt: skip
    args.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
