"""A stream of real tasks, killed without warning in the middle of its third stage and resumed, against one that ran through.

    python benchmarks/streams_killed.py                                    EWC with full, replay with LoRA, progressive with adapters
    python benchmarks/streams_killed.py --pairs lwf:lora,generative-replay:full

SIGKILL falls at the first step of stage 3 that is logged after its middle. What must be the same to the bit: the weights of the artifact,
the matrix of scores, and the log but for its times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAIRS = "ewc:full,experience-replay:lora,progressive:adapter"
RATES = {"full": "5e-4"}
TIMED = ("seconds", "tokens_per_second", "peak_memory_bytes")


def logged(run: Path) -> list[dict[str, Any]]:
    """The log without what no two runs share."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = []
    for line in lines:
        try:
            found.append({k: v for k, v in json.loads(line).items() if k not in TIMED})
        except json.JSONDecodeError:  # half a line, while it is written
            break
    return found


def weights(run: Path) -> dict[str, str]:
    """SHA-256 of every file of weights."""
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((run / "artifact").glob("*.safetensors"))
    }


def command(strategy: str, technique: str, output: Path) -> list[str]:
    """One stream, with a checkpoint every 25 steps."""
    return [
        sys.executable, "-m", "tunesmith", "train", "--model", "asset:bert-tiny", "--stream", str(HERE / "streams" / "tasks.yaml"),
        "--strategy", strategy, "--technique", technique, "--max-length", "96", "--learning-rate", RATES.get(technique, "2e-3"),
        "--output", str(output), "--set", "training.checkpoint_every=25", "--set", "doctor=false", "--quiet",
    ]  # fmt: skip


def measure(strategy: str, technique: str, folder: Path) -> dict[str, Any]:
    """Both streams, and what differs between them."""
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run(command(strategy, technique, whole), check=True)
    steps = [line["step"] for line in logged(whole) if line.get("stage") == "entities" and line["event"] == "train"]
    middle = steps[len(steps) // 2]
    process = subprocess.Popen(command(strategy, technique, killed))
    while process.poll() is None:
        here = [e for e in logged(killed) if e.get("stage") == "entities" and e["event"] == "train"]
        if here and here[-1]["step"] >= middle:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.05)
    status = process.wait()
    at = here[-1]["step"]
    subprocess.run([sys.executable, "-m", "tunesmith", "resume", str(killed), "--quiet"], check=True)
    results = [json.loads((run / "result.json").read_text(encoding="utf-8")) for run in (whole, killed)]
    matrices = [found["stream"]["matrix"] for found in results]
    return {
        "strategy": strategy, "technique": technique, "killed_at_step": at, "of": steps[-1], "signal": -status,
        "weights_same": weights(whole) == weights(killed), "files": sorted(weights(whole)),
        "matrix_same": matrices[0] == matrices[1], "log_same": logged(whole) == logged(killed),
        "matrix": matrices[1], "versions": results[0]["provenance"]["versions"], "hardware": results[0]["provenance"]["hardware"],
    }  # fmt: skip


def main() -> None:
    """Kill, resume, compare, store; exit status 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default=PAIRS, help="strategy:technique, comma-separated")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "streams_killed.json")
    args = parser.parse_args()
    rows = []
    for pair in args.pairs.split(","):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(*pair.split(":"), Path(folder)))
        said = ("strategy", "technique", "killed_at_step", "of", "signal", "weights_same", "matrix_same", "log_same")
        print(" ".join(f"{k} {rows[-1][k]}" for k in said), flush=True)
    shared = {name: rows[0][name] for name in ("versions", "hardware")}
    content = {
        "what": "bert-tiny, streams/tasks.yaml, killed in the middle of stage 3 and resumed",
        **shared,
        "rows": [{k: v for k, v in row.items() if k not in shared} for row in rows],
    }
    args.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(row[f"{what}_same"] for row in rows for what in ("weights", "matrix", "log")) else 1)


if __name__ == "__main__":
    main()
