"""What a comparison costs: the screening form against one full fine-tuning, the full protocol against the same runs one by one with the peers.

    python benchmarks/cost_of_comparing.py                 minilm, 1,000 rows, 3 epochs: an hour or two
    python benchmarks/cost_of_comparing.py --rows 64 --model bert-tiny --epochs 1 --seeds 0    a look

(a) `tunesmith compare --budget 3x` over ten techniques, over `tunesmith train --technique full` with the same rows and epochs: whole processes,
from the command to its end. At most 3 is wanted.
(b) `tunesmith compare --jobs N` over the eight techniques that transformers and peft have, with all seeds, over one `Trainer` process for each technique and
seed, one after the other with all cores. A third is wanted. The machine must be idle.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE / "speed"))

from bench import Bench  # noqa: E402
from cases import PLAIN, SCREENED, SCREENING  # noqa: E402

TEN = ("full", "feature-based", "bitfit", "prompt-tuning", "prefix-tuning", "adapter", "lora", "dora", "ia3", "qlora")


def seconds(words: list[str]) -> float:
    """Of a whole process of ours."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", *words, "--quiet"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"tunesmith {' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - began


def common(bench: Bench, epochs: int) -> list[str]:
    """What all commands share."""
    case = bench.case
    return [
        "--model", bench.own, "--train", bench.files["rows"], "--eval", bench.files["eval"], "--batch-size", str(case.batch_size),
        "--max-length", str(case.max_length), "--epochs", str(epochs), "--device", "cpu",
    ]  # fmt: skip


def screening(bench: Bench, folder: Path, epochs: int) -> dict[str, Any]:
    """The screening form over ten techniques, and one full fine-tuning before and after it (its seconds are the mean)."""
    shared = common(bench, epochs)
    alone = [seconds(["train", *shared, "--technique", "full", "--output", str(folder / "full-0")])]
    whole = seconds(
        [
            "compare",
            *shared,
            "--techniques",
            ",".join(TEN),
            "--baselines",
            "majority",
            "--budget",
            "3x",
            "--output",
            str(folder / "ten"),
        ]
    )
    alone.append(seconds(["train", *shared, "--technique", "full", "--output", str(folder / "full-1")]))
    results = json.loads((folder / "ten" / "results.json").read_text(encoding="utf-8"))
    one = sum(alone) / len(alone)
    runs = [run for run in results["runs"] if run["kind"] == "technique"]
    return {
        "seconds": whole, "full_seconds": one, "multiple": whole / one, "techniques": len(TEN), "budget": results["protocol"]["budget"],
        "outcomes": {run["technique"]: {"status": run["status"], "reason": run["reason"], "rungs": run.get("rungs")} for run in runs},
    }  # fmt: skip


def protocol(
    bench: Bench, folder: Path, epochs: int, seeds: list[int], jobs: int, peer_seeds: list[int]
) -> dict[str, Any]:
    """The full protocol, and the same runs one by one with the peer: with some of the seeds, counted for all."""
    listed = ",".join(map(str, seeds))
    own = seconds(
        [
            *("compare", *common(bench, epochs), "--techniques", ",".join(SCREENED), "--seeds", listed),
            *("--baselines", "majority", "--jobs", str(jobs), "--output", str(folder / "all")),
        ]
    )
    each = {
        f"{technique}/{seed}": bench.run(PLAIN, seed, technique)["whole_seconds"]
        for technique in SCREENED
        for seed in peer_seeds
    }
    peer = sum(each.values()) * len(seeds) / len(peer_seeds)
    return {
        "seconds": own, "peer_seconds": peer, "multiple": own / peer, "peer": PLAIN, "peer_seeds": peer_seeds, "techniques": len(SCREENED),
        "seeds": seeds, "jobs": jobs, "each": each,
    }  # fmt: skip


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--peer-seeds", help="those that the peer runs with, counted for all (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="of our comparison in part b (default: 2)")
    parser.add_argument("--parts", default="a,b")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "cost_of_comparing.json")
    given = parser.parse_args()
    from tunesmith.console import quiet_libraries, set_verbosity
    from tunesmith.evaluation import cost

    set_verbosity(-1)
    quiet_libraries()
    found = json.loads(given.output.read_text(encoding="utf-8")) if given.output.is_file() else {}
    case = replace(SCREENING, model=given.model, epochs=given.epochs)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bench = Bench(case, folder, False, given.rows)
        if "a" in given.parts:
            found["screening"] = screening(bench, folder, given.epochs)
        if "b" in given.parts:
            seeds = [int(seed) for seed in given.seeds.split(",")]
            of_peer = [int(seed) for seed in (given.peer_seeds or given.seeds).split(",")]
            found["protocol"] = protocol(bench, folder, given.epochs, seeds, given.jobs, of_peer)
    for name in ("screening", "protocol"):
        if name in found:
            print(f"{name}: {found[name]['multiple']:.2f} times")
    found |= {
        "model": given.model, "rows": given.rows, "epochs": given.epochs, "versions": cost.versions(), "hardware": cost.hardware(),
    }  # fmt: skip
    given.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
