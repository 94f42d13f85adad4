"""Small comparisons of all techniques on real rows, which `tunesmith plan --advise` rests on, and how well the others advise on each.

    OMP_NUM_THREADS=1 python benchmarks/advice.py [--only NAME,...] [--folder DIR]

Each is a `tunesmith compare --search halving` with three seeds; cases that are in the results already are not repeated. The comparisons of `comparisons.py` are cases as well.
Afterwards every case is advised on from the others alone. What the package carries of it is written to src/tunesmith/plan/evidence.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

from tunesmith.compare.statistics import higher_is_better
from tunesmith.plan.evidence import FILE, leave_one_out, measured

RESULTS = Path(__file__).parent / "results" / "advice.json"
COMMAND = "python benchmarks/advice.py"
LABELS = {"home-intents-vi": 26, **dict.fromkeys(("amazon-reviews", "movie-reviews", "spam", "tweets"), 2)}
"""Of texts that have one."""
ARCHITECTURES = {"bert-tiny": "encoder", "minilm": "encoder", "smollm2-135m": "decoder"}
LARGER = ("reviews", "entities", "instructions")
TIMED = "reviews-100-minilm"  # whose artifacts are asked how long one row takes
TECHNIQUES = "full,feature-based,bitfit,adapter,lora,dora,ia3,prompt-tuning,prefix-tuning"


@dataclass(frozen=True)
class Small:
    """One comparison: what is learned from how many rows."""

    name: str
    model: str
    data: str
    rows: int
    epochs: int
    batch: int = 8
    task: str = "text-classification"
    length: int = 64
    eval_rows: int = 300
    more: tuple[str, ...] = ()


CASES = (
    Small("reviews-200-bert-tiny", "bert-tiny", "movie-reviews", 200, 5, eval_rows=1000),
    Small("reviews-2000-bert-tiny", "bert-tiny", "movie-reviews", 2000, 2, batch=16, eval_rows=1000),
    Small("amazon-500-bert-tiny", "bert-tiny", "amazon-reviews", 500, 3, eval_rows=1000),
    Small("tweets-1000-bert-tiny", "bert-tiny", "tweets", 1000, 2, eval_rows=1000),
    Small("spam-400-bert-tiny", "bert-tiny", "spam", 400, 2, eval_rows=1000),
    Small("entities-1000-bert-tiny", "bert-tiny", "wnut-tweets", 1000, 3, task="token-classification"),
    Small("reviews-100-minilm", "minilm", "movie-reviews", 100, 4, eval_rows=500),
    Small("reviews-500-minilm", "minilm", "movie-reviews", 500, 2, eval_rows=500),
    Small("spam-200-minilm", "minilm", "spam", 200, 2, eval_rows=500),
    Small("entities-400-minilm", "minilm", "wnut-tweets", 400, 2, task="token-classification"),
    Small("intents-1000-minilm", "minilm", "home-intents-vi", 1000, 2),
    Small("questions-150-minilm", "minilm", "population-qa", 150, 3, task="question-answering", length=192, eval_rows=40),
    Small("reviews-100-smollm2", "smollm2-135m", "movie-reviews", 100, 2, length=48, eval_rows=200),
)  # fmt: skip


def larger() -> Iterator[dict[str, Any]]:
    """The comparisons of `comparisons.py`, which are cases, too."""
    for name in LARGER:
        path = RESULTS.parent / f"comparison_{name}.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            yield {"command": found["protocol"]["command"], **reduced(name, found)}


def carry_out(case: Small, folder: Path) -> dict[str, Any]:
    """Run one comparison; what the advice takes from it."""
    command = [
        "tunesmith", "compare", "--model", f"asset:{case.model}", "--task", case.task, "--train", f"asset:{case.data}",
        "--max-train-rows", str(case.rows), "--max-eval-rows", str(case.eval_rows), "--epochs", str(case.epochs), "--batch-size", str(case.batch),
        "--max-length", str(case.length), "--techniques", TECHNIQUES, "--baselines", "majority" if "classification" in case.task else "none",
        "--seeds", "0,1,2", "--jobs", "2", "--search", "halving", "--set", "doctor=off", *case.more,
    ]  # fmt: skip
    own = [sys.executable, "-m", *command, "--output", str(folder / case.name), "-q"]
    done = subprocess.run(own, check=False, env={"OMP_NUM_THREADS": "1", **os.environ})
    if done.returncode:
        raise SystemExit(f"{case.name} came to an end with exit code {done.returncode}.")
    found = json.loads((folder / case.name / "results.json").read_text(encoding="utf-8"))
    return {"command": " ".join(command), **reduced(case.name, found)}


def num_labels(task: str, data: str) -> int:
    """As `Case` has it."""
    return LABELS[data] if task == "text-classification" else 1


def reduced(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """The figures of a comparison that are kept."""
    protocol = found["protocol"]
    model, data = (protocol[name].removeprefix("asset:") for name in ("model", "train"))
    primary = protocol["primary"]
    higher = higher_is_better(protocol, primary)
    rows = [row for row in found["rows"] if row["kind"] == "technique" and row["status"] == "finished"]
    scores = {row["technique"]: float(row["primary"]["mean"]) for row in rows}
    best = max(scores.values()) if higher else min(scores.values())
    unit = 100.0 if higher and max(scores.values()) <= 1 else 100.0 / abs(best)
    factors = {each["technique"]: round(each["chosen"] / each["default"], 6) for each in found["search"]}
    techniques = {
        row["technique"]: {
            "score": scores[row["technique"]],
            "low": row["primary"]["low"],
            "high": row["primary"]["high"],
            "behind": round(abs(best - scores[row["technique"]]) * unit, 3),
            "tie": row["against_best"] is None or bool(row["against_best"]["tie"]),
            "factor": factors[row["technique"]],
            "seconds": row["train_seconds"],
            "parameters": row["trainable_parameters"],
        }
        for row in rows
    }
    return {
        "name": name,
        "task": protocol["task"],
        "architecture": ARCHITECTURES[model],
        "model": model,
        "data": data,
        "parameters": int(rows[0]["total_parameters"] - min(row["trainable_parameters"] for row in rows)),
        "rows": protocol["rows"]["train"],
        "num_labels": num_labels(protocol["task"], data),
        "metric": primary,
        "versions": protocol["versions"],
        "data_sha256": protocol["data_sha256"],
        "techniques": techniques,
    }


def latency(folder: Path) -> dict[str, float]:
    """How many times as long as a fully fine-tuned model an artifact takes for one row of 32 tokens, unmerged; taking turns, the middle of 60."""
    import torch

    from tunesmith.artifacts.store import open_artifact

    opened = {name: open_artifact(folder / run) for name, run in artifacts(folder).items()}
    batch = {"input_ids": torch.randint(1000, 2000, (1, 32)), "attention_mask": torch.ones(1, 32, dtype=torch.long)}
    times: dict[str, list[float]] = {name: [] for name in opened}
    with torch.no_grad():
        for turn in range(65):
            for name, one in opened.items():
                started = time.perf_counter()
                one.task.forward(one.loaded.model.eval(), batch)
                if turn >= 5:
                    times[name].append(time.perf_counter() - started)
    return {name: round(median(spent) / median(times["full"]), 3) for name, spent in times.items()}


def artifacts(folder: Path) -> dict[str, str]:
    """By technique, the artifact of a comparison's first seed."""
    runs = json.loads((folder / "results.json").read_text(encoding="utf-8"))["runs"]
    return {
        run["technique"]: f"{run['folder']}/artifact"
        for run in runs
        if run["kind"] == "technique" and run["seed"] == 0 and run["status"] == "finished"
    }


