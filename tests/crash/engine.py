"""Runs that are killed, and what is left of them: a command line in a fork, ended at a chosen write or after a chosen time.

A forked child begins at once, with every library imported. An audit hook in it sees whatever Python opens for writing, renames, makes or
removes below the world's folder, so "the 17th write" is a place in the program, and a full disk can be played there as well.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMED = (
    "seconds", "train_seconds", "tokens_per_second", "peak_memory_bytes", "wall_seconds", "created", "latency",
    "outputs", "throughput", "rows_per_second", "milliseconds", "speed", "predicted_seconds", "predicted_memory_bytes", "plan",
    "pareto_time", "pareto_memory",
)  # fmt: skip
"""What no two runs share (`outputs`: where a teacher's answers came from, and how long that took; the fronts follow from seconds and bytes)."""

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


@dataclass
class Ended:
    """How a command ended.

    Attributes:
        code: exit code; minus the signal if one ended it.
        said: what it wrote to standard output and error.
        seconds: how long it took.
        writes: what it wrote to, in order.
    """

    code: int
    said: str
    seconds: float
    writes: list[str] = field(default_factory=list)


def command(
    args: Sequence[str],
    world: Path,
    *,
    kill_at: int | None = None,
    kill_after: float | None = None,
    kill_when: Path | None = None,
    signal_number: int = signal.SIGKILL,
    fail_at: int | None = None,
    prepare: Callable[[], None] | None = None,
) -> Ended:
    """Carry out a command line in a child.

    Args:
        args: without `tunesmith`.
        world: folder that it writes below; the cache is in it.
        kill_at: number of the write, from 1, before which it gets a signal.
        kill_after: seconds after which it gets a signal.
        kill_when: it gets a signal when this is there.
        signal_number: which signal.
        fail_at: number of the write from which on the disk is full.
        prepare: called in the child first.
    """
    log, listed = world / "said.txt", world / "writes.txt"
    listed.unlink(missing_ok=True)
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            # A shell's background job ignores Ctrl-C, and so would the run.
            if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            _speak_to(log)
            os.environ["TUNESMITH_CACHE"] = str(world / "cache")
            if prepare is not None:
                prepare()
            _watch_writes(world, listed, kill_at, fail_at, signal_number)
            import torch

            from tunesmith.cli.main import main

            torch.set_num_threads(1)  # the threads of the parent are not here
            try:
                main(list(args))
            except SystemExit as end:
                code = int(end.code or 0)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    if kill_after is not None or kill_when is not None:
        end = started + (3600 if kill_after is None else kill_after)

        def waits() -> bool:
            return time.perf_counter() < end and not (kill_when is not None and kill_when.exists())

        while waits() and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.002)
        os.kill(child, signal_number)
    _, status = os.waitpid(child, 0)
    seconds = time.perf_counter() - started
    writes = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(encoding="utf-8"), seconds, writes)


def _speak_to(log: Path) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)  # whoever captured them


def _watch_writes(world: Path, listed: Path, kill_at: int | None, fail_at: int | None, number: int) -> None:
    """From here on every write below the world is counted, listed, and may be the last."""
    root, seen = f"{world}/", 0
    handle = os.open(listed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open":
            path, _, flags = args
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in WRITES:
            path = args[0]
        else:
            return
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        name = os.fsdecode(path)
        name = name if name.startswith("/") else str(Path(name).absolute())
        if not name.startswith(root) or name.endswith((".lock", "/said.txt", "/writes.txt", "/counted.json")):
            return
        seen += 1
        os.write(handle, f"{event} {name.removeprefix(root)}\n".encode())
        if seen == kill_at:
            os.kill(os.getpid(), number)
        if fail_at is not None and seen >= fail_at and event not in ("os.remove", "os.rmdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    sys.addaudithook(watch)


def without_times(value: Any) -> Any:
    """The same without what no two runs share."""
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key not in TIMED}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def content(run: Path) -> dict[str, Any]:
    """Everything a run leaves that must not depend on whether it was stopped: by file, weights as hashes."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_dir() or path.name in ("begun.json", "report.html") or "checkpoints/" in f"{name}/":
            continue
        if path.name == "metrics.jsonl":
            found[name] = [without_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        elif path.suffix == ".safetensors" or path.suffix == ".html":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            text = path.read_text(encoding="utf-8")
            found[name] = without_times(json.loads(text)) if path.suffix == ".json" else text
    return found


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two runs, in words; nothing where they are the same to the bit."""
    first, second = content(one), content(other)
    found = [
        f"only {'the first' if name in first else 'the second'} has {name}" for name in first.keys() ^ second.keys()
    ]
    for name in sorted(first.keys() & second.keys()):
        if first[name] != second[name]:
            found.append(f"{name}: {_where(first[name], second[name])}")
    return found


def _where(one: Any, other: Any, place: str = "") -> str:
    """The first place where two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in (*one, *other):
            if one.get(key, ...) != other.get(key, ...):
                return _where(one.get(key, "nothing"), other.get(key, "nothing"), f"{place}.{key}")
    if isinstance(one, list) and isinstance(other, list):
        for i, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                return _where(a, b, f"{place}[{i}]")
        return f"{place}: {len(one)} and {len(other)} items"
    return f"{place}: {str(one)[:120]!r} and {str(other)[:120]!r}"
