"""What a teacher is worth to a model that writes: half the layers of SmolLM2-135M learn to name what a Vietnamese sentence asks a home to do.

    python benchmarks/distillation_of_texts.py                 one seed, about an hour on one core
    python benchmarks/distillation_of_texts.py --seeds 0,1,2

The teacher is the whole model, all of its weights learned from the labelled rows. Each student keeps half of its layers, evenly spread,
learns all its weights for the same number of steps, and is scored by the share of answers that it writes word for word (exact match) and by the perplexity of the true
ones, on rows that nobody has seen. Unlabelled rows are further sentences without their intent:

    labels                the labelled rows alone
    soft                  the teacher's distribution of every next token of the labelled rows (its 64 likeliest, and the rest together)
    reverse KL            the same the other way round
    soft+unlabelled       of further rows too, whose answers the teacher writes
    sequence              only texts that the teacher writes, as if they were true (Kim & Rush 2016), labelled rows' and further ones'
    sequence+soft         the teacher's texts beside the rows' own, with its distributions
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import tunesmith
from tunesmith import assets
from tunesmith.console import quiet_libraries, set_verbosity

HERE = Path(__file__).parent
MODEL, DATA = "asset:smollm2-135m", "home-intents-vi"
QUESTION = "Name the intent of this command."
COMMON: dict[str, Any] = {
    "task": "instruction", "batch_size": 8, "max_length": 96, "doctor": False, "device": "cpu",
    "instruction": {"generate_rows": 1000, "max_new_tokens": 12, "best_by": "exact_match"},
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any] | None] = {
    "soft": {"alpha": 0.0},
    "labels": None,
    "reverse KL": {"alpha": 0.0, "divergence": "reverse"},
    "soft+unlabelled": {"alpha": 0.0, "unlabelled": "more"},
    "sequence": {"alpha": 1.0, "sequence": "instead", "unlabelled": "more"},
    "sequence+soft": {"alpha": 0.0, "sequence": "beside", "unlabelled": "more"},
}


def write_rows(folder: Path, labelled: int, further: int, held_out: int) -> dict[str, str]:
    """Rows of the eight most common intents, shuffled by place: labelled ones, ones without answer, ones to measure on."""
    rows = [json.loads(line) for line in assets.fetch(DATA).read_text(encoding="utf-8").splitlines()]
    common = [label for label, _ in Counter(row["label"] for row in rows).most_common(8)]
    seen: dict[str, str] = {row["text"]: row["label"] for row in rows if row["label"] in common}
    made = [{"prompt": f"{QUESTION}\n{text}", "completion": label} for text, label in sorted(seen.items())]
    made = [made[(place * 7919) % len(made)] for place in range(len(made))]  # 7919 is prime: every row once
    parts = {
        "eval": made[:held_out],
        "train": made[held_out : held_out + labelled],
        "more": [{"prompt": row["prompt"]} for row in made[held_out + labelled : held_out + labelled + further]],
    }
    files = {}
    for role, part in parts.items():
        path = folder / f"{role}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part), encoding="utf-8")
        files[role] = str(path)
    return files


def trained(place: Path, **settings: Any) -> dict[str, Any]:
    """The result of a run, from its folder if it is finished there."""
    if (place / "result.json").is_file():
        return dict(json.loads((place / "result.json").read_text(encoding="utf-8")))
    return tunesmith.train(**settings, output=place, overwrite=True).result


def student(
    name: str, seed: int, files: dict[str, str], teacher: Path, folder: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """One variant; what its result says of it."""
    options = VARIANTS[name]
    given = {
        **COMMON,
        "train": files["train"],
        "eval": files["eval"],
        "technique": "full",
        "seed": seed,
        "max_steps": args.steps,
        "learning_rate": args.rate,
    }
    place = folder / name.replace(" ", "-") / str(seed)
    if options is None:  # the same shortened model, which another variant wrote
        shortened = next((folder / "soft" / str(seed)).rglob("student.json")).parent
        result = trained(place, **given, model=str(shortened))
    else:
        settings = {**options, "student_layers": 15}
        if settings.get("unlabelled"):
            settings["unlabelled"] = files["more"]
        result = trained(place, **given, objective="distillation", teacher=str(teacher), distillation=settings)
    after = result["metrics"]["after"]
    print(
        f"{name:<18} seed {seed}  exact match {after['exact_match']:.3f}  perplexity {after['perplexity']:.3f}",
        flush=True,
    )
    return {
        "variant": name, "seed": seed, "exact_match": after["exact_match"], "perplexity": after["perplexity"], "steps": result["training"]["steps"],
        "train_seconds": result["cost"]["train_seconds"], "distillation": result.get("distillation"),
        "versions": result["provenance"]["versions"], "hardware": result["provenance"]["hardware"],
    }  # fmt: skip


def main() -> None:
    """Every variant and seed, a line each; the summary is stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--rows", type=int, default=100, help="labelled rows")
    parser.add_argument("--further", type=int, default=500, help="rows without their answer")
    parser.add_argument("--eval-rows", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200, help="of every student, 8 rows each")
    parser.add_argument("--rate", type=float, default=1e-4, help="of every student")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/distillation-of-texts"), help="finished runs are kept here"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results" / "distillation_of_texts.json")
    args = parser.parse_args()
    set_verbosity(-1)
    quiet_libraries()
    args.folder.mkdir(parents=True, exist_ok=True)
    files = write_rows(args.folder, args.rows, args.further, args.eval_rows)
    runs, teachers = [], []
    for seed in map(int, args.seeds.split(",")):
        place = args.folder / "teacher" / str(seed)
        shown = trained(
            place,
            model=MODEL,
            **COMMON,
            train=files["train"],
            eval=files["eval"],
            technique="full",
            learning_rate=args.rate,
            seed=seed,
            max_steps=args.steps,
        )["metrics"]["after"]
        teachers.append({"seed": seed, "exact_match": shown["exact_match"], "perplexity": shown["perplexity"]})
        print(
            f"{'teacher':<18} seed {seed}  exact match {shown['exact_match']:.3f}  perplexity {shown['perplexity']:.3f}",
            flush=True,
        )
        for name in args.variants.split(","):
            runs.append(student(name, seed, files, place / "artifact", args.folder, args))
    rows = [
        {
            "variant": name,
            **{key: statistics.mean(r[key] for r in found) for key in ("exact_match", "perplexity", "train_seconds")},
        }
        for name, found in (
            ("teacher", None),
            *((n, [r for r in runs if r["variant"] == n]) for n in args.variants.split(",")),
        )
        if found
    ]
    content = {
        "what": f"half the layers of {MODEL} on {DATA}: {args.rows} labelled rows, {args.further} without answer, {args.steps} steps of 8 rows",
        "teachers": teachers, "rows": rows, "versions": runs[0]["versions"], "hardware": runs[0]["hardware"],
        "runs": [{k: v for k, v in r.items() if k not in ("versions", "hardware")} for r in runs],
    }  # fmt: skip
    args.output.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