def strategies() -> dict[str, dict[str, float]]:
    """What each strategy kept in the stream of different tasks: mean over techniques, in points."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in json.loads((RESULTS.parent / "streams_tasks.json").read_text(encoding="utf-8"))["rows"]:
        if row["strategy"] != "joint" and row["kind"] == "technique":
            stream = row["stream"]
            pair = stream["average_accuracy"]["mean"], stream["forgetting"]["mean"]
            found.setdefault(row["strategy"], []).append(pair)
    return {
        name: {
            "average": round(100 * mean(pair[0] for pair in pairs), 2),
            "forgetting": round(100 * mean(pair[1] for pair in pairs), 2),
        }
        for name, pairs in sorted(found.items())
    }


def write(cases: list[dict[str, Any]], latencies: dict[str, float]) -> None:
    """The results, and what the package carries of them."""
    order = {name: number for number, name in enumerate([*(case.name for case in CASES), *LARGER])}
    cases.sort(key=lambda each: order[each["name"]])
    found = {"command": COMMAND, "cases": cases, "latency": latencies, "strategies": strategies()}
    kept = carried(found)
    tried = leave_one_out(measured(kept))
    habits = sorted(TECHNIQUES.split(","))
    within = {
        name: sum(each["techniques"][name]["tie"] for each in cases if name in each["techniques"]) for name in habits
    }
    by_rows = leave_one_out([replace(each, case=replace(each.case, num_labels=1)) for each in measured(kept)])
    found |= {"leave_one_out": tried, "always": within}
    found["by_rows"] = {  # whatever their labels: docs/decisions/0010
        "within_noise": sum(each["within_noise"] for each in by_rows),
        "behind": mean(each["behind"] for each in by_rows),
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    FILE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def carried(found: dict[str, Any]) -> dict[str, Any]:
    """What the package needs of the results."""
    keys = ("name", "task", "architecture", "parameters", "rows", "num_labels")
    outcome = ("behind", "tie", "factor", "seconds")
    return {
        "source": COMMAND,
        "latency": found["latency"],
        "strategies": found["strategies"],
        "cases": [
            {
                **{key: each[key] for key in keys},
                "techniques": {
                    name: {key: one[key] for key in outcome} | {"factor": round(one["factor"], 6)}
                    for name, one in sorted(each["techniques"].items())
                },
            }
            for each in found["cases"]
        ],
    }


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of cases, comma-separated")
    parser.add_argument("--folder", type=Path, help="keep the comparisons here; one that was stopped goes on")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else [case.name for case in CASES]
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"cases": [], "latency": {}}
    done, latencies = before["cases"], before["latency"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for case in CASES:
            if case.name in wanted and case.name not in {each["name"] for each in done}:
                done.append(carry_out(case, folder))
                if case.name == TIMED:
                    latencies = latency(folder / case.name)
                write(done, latencies)
    write([*(each for each in done if each["name"] not in LARGER), *larger()], latencies)
    for each in leave_one_out(measured()):
        print(json.dumps(each))
    print(json.dumps([asdict(case) for case in CASES if case.name not in {each["name"] for each in done}]))


if __name__ == "__main__":
    main()
