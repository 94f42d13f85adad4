"""Feed every reader with bytes that are nearly right, for as long as you like, and keep whatever it stumbles over.

    make fuzz SECONDS=3600          an hour, shared by all readers
    .venv/bin/python tests/fuzz/fuzz.py --seconds 60 --targets csv,yaml

With atheris (`pip install atheris`; coverage-guided) where it is installed, and with our own mutations of valid files. A reader that raises
anything but a refusal, or takes more than ten seconds for 64 KiB, fails; the bytes lie in `--keep` then. The server is asked what
schemathesis makes of its OpenAPI document, and bodies that are nearly right.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import random
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "benchmarks" / "results" / "fuzz.json"
SLOW = 10
SERVER = "server"


def ours(name: str, seconds: float, keep: Path, seed: int) -> dict[str, Any]:
    """Our own mutations; what was found last is mutated further."""
    from mutate import mutate
    from targets import TARGETS

    target, random_ = TARGETS[name], random.Random(seed)
    pool, runs, read, bad = list(target.seeds), 0, 0, []
    end = time.perf_counter() + seconds

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"more than {SLOW} s")

    signal.signal(signal.SIGALRM, late)
    while time.perf_counter() < end:
        data = mutate(random_.choice(pool), random_)
        runs += 1
        signal.alarm(SLOW)
        try:
            fine = target(data)
        except Exception:
            place = keep / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
            place.write_bytes(data)
            bad.append({"bytes": str(place), "error": traceback.format_exc().strip().splitlines()[-1][:300]})
            if len(bad) >= 20:
                break
        else:
            read += fine
            if len(pool) < 2000 and len(data) < 8192:
                pool.append(data)
        finally:
            signal.alarm(0)
    return {"target": name, "engine": "mutations", "executions": runs, "read": read, "bad": bad}


GUIDED = """
import sys
sys.path.insert(0, {here!r})
import atheris
with atheris.instrument_imports(include=["tunesmith"]):
    import targets
target = targets.TARGETS[{name!r}]
atheris.Setup(sys.argv, lambda data: target(data) and None)
atheris.Fuzz()
"""


def guided(name: str, seconds: float, keep: Path, seed: int) -> dict[str, Any]:
    """By atheris, in a process of its own."""
    from targets import TARGETS

    corpus = keep / f"corpus-{name}"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(TARGETS[name].seeds):
        (corpus / f"seed-{number}").write_bytes(data)
    options = [
        f"-max_total_time={max(1, int(seconds))}",
        f"-timeout={SLOW}",
        f"-seed={seed + 1}",
        "-max_len=8192",
        f"-artifact_prefix={keep}/{name}-",
        "-print_final_stats=1",
    ]
    done = subprocess.run(
        [sys.executable, "-c", GUIDED.format(here=str(HERE), name=name), *options, str(corpus)], capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    found = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    bad = []
    if done.returncode != 0:
        lines = [
            line
            for line in [*done.stdout.splitlines(), *done.stderr.splitlines()]
            if re.match(r"\s*(\w+\.)*\w*(Error|Exception|Interrupt)\b", line) or "ERROR: libFuzzer" in line
        ]
        bad.append({"bytes": str(keep), "error": " / ".join(lines)[:300] or done.stderr[-300:]})
    return {"target": name, "engine": "atheris", "executions": int(found[1]) if found else 0, "read": None, "bad": bad}


def main() -> None:
    """Every target for its share of the time; exit status 1 where one stumbled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--targets", help="comma-separated (default: all, `server` among them)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--engine", choices=["both", "atheris", "mutations"], default="both")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from targets import TARGETS

    args.keep.mkdir(parents=True, exist_ok=True)
    names = args.targets.split(",") if args.targets else [*TARGETS, SERVER]
    shares = {name: args.seconds / len(names) for name in names}
    if SERVER in names and len(names) > 1:  # ten addresses behind it
        shares[SERVER] = args.seconds / 3
        shares.update({name: (args.seconds - shares[SERVER]) / (len(names) - 1) for name in names if name != SERVER})
    engines = [guided, ours] if args.engine == "both" else [guided if args.engine == "atheris" else ours]
    if importlib.util.find_spec("atheris") is None:
        engines = [ours]
    rows: list[dict[str, Any]] = []

    def keep(found: list[dict[str, Any]]) -> None:
        rows.extend(found)
        for row in found:
            what = f"{row['target']:<20} {row['engine']:<12} {row['executions']:>9,} executions"
            print(f"{what}, {len(row['bad'])} bad", flush=True)
            for each in row["bad"]:
                print(f"    {each['error']}  ({each['bytes']})", flush=True)

    for name in names:
        if name == SERVER:
            from endpoints import fuzz

            keep(fuzz(shares[name], args.keep, args.seed))
            continue
        for engine in engines:
            keep([engine(name, shares[name] / len(engines), args.keep, args.seed)])
    from tunesmith.evaluation import cost

    content = {
        "seconds": args.seconds,
        "rows": rows,
        "executions": sum(row["executions"] for row in rows),
        "versions": cost.versions(),
        "hardware": cost.hardware(),
    }
    args.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if any(row["bad"] for row in rows) else 0)


if __name__ == "__main__":
    main()
