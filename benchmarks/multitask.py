"""Several tasks in one stage against each of them alone, and a small task next to a large one.

    python benchmarks/multitask.py                     everything, about half an hour on one core
    python benchmarks/multitask.py --only small        one part: mixed or small
    python benchmarks/multitask.py --seeds 0           one seed

mixed   sentiment (1,000 reviews), spam (300 mails) and entities (1,000 tweets) with bert-tiny: three single runs, and one stage under
        every mixing (fixed weights) and every weighting (mixing by temperature). A row is seen as often as in its single run.
small   100 mails beside 10,000 reviews (so many as there are). The 100 rows alone get `SMALL_STEPS` steps of 16; a mixing keeps the
        small task if it scores at least 90 % of that. Accuracy is easy to keep on mails, most of which are ham, so the share is also
        told for Matthews' correlation, which is 0 for the majority.

Finished runs are kept in the JSON file, under what they depend on: the same command again goes on where it stopped.

Every number is on rows that were held out; a difference is mean over seeds with its 95 % Student t interval, and a task whose interval lies
below 0 is flagged: what it learned with the others is less than alone.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import tunesmith
from tunesmith import assets
from tunesmith.compare.statistics import mean_interval
from tunesmith.console import quiet_libraries, set_verbosity
from tunesmith.evaluation import cost

RESULT = Path(__file__).parent / "results" / "multitask.json"
DATA = {
    "sentiment": ("movie-reviews", "text-classification", "accuracy"),
    "spam": ("spam", "text-classification", "accuracy"),
    "entities": ("wnut-tweets", "token-classification", "f1"),
}
SIZES = {"sentiment": 1_000, "spam": 300, "entities": 1_000}
EVAL = 400
EPOCHS = 5
SMALL_STEPS = 125  # 20 epochs of 100 rows: more did not help
SETTINGS: dict[str, Any] = {
    "technique": "full", "learning_rate": 5e-4, "batch_size": 16, "max_length": 64, "dtype": "float32", "device": "cpu", "doctor": False,
    "training": {"head_learning_rate": None},  # as the committed figures were measured
}  # fmt: skip
MIXED = [("proportional", "fixed"), ("equal", "fixed"), ("temperature", "fixed"), ("temperature", "uncertainty"), ("temperature", "pcgrad")]  # fmt: skip


def slices(name: str, rows: int, folder: Path) -> dict[str, Any]:
    """The task of a stage: so many rows to learn from, `EVAL` others to measure on."""
    asset, task, _ = DATA[name]
    lines = assets.fetch(asset).read_text(encoding="utf-8").split("\n")
    lines = [line for line in lines if line]
    random.Random(0).shuffle(lines)
    for role, part in (("eval", lines[:EVAL]), ("train", lines[EVAL : EVAL + rows])):
        (folder / f"{name}-{rows}-{role}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    files = {role: str(folder / f"{name}-{rows}-{role}.jsonl") for role in ("train", "eval")}
    return {"name": name, "task": task, "rows": min(rows, len(lines) - EVAL), **files}


RUNS: dict[str, Any] = {}  # what finished runs scored, by what they depend on


def run(stage: dict[str, Any], steps: int, seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """The metrics of each task of a stage."""
    tasks = [{k: v for k, v in task.items() if k != "rows"} for task in stage["tasks"]]
    how = {k: v for k, v in stage.items() if k != "tasks"}
    key = json.dumps([[(task["name"], task["rows"]) for task in stage["tasks"]], how, steps, seed])
    if key not in RUNS:
        found = tunesmith.train(
            "asset:bert-tiny", stream={"stages": [{"name": "all", **stage, "tasks": tasks}]}, max_steps=steps, seed=seed,
            output=folder / "run", overwrite=True, **SETTINGS,
        ).result["metrics"]["after"]  # fmt: skip
        RUNS[key] = {
            task["name"]: {k.partition("/")[2]: v for k, v in found.items() if k.startswith(f"{task['name']}/")}
            for task in tasks
        }
        KEEP[0](RUNS)
    return dict(RUNS[key])


KEEP: list[Any] = []  # writes them down


def difference(together: list[float], alone: list[float]) -> dict[str, Any]:
    """Mean over seeds of together - alone, its interval, and whether all of it is below 0."""
    found = mean_interval([a - b for a, b in zip(together, alone, strict=True)])
    return {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "worse": found.high is not None and found.high < 0,
    }


def mixed(seeds: list[int], folder: Path) -> dict[str, Any]:
    """Three tasks alone and together."""
    tasks = {name: slices(name, rows, folder) for name, rows in SIZES.items()}
    alone: dict[str, list[dict[str, float]]] = {}
    for name, task in tasks.items():
        steps = EPOCHS * task["rows"] // 16
        alone[name] = [run({"tasks": [task]}, steps, seed, folder)[name] for seed in seeds]
        print(f"{name} alone: {[round(found[DATA[name][2]], 4) for found in alone[name]]}", flush=True)
    steps = EPOCHS * sum(task["rows"] for task in tasks.values()) // 16
    variants = []
    for mixing, weighting in MIXED:
        stage = {"tasks": list(tasks.values()), "mixing": mixing, "weighting": weighting}
        found = [run(stage, steps, seed, folder) for seed in seeds]
        entry: dict[str, Any] = {"mixing": mixing, "weighting": weighting, "tasks": {}}
        for name, (_, _, metric) in DATA.items():
            values = [each[name][metric] for each in found]
            entry["tasks"][name] = {
                "metric": metric, "values": values, "difference": difference(values, [each[metric] for each in alone[name]]),
                "mcc": [each[name]["mcc"] for each in found] if "mcc" in found[0][name] else None,
            }  # fmt: skip
        variants.append(entry)
        shown = {
            n: (round(mean_interval(e["values"]).mean, 4), round(e["difference"]["mean"], 4))
            for n, e in entry["tasks"].items()
        }
        print(f"{mixing} {weighting}: {shown}", flush=True)
    single = {
        name: {"metric": DATA[name][2], "values": [each[DATA[name][2]] for each in found], "rows": tasks[name]["rows"]}
        for name, found in alone.items()
    }
    return {"steps": steps, "epochs": EPOCHS, "alone": single, "together": variants}


def small(seeds: list[int], folder: Path) -> dict[str, Any]:
    """A task of 100 rows beside one of 10,000."""
    few, many = slices("spam", 100, folder), slices("sentiment", 10_000, folder)
    alone = {
        "spam": [run({"tasks": [few]}, SMALL_STEPS, seed, folder)["spam"] for seed in seeds],
        "sentiment": [run({"tasks": [many]}, 2 * many["rows"] // 16, seed, folder)["sentiment"] for seed in seeds],
    }
    print(
        "alone", {n: [(round(e["accuracy"], 4), round(e["mcc"], 4)) for e in f] for n, f in alone.items()}, flush=True
    )
    variants = []
    for mixing in ("proportional", "temperature", "equal"):
        stage = {"tasks": [few, many], "mixing": mixing}
        found = [run(stage, 2 * (few["rows"] + many["rows"]) // 16, seed, folder) for seed in seeds]
        entry: dict[str, Any] = {"mixing": mixing, "weighting": "fixed", "tasks": {}}
        for name in ("spam", "sentiment"):
            entry["tasks"][name] = {}
            for metric in ("accuracy", "mcc"):
                values, before = [e[name][metric] for e in found], [e[metric] for e in alone[name]]
                entry["tasks"][name][metric] = {
                    "values": values, "kept": sum(values) / sum(before), "difference": difference(values, before),
                }  # fmt: skip
        variants.append(entry)
        kept = {f"{n}/{m}": round(e["kept"], 3) for n, each in entry["tasks"].items() for m, e in each.items()}
        print(f"{mixing}: kept {kept}", flush=True)
    single = {n: {m: [e[m] for e in f] for m in ("accuracy", "mcc")} for n, f in alone.items()}
    return {
        "rows": {"spam": few["rows"], "sentiment": many["rows"]},
        "steps_alone": SMALL_STEPS,
        "alone": single,
        "together": variants,
    }


PARTS = {"mixed": mixed, "small": small}


def main() -> None:
    """Run what was asked for and store it beside what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; repeatable (default: both)")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--output", type=Path, default=RESULT, help="the JSON file")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    found = json.loads(given.output.read_text(encoding="utf-8")) if given.output.is_file() else {}
    RUNS.update(found.get("runs", {}))

    def write(runs: dict[str, Any]) -> None:
        facts = {
            "model": "asset:bert-tiny",
            "seeds": seeds,
            "settings": SETTINGS,
            "versions": cost.versions(),
            "hardware": cost.hardware(),
        }
        given.output.write_text(json.dumps({**found, **facts, "runs": runs}, indent=1) + "\n", encoding="utf-8")

    KEEP.append(write)
    set_verbosity(-1)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as place:
        for part in given.only or PARTS:
            found[part] = PARTS[part](seeds, Path(place))
            write(RUNS)


if __name__ == "__main__":
    main()
