"""Every strategy with several techniques on two real streams: four domains of sentiment, and three tasks.

    python benchmarks/streams_compared.py                      both, 162 runs: hours on two cores; the same command goes on where it stopped
    python benchmarks/streams_compared.py --only tasks         one of them
    python benchmarks/streams_compared.py --rows 300 --strategies none,joint --techniques lora --seeds 0 --results /tmp/slice     a look

Each is the `tunesmith compare --stream` that a person would type; benchmarks/results/streams_NAME.html is its report, and
streams_NAME.json keeps rows and runs without their curves. `python benchmarks/summary.py > docs/results.md` makes tables of them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STREAMS = ("domains", "tasks")
RATES = {"full": "5e-4", "lora": "2e-3", "adapter": "2e-3"}  # each learned all three tasks of the second stream alone


def stream_file(name: str, rows: int | None, folder: Path) -> Path:
    """The stages of a stream, of fewer rows if a number is given."""
    own = HERE / "streams" / f"{name}.yaml"
    if rows is None:
        return own
    import yaml

    content = yaml.safe_load(own.read_text(encoding="utf-8"))
    for stage in content["stages"]:
        stage |= {"max_train_rows": rows, "max_eval_rows": min(rows, stage["max_eval_rows"])}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def command(name: str, given: argparse.Namespace) -> list[str]:
    """The words of the command line."""
    words = [
        "tunesmith",
        "compare",
        "--model",
        f"asset:{given.model}",
        "--stream",
        str(stream_file(name, given.rows, given.output)),
    ]
    words += [
        "--techniques",
        given.techniques,
        "--seeds",
        given.seeds,
        "--output",
        str(given.output / name),
        "--max-length",
        "96",
    ]
    words += ["--set", "training.head_learning_rate=null"]  # as the committed figures were measured
    words += [w for t in given.techniques.split(",") if t in RATES for w in ("--set", f"learning_rates.{t}={RATES[t]}")]
    return words + (["--strategies", given.strategies] if given.strategies else []) + shlex.split(given.more)


def trimmed(results: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """What is committed: no curves, no folders, the command without this machine's paths."""
    shown = [Path(word).name if word.endswith(".yaml") else word for word in words]
    shown[shown.index("--output") + 1] = f"runs/{Path(shown[shown.index('--output') + 1]).name}"
    dropped = ("curve", "folder", "provenance")
    runs = [{key: value for key, value in run.items() if key not in dropped} for run in results["runs"]]
    return {**results, "protocol": {**results["protocol"], "command": shlex.join(shown)}, "runs": runs}


def main() -> None:
    """Run what was asked for and store one JSON file each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=STREAMS, action="append", help="this stream (default: both)")
    parser.add_argument("--model", default="bert-tiny")
    parser.add_argument("--techniques", default="full,lora,adapter")
    parser.add_argument("--strategies", help="comma-separated (default: every one that can keep the tasks)")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rows", type=int, help="training rows a stage instead of the file's")
    parser.add_argument("--more", default="", help="further words of the command line")
    parser.add_argument("--output", type=Path, default=Path("runs/streams"), help="folder of the runs and reports")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the JSON files")
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    for name in given.only or STREAMS:
        words = command(name, given)
        print("$ " + shlex.join(words), flush=True)
        ended = subprocess.run([sys.executable, "-m", *words], check=False)
        found = given.output / name / "results.json"
        if ended.returncode or not found.is_file():
            raise SystemExit(
                f"{name} did not finish (exit code {ended.returncode}); the same command goes on from there."
            )
        results = json.loads(found.read_text(encoding="utf-8"))
        file = given.results / f"streams_{name}.json"
        kept = trimmed(results, words)
        file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        report = (given.output / name / "report.html").read_text(encoding="utf-8")
        for word, short in zip(words, shlex.split(kept["protocol"]["command"]), strict=True):
            report = report.replace(word, short) if word != short else report
        file.with_suffix(".html").write_text(report, encoding="utf-8")
        print(f"{name}: {file}, {file.with_suffix('.html')}", flush=True)


if __name__ == "__main__":
    main()
