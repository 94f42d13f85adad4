"""Speed and memory against the peers: every contender a process of its own, in turn, on the same encoded rows.

    python benchmarks/bench.py                          every case in its quick form (`make bench`)
    python benchmarks/bench.py --full                   up to twice the rows, three rounds with three seeds: more than an hour
    python benchmarks/bench.py --cases c,d --rounds 3   some of them
    python benchmarks/bench.py --cases j,k              on a GPU
    python benchmarks/bench.py --quality                three seeds against fp32 references: loss and accuracy only, so the machine may be busy

`make bench FULL=1` is the long form and then the quality.

A ratio is the peer's seconds over tunesmith's for the same optimiser steps, from the begin of the first to the end of the last; memory is the
highest resident set of the whole process; the share of the ceiling is the arithmetic that the case needs at least over the time that it took, of
what a large matrix product reaches on the same machine. Every row is seen as often by everybody, so tokens are real ones and the same. The
machine must be idle. Results are merged into the JSON file case by case, those of the long form into one of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "speed"))

from arithmetic import ceiling, operations  # noqa: E402
from cases import (  # noqa: E402
    ADAPTERS,
    ADAPTERS_TUNED,
    CASES,
    FACTORY,
    FACTORY_TUNED,
    GPU_CASES,
    PLAIN,
    SCREENED,
    SCREENING,
    TRL,
    TRL_TUNED,
    TUNED,
    Case,
)

OURS = "tunesmith"
REFERENCE = "Trainer, fp32"
QUALITY_ROWS = {"classification": 800, "causal": 64}
HELD = {"classification": 400, "causal": 16}  # rows that quality is measured on
PROGRAMS = {
    OURS: "ours.py", PLAIN: "trainer.py", TUNED: "trainer.py", TRL: "trl_sft.py", TRL_TUNED: "trl_sft.py", FACTORY: "llama_factory.py",
    FACTORY_TUNED: "llama_factory.py", ADAPTERS: "adapters_library.py", ADAPTERS_TUNED: "adapters_library.py",
}  # fmt: skip
PEERS = HERE.parent / ".peers"
APART = {FACTORY: "llamafactory", FACTORY_TUNED: "llamafactory", ADAPTERS: "adapters", ADAPTERS_TUNED: "adapters"}
"""Contenders that need other versions of what we stand on: environments of their own, which `make peers` makes."""


def python_of(tool: str) -> Path:
    """The interpreter that a contender runs in."""
    return PEERS / APART[tool] / "bin" / "python" if tool in APART else Path(sys.executable)


class Failed(SystemExit):
    """A contender came to no end, and this is the end of its error output."""


class Bench:
    """Files of a case, and its runs."""

    def __init__(self, case: Case, folder: Path, full: bool, rows: int | None = None, device: str = "cpu") -> None:
        import rows as texts

        from tunesmith import assets

        self.case, self.folder = case, folder
        self.device = device
        if case.model == "random":
            self.own = self.model = str(texts.random_llama(folder / "model"))
        else:
            self.own, self.model = f"asset:{case.model}", str(assets.fetch(case.model))
        count = rows or (case.more if full else case.rows)
        self.files: dict[str, str] = {}
        for role, seed, number in (("rows", 0, count), ("eval", 1, HELD[case.kind])):
            found = (
                texts.reviews(number, seed)
                if case.kind == "classification"
                else texts.passages(case.supervised, number, case.middle, case.longest, seed)
            )
            path = texts.write(found, folder / f"{case.name}-{role}.jsonl")
            self.files[role] = str(path)
            self.files["encoded" if role == "rows" else "encoded_eval"] = str(
                texts.encode(path, case.task, self.own, case.max_length)
            )
        self.teacher = self.taught() if case.teacher else None

    def taught(self) -> str:
        """A teacher that has learned the task a little: what it knows does not matter here."""
        import tunesmith

        run = tunesmith.train(
            "asset:minilm", task=self.case.task, technique="full", train=self.files["rows"], eval=self.files["eval"], max_steps=20,
            max_length=self.case.max_length, output=self.folder / "teacher", doctor=False, device="cpu",
        )  # fmt: skip
        return str(run.artifact)

    def tokens(self) -> tuple[int, int]:
        """(tokens, supervised tokens) of one pass over the rows."""
        found = [json.loads(line) for line in Path(self.files["encoded"]).read_text(encoding="utf-8").splitlines()]
        supervised = sum(sum(i != -100 for i in r["labels"]) if isinstance(r["labels"], list) else 1 for r in found)
        return sum(len(r["input_ids"]) for r in found), supervised

    def run(self, tool: str, seed: int, technique: str = "", fp32: bool = False) -> dict[str, Any]:
        """One contender, once; in fp32 whatever the case says, if asked for."""
        case = self.case
        given = {
            **self.files, "model": self.own if tool == OURS else self.model, "task": case.task, "kind": case.kind, "labels": 2,
            "technique": technique or case.technique, "learning_rate": case.learning_rate, "batch_size": case.batch_size,
            "max_length": case.max_length, "epochs": case.epochs, "steps": None, "seed": seed, "bf16": case.bf16 and not fp32, "dropout": 0.05,
            "tuned": tool in (TUNED, TRL_TUNED, FACTORY_TUNED, ADAPTERS_TUNED), "teacher": self.teacher, "output": str(self.folder / "run"),
            "device": self.device, **case.more_settings,
        }  # fmt: skip
        place = self.folder / "spec.json"
        place.write_text(json.dumps(given), encoding="utf-8")
        began = time.perf_counter()
        done = subprocess.run(
            [str(python_of(tool)), str(HERE / "speed" / PROGRAMS[tool]), str(place)], capture_output=True, text=True, check=False,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"} | ({"PYTHONPATH": ""} if tool in APART else {}),
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"{tool} failed in case {case.name}:\n{done.stderr[-3000:]}")
        found = json.loads(done.stdout.strip().splitlines()[-1])
        ends = found.pop("ends")
        found |= {"tool": tool, "seed": seed, "train_seconds": ends[-1], "whole_seconds": time.perf_counter() - began}
        found["first_step_seconds"] = ends[0]
        return dict(found)


def compared(runs: list[dict[str, Any]], tools: list[str], tokens: int) -> list[dict[str, Any]]:
    """A row for each tool: rate, memory, quality, and how many times longer it takes than tunesmith."""
    by_tool = {tool: [run for run in runs if run["tool"] == tool] for tool in tools}
    rows = []
    for tool, own in by_tool.items():
        ratios = [run["train_seconds"] / base["train_seconds"] for run, base in zip(own, by_tool[OURS], strict=True)]
        row = {
            "tool": tool, "runs": len(own), "tokens_per_second": tokens / statistics.median(run["train_seconds"] for run in own),
            "train_seconds": statistics.median(run["train_seconds"] for run in own),
            "peak_memory_bytes": statistics.median(run["peak_memory_bytes"] for run in own),
            "ratio": statistics.median(ratios), "ratio_lowest": min(ratios), "ratio_highest": max(ratios),
            "memory_ratio": statistics.median(
                base["peak_memory_bytes"] / run["peak_memory_bytes"] for run, base in zip(own, by_tool[OURS], strict=True)
            ),
        }  # fmt: skip
        for name in ("loss", "accuracy"):
            values = [run[name] for run in own if run.get(name) is not None]
            row[name] = statistics.mean(values) if values else None
        rows.append(row)
    return rows


def measure(case: Case, folder: Path, full: bool, rounds: int | None, rows: int | None, device: str) -> dict[str, Any]:
    """All contenders of a case, in turn, as often as there are rounds; every second round backwards."""
    from tunesmith import assets

    seeds = list(range(rounds or (3 if full else case.rounds)))
    bench = Bench(case, folder, full, rows, device)
    missing = [tool for tool in case.peers if not python_of(tool).is_file()]
    if missing:
        print(f"{case.name}  without {', '.join(missing)}: `make peers` installs them", flush=True)
    tools, runs, failed = [OURS, *(tool for tool in case.peers if tool not in missing)], [], {}
    for seed in seeds:
        for tool in tools if seed % 2 == 0 else tools[::-1]:
            if tool in failed:
                continue
            try:
                run = bench.run(tool, seed)
            except Failed as error:
                if tool == OURS:
                    raise
                failed[tool] = str(error).strip().splitlines()[-1]
                print(f"{case.name}  {tool} failed and is left out: {failed[tool]}", flush=True)
                continue
            runs.append(run)
            print(
                f"{case.name}  {tool:<22}{run['train_seconds']:8.1f} s  {run['peak_memory_bytes'] / 2**30:5.2f} GiB",
                flush=True,
            )
    tokens, supervised = bench.tokens()
    needed = operations(
        case,
        bench.model,
        tokens,
        supervised if case.kind == "causal" else 0,
        str(assets.fetch("minilm")) if case.teacher else None,
    )
    ceilings = {kind: ceiling(kind == "bfloat16", device) for kind in ("float32", "bfloat16")}
    rows = compared(runs, [tool for tool in tools if tool not in failed], tokens * case.epochs)
    for row in rows:
        row["operations_per_second"] = needed / row["train_seconds"]
    return {
        "operations": needed, "ceilings": ceilings, "dtype": computed_in(case, device, runs),
        "what": case.what, "model": case.model, "technique": case.technique, "full": full, "batch_size": case.batch_size, "epochs": case.epochs,
        "tokens": tokens * case.epochs, "supervised_share": supervised / tokens if case.kind != "classification" else None,
        "rows": rows, "runs": runs, "failed": failed,
    }  # fmt: skip


def computed_in(case: Case, device: str, runs: list[dict[str, Any]]) -> str:
    """The dtype of nearly all of a case's arithmetic: of a frozen backbone's pass, where the head alone learns, in fp32."""
    import torch

    from tunesmith.training.precision import pick_dtype

    if case.technique == "feature-based":
        return str(pick_dtype("auto", torch.device(device), 1 << 30)[0]).removeprefix("torch.")
    return next(str(run["dtype"]) for run in runs if run["tool"] == OURS)


def quality(case: Case, folder: Path, seeds: int, rows: int | None) -> dict[str, Any]:
    """Tunesmith as it comes against Trainer in fp32 with a random order of rows, on the same rows: paired differences over seeds.

    The difference is tunesmith minus the reference, with Student's t interval over the seeds.
    """
    from dataclasses import asdict

    from tunesmith.compare.statistics import mean_interval

    bench = Bench(case, folder, False, rows or QUALITY_ROWS[case.kind])
    name = "accuracy" if case.kind == "classification" else "loss"
    each: dict[str, list[float]] = {OURS: [], REFERENCE: []}
    for seed in range(seeds):
        for tool, values in each.items():
            run = bench.run(OURS if tool == OURS else PLAIN, seed, fp32=tool == REFERENCE)
            values.append(float(run[name]))
            print(f"{case.name}  {tool:<22}{name} {run[name]:.4f}", flush=True)
    pairs = zip(each[OURS], each[REFERENCE], strict=True)
    return {
        "metric": name, "rows": rows or QUALITY_ROWS[case.kind], "evaluated_on": HELD[case.kind], "values": each,
        "difference": asdict(mean_interval(a - b for a, b in pairs)),
    }  # fmt: skip


def screening(folder: Path, full: bool, rows: int | None) -> dict[str, Any]:
    """One `tunesmith compare` of eight techniques against eight runs of the peer, whole processes."""
    bench = Bench(SCREENING, folder, full, rows)
    words = [
        sys.executable, "-m", "tunesmith", "compare", "--model", f"asset:{SCREENING.model}", "--train", bench.files["rows"], "--eval",
        bench.files["eval"], "--techniques", ",".join(SCREENED), "--seeds", "0", "--batch-size", str(SCREENING.batch_size), "--max-length",
        str(SCREENING.max_length), "--epochs", "1", "--baselines", "majority", "--output", str(folder / "screening"), "--device", "cpu", "--quiet",
    ]  # fmt: skip
    environment = fresh_cache(folder / "cache")
    began = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, env=environment)
    own = time.perf_counter() - began
    table = [{"tool": OURS, "seconds": own, "ratio": 1.0}]
    for tool in (PLAIN, TUNED) if full else (PLAIN,):
        each = {technique: bench.run(tool, 0, technique)["whole_seconds"] for technique in SCREENED}
        table.append({"tool": tool, "seconds": sum(each.values()), "ratio": sum(each.values()) / own, "each": each})
        print(f"h  {tool:<22}{sum(each.values()):8.1f} s against {own:.1f} s", flush=True)
    return {"what": SCREENING.what, "full": full, "rows": table}


def fresh_cache(place: Path) -> dict[str, str]:
    """The environment of a process whose cache has assets and what the machine can do, and nothing that earlier runs computed."""
    from tunesmith.location import cache_root

    place.mkdir()
    for kind in ("assets", "machine"):
        if (cache_root() / kind).is_dir():
            (place / kind).symlink_to(cache_root() / kind, target_is_directory=True)
    return {**os.environ, "TUNESMITH_CACHE": str(place)}


def start_up(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds from the command to its help, and to the end of the first optimiser step of a bert-tiny run."""
    from dataclasses import replace

    case = replace(SCREENING, name="i", model="bert-tiny", technique="full", rows=64)
    bench = Bench(case, folder, False)
    found: dict[str, list[float]] = {"help": [], OURS: [], PLAIN: []}
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tunesmith", "--help"], check=True, capture_output=True)
        found["help"].append(time.perf_counter() - began)
        for tool in (OURS, PLAIN):
            found[tool].append(first_step(bench, tool))
    return {
        "what": "start-up: help, and the first step of bert-tiny",
        "seconds": {n: statistics.median(v) for n, v in found.items()},
        "each": found,
    }


