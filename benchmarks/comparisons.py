"""The full protocol on real data: every technique, a rate for each by the same search, three seeds; and studies of one setting.

    python benchmarks/comparisons.py --only reviews          one of them; hours for all on two cores, and the same command goes on where it stopped
    python benchmarks/comparisons.py --only rank

Each is the `tunesmith compare` that a person would type. benchmarks/results/comparison_NAME.html is its report, and comparison_NAME.json keeps
rows and runs without their curves. `python benchmarks/summary.py > docs/results.md` makes tables of them. Two runs share the machine, a core each, so seconds
compare within a comparison and not with those of a run that has both.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from streams_compared import trimmed

HERE = Path(__file__).parent
ALL = "full,feature-based,bitfit,adapter,lora,dora,ia3,prompt-tuning,prefix-tuning"
REVIEWS = "--model asset:minilm --train asset:movie-reviews --max-train-rows 2000 --max-eval-rows 1000 --epochs 2 --max-length 64"
ENTITIES = "--task token-classification --model asset:minilm --train asset:wnut-tweets --max-train-rows 1200 --max-eval-rows 480 --epochs 6 --max-length 64"
INSTRUCTIONS = (
    "--task instruction --model asset:smollm2-135m --train asset:alpaca-mix --max-train-rows 256 --max-eval-rows 100 --epochs 1 --batch-size 2 --max-length 128 "
    "--set instruction.long_completion=cut --set instruction.generate_rows=0 --set training.evaluations=3"
)
SMALL = "--model asset:bert-tiny --train asset:movie-reviews --max-eval-rows 1000 --max-length 64"
COMPARISONS = {
    "reviews": f"{REVIEWS} --techniques {ALL} --search halving",
    "entities": f"{ENTITIES} --techniques {ALL} --search halving",
    "instructions": f"{INSTRUCTIONS} --techniques {ALL},qlora --search halving",
    "rank": f"{SMALL} --max-train-rows 4000 --epochs 2 --techniques lora --learning-rate 2e-3 --baselines none --grid lora.rank=1,2,4,8,16,32,64",
    "prompt": f"{REVIEWS} --techniques prompt-tuning --learning-rate 1e-1 --baselines none --grid prompt-tuning.length=1,5,20,50,100",
    "width": f"{REVIEWS} --techniques adapter --learning-rate 1e-3 --baselines none --grid adapter.reduction=2,8,32,128",
    "layers": f"{REVIEWS} --techniques lora --learning-rate 5e-4 --baselines none --grid lora.layers=1,2,4,6",
    "rows": f"{SMALL} --epochs 3 --techniques full,lora,adapter,feature-based --baselines tfidf --grid max_train_rows=100,400,1600,6400 "
    "--set learning_rates.full=5e-4 --set learning_rates.lora=2e-3 --set learning_rates.adapter=2e-3",
    "epochs": f"{SMALL} --max-train-rows 200 --techniques full,lora,feature-based --baselines none --grid epochs=2,8,32 "
    "--set learning_rates.full=5e-4 --set learning_rates.lora=2e-3",
    "head": f"{ENTITIES} --techniques full,lora,adapter --baselines none --grid training.head_learning_rate=1e-6,5e-3,2e-2",
    "kept": f"{SMALL} --max-train-rows 200 --epochs 32 --techniques full --learning-rate 5e-4 --baselines none --grid training.keep_best=false,true "
    "--set training.hold_out_validation=true --set training.best_metric=loss --set training.evaluations=32",
}
"""By name, the words after `tunesmith compare`."""


def main() -> None:
    """Run what was asked for and store one JSON file and one report each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names, comma-separated (default: all)")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--more", default="", help="further words of the command line")
    parser.add_argument("--output", type=Path, default=Path("runs/comparisons"), help="folder of the runs and reports")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the JSON files")
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    for name in given.only.split(",") if given.only else COMPARISONS:
        words = ["tunesmith", "compare", *shlex.split(COMPARISONS[name]), "--seeds", given.seeds, "--jobs", given.jobs]
        words += ["--set", "examples=0", "--output", str(given.output / name), *shlex.split(given.more)]
        print("$ " + shlex.join(words), flush=True)
        ended = subprocess.run([sys.executable, "-m", *words], check=False)
        found = given.output / name / "results.json"
        if ended.returncode or not found.is_file():
            raise SystemExit(
                f"{name} did not finish (exit code {ended.returncode}); the same command goes on from there."
            )
        kept = trimmed(json.loads(found.read_text(encoding="utf-8")), words)
        file = given.results / f"comparison_{name}.json"
        file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        report = (given.output / name / "report.html").read_text(encoding="utf-8")
        report = report.replace(str(given.output / name), f"runs/{name}")
        file.with_suffix(".html").write_text(report, encoding="utf-8")
        print(f"{name}: {file}, {file.with_suffix('.html')}", flush=True)


if __name__ == "__main__":
    main()
