"""Kill runs at random instants, go on with them as a user would, and compare what they leave with runs that were not killed, bit for bit.

    make crash-test                                     at least 200 kills of every kind, over every world
    .venv/bin/python tests/crash/crash.py --kills 20 --worlds lora-dropout,ewc

A kill falls on a write (the n-th that Python makes below the run's folder or its cache), inside a step (between the gradient and the
optimiser), inside an evaluation (between two batches), or at an instant of the clock. A run may be killed again while it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import engine
import worlds

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "crash_test.json"
KINDS = ("write", "step", "evaluation", "clock")
MOST_TRIES = 12


@dataclass
class Reference:
    """A world and its run that nobody killed.

    Attributes:
        world: what it is.
        folder: where it lies.
        args: its command.
        ended: how the run ended.
        counts: how often each kind of place is passed.
    """

    world: worlds.World
    folder: Path
    args: list[str]
    ended: engine.Ended
    counts: dict[str, int]

    @property
    def run(self) -> Path:
        """Where runs of this world are made: paths are part of what they leave."""
        return self.folder / "run"

    @property
    def whole(self) -> Path:
        """The run that nobody killed."""
        return self.folder / "whole"

    @classmethod
    def make(cls, world: worlds.World, folder: Path) -> Reference:
        """Build a world and let its command run through."""
        args = [*world.build(folder), "--output", str(folder / "run")]
        counted = folder / "counted.json"
        ended = engine.command(args, folder, prepare=lambda: _count_places(counted))
        if ended.code != 0:
            raise RuntimeError(f"{world.name} ended with {ended.code}:\n{ended.said}")
        (folder / "run").rename(folder / "whole")
        counts = json.loads(counted.read_text()) if counted.exists() else {}
        return cls(world, folder, args, ended, {**counts, "write": len(ended.writes)})


@dataclass
class Outcome:
    """What became of a run that was killed.

    Attributes:
        kills: where it was.
        differences: what differs from the run that was not.
        trouble: an exit code that no kill explains, with what was said.
    """

    kills: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    trouble: str = ""


def _each_place(act: Callable[[str], None]) -> None:
    """Call `act` with its kind wherever a child passes a place."""
    from importlib import import_module

    from tunesmith.evaluation import evaluate
    from tunesmith.training.readings import Readings

    import_module("tunesmith.training.loop")
    held, lengths = Readings.hold_back, evaluate.by_length

    def hold_back(self: Readings, *args: Any) -> None:
        act("step")
        held(self, *args)

    def by_length(*args: Any) -> Iterator[Any]:
        for each in lengths(*args):
            yield each
            act("evaluation")

    Readings.hold_back = hold_back  # type: ignore[method-assign]
    evaluate.by_length = by_length  # type: ignore[assignment]


def _count_places(into: Path) -> None:
    counts: Counter[str] = Counter()

    def count(kind: str) -> None:
        counts[kind] += 1
        into.write_text(json.dumps(counts))

    _each_place(count)


def _kill_at_place(kind: str, number: int) -> None:
    seen = 0

    def maybe(passed: str) -> None:
        nonlocal seen
        seen += passed == kind
        if passed == kind and seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _each_place(maybe)


def next_command(reference: Reference) -> Sequence[str] | None:
    """What a user types now: the command, `resume`, or nothing because the run is finished."""
    run = reference.run
    if reference.world.verb == "compare":
        return None if (run / "report.html").is_file() else reference.args
    if (run / "result.json").is_file():
        return None
    return ["resume", str(run)] if (run / "config.yaml").is_file() else reference.args


def survive(reference: Reference, chosen: Sequence[tuple[str, float]]) -> Outcome:
    """Kill a run at places, one after the other while it goes on, and let it come to its end.

    Args:
        reference: what is run.
        chosen: kind of a kill, and where it falls as a share of all its places.
    """
    found, waiting = Outcome(), list(chosen)
    shutil.rmtree(reference.run, ignore_errors=True)
    for _ in range(MOST_TRIES):
        args = next_command(reference)
        if args is None:
            break
        kind, share = waiting.pop(0) if waiting else ("", 0.0)
        number = 1 + int(share * reference.counts.get(kind, 0))
        ended = engine.command(
            args, reference.folder,
            kill_at=number if kind == "write" else None,
            kill_after=share * reference.ended.seconds if kind == "clock" else None,
            prepare=(lambda k=kind, n=number: _kill_at_place(k, n)) if kind in ("step", "evaluation") else None,
        )  # fmt: skip
        if ended.code == -signal.SIGKILL:
            found.kills.append(f"{kind}: {ended.writes[-1]}" if kind == "write" else kind)
        elif ended.code != 0:
            found.trouble = f"exit {ended.code}: {ended.said[-1500:]}"
            return found
    if next_command(reference) is not None:
        found.trouble = f"not finished after {MOST_TRIES} tries"
        return found
    found.differences = engine.differences(reference.whole, reference.run)
    left = [p.relative_to(reference.run).as_posix() for p in reference.run.rglob(".*")]
    found.differences += [f"left behind: {name}" for name in left]
    return found


def draw(random_: random.Random) -> list[tuple[str, float]]:
    """One to three kills."""
    kinds = random_.choices(KINDS, (6, 2, 1, 2), k=random_.choice((1, 1, 2, 3)))
    return [(kind, random_.random()) for kind in kinds]


def main() -> None:
    """Kill, go on, compare; exit status 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="at least so many in all")
    parser.add_argument("--worlds", help="names, comma-separated (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    names = args.worlds.split(",") if args.worlds else [world.name for world in worlds.WORLDS]
    started, random_ = time.perf_counter(), random.Random(args.seed)
    rows: dict[str, Counter[str]] = {}
    where: Counter[str] = Counter()
    bad: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        references = []
        for world in worlds.WORLDS:
            if world.name in names:
                references.append(Reference.make(world, Path(folder) / world.name))
                print(f"{world.name}: {references[-1].ended.seconds:.1f} s, {references[-1].counts}", flush=True)
        turn = 0
        while sum(row["kills"] for row in rows.values()) < args.kills:
            reference = references[turn % len(references)]
            turn += 1
            chosen = draw(random_)
            if turn % 2:
                shutil.rmtree(reference.folder / "cache", ignore_errors=True)
            found = survive(reference, chosen)
            row = rows.setdefault(reference.world.name, Counter())
            row.update(runs=1, kills=len(found.kills), different=bool(found.differences), failed=bool(found.trouble))
            where.update(_part_of(kill) for kill in found.kills)
            if found.differences or found.trouble:
                bad.append({"world": reference.world.name, "chosen": chosen, **vars(found)})
                print(json.dumps(bad[-1], indent=1), flush=True)
        print(f"{sum(r['kills'] for r in rows.values())} kills in {turn} runs, {len(bad)} of them not the same")
    from tunesmith.evaluation import cost

    content = {
        "what": "tiny models, killed with SIGKILL and gone on with, against the same runs that were not killed, bit for bit",
        "rows": [{"world": name, **row} for name, row in rows.items()], "where": dict(where.most_common()), "bad": bad, "seed": args.seed,
        "seconds": round(time.perf_counter() - started), "versions": cost.versions(), "hardware": cost.hardware(),
    }  # fmt: skip
    args.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if bad else 0)


def _part_of(kill: str) -> str:
    """What a kill interrupted, in a word or two."""
    kind, _, write = kill.partition(": ")
    if kind != "write":
        return {"step": "inside a step", "evaluation": "inside an evaluation", "clock": "any instant"}[kind]
    parts = {
        "cache/": "a cache entry",
        "checkpoints": "a checkpoint",
        "artifact": "the artifact",
        "metrics.jsonl": "the log",
    }
    parts |= {
        "predictions": "predictions",
        "stages/": "a stage's state",
        "result": "the result",
        "generated": "generated rows",
    }
    return next((name for word, name in parts.items() if word in write), "another file of the run")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    from tunesmith import processes

    processes.open_nursery()  # the children's children come from here
    import torch

    torch.set_num_threads(1)
    main()