def first_step(bench: Bench, tool: str) -> float:
    """Seconds from the start of a process to the end of its first step."""
    began = time.time()
    if tool != OURS:
        run = bench.run(tool, 0)
        return float(run["first_step_at"] - began)
    place = bench.folder / "first"
    words = [
        sys.executable, "-m", "tunesmith", "train", "--model", f"asset:{bench.case.model}", "--train", bench.files["rows"], "--eval", bench.files["eval"],
        "--technique", "full", "--output", str(place), "--overwrite", "--set", "training.log_every=1", "--device", "cpu", "--quiet", "--no-doctor",
    ]  # fmt: skip
    log = place / "metrics.jsonl"
    log.unlink(missing_ok=True)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (log.is_file() and '"train"' in log.read_text(encoding="utf-8")):
        time.sleep(0.01)
    seconds = time.time() - began
    process.wait()
    return seconds


def main() -> None:
    """Measure what was asked for and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", help="default: a to i; with --quality a to g")
    parser.add_argument("--full", action="store_true", help="more rows and three seeds")
    parser.add_argument("--quality", action="store_true", help="three seeds against fp32, without measuring time")
    parser.add_argument("--rounds", type=int, help="instead of the form's own number")
    parser.add_argument("--rows", type=int, help="instead of the form's own number: a look")
    parser.add_argument(
        "--output", type=Path, help="default: results/speed.json, of the long form results/speed_full.json"
    )
    given = parser.parse_args()
    given.output = given.output or HERE / "results" / ("speed_full.json" if given.full else "speed.json")
    from tunesmith.console import quiet_libraries, set_verbosity
    from tunesmith.evaluation import cost

    set_verbosity(-1)
    quiet_libraries()
    found = json.loads(given.output.read_text(encoding="utf-8")) if given.output.is_file() else {"cases": {}}
    for name in (given.cases or ("a,b,c,d,e,f,g" if given.quality else "a,b,c,d,e,f,g,h,i")).split(","):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            if given.quality:
                case = next(c for c in CASES if c.name == name)
                found["cases"].setdefault(name, {"what": case.what})["quality"] = quality(
                    case, folder, given.rounds or 3, given.rows
                )
                given.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
                continue
            if name == "h":
                made = screening(folder, given.full, given.rows)
            elif name == "i":
                made = start_up(folder, given.rounds or 3)
            else:
                case, device = next(
                    (c, d) for cs, d in ((CASES, "cpu"), (GPU_CASES, "cuda")) for c in cs if c.name == name
                )
                made = measure(case, folder, given.full, given.rounds, given.rows, device)
        kept = {key: value for key, value in found["cases"].get(name, {}).items() if key == "quality"}
        found["cases"][name] = {**made, **kept, "versions": cost.versions(), "hardware": cost.hardware()}
        given.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
