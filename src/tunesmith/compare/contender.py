"""A run in a race: it stops resumably at a share of its steps, goes on from there, and is held to a clock; what it costs is measured as it runs."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith import processes
from tunesmith.compare.carrying import Call
from tunesmith.compare.planning import Planned
from tunesmith.errors import Interrupted


class Paused(Exception):
    """A run stopped where it was told to."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__("paused")
        self.found = found


def segment(payload: dict[str, Any]) -> dict[str, Any]:
    """In its own process: a run up to a share of its steps (or a step), or to its end."""
    from tunesmith.run import execute_payload
    from tunesmith.training.log import read
    from tunesmith.training.stopping import Pause, pausing

    pause = Pause(payload.pop("share"), payload.pop("step"))
    try:
        with pausing(pause):
            return execute_payload(payload)
    except Interrupted:
        if pause.reached is None:
            raise
    lines = [line for line in read(Path(payload["place"]) / "metrics.jsonl") if line["event"] == "evaluate"]
    return {"paused": {**pause.reached, "metrics": lines[-1]["metrics"]}}


@dataclass
class Contender:
    """A run in the race.

    Attributes:
        planned: it.
        number: its place among all, as people read it.
        rungs: what was measured at each: share, step, of, score, loss, seconds (of training), wall.
        entry: its run in results.json, when it has ended.
    """

    planned: Planned
    number: str
    rungs: list[dict[str, Any]] = field(default_factory=list)
    entry: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """By which budget.json knows it."""
        return f"{self.planned.run.model}/{self.planned.name}"

    @property
    def share(self) -> float:
        """How far it is."""
        return float(self.rungs[-1]["share"]) if self.rungs else 0.0

    @property
    def opening(self) -> float:
        """Seconds that it takes beside its steps when it is taken up."""
        before = self.rungs[-2]["seconds"] if len(self.rungs) > 1 else 0.0
        # Not below 0: of a run that was probed or interrupted, part of its training lies before this wall clock began.
        return max(0.0, float(self.rungs[-1]["wall"] - (self.rungs[-1]["seconds"] - before)))

    @property
    def per_step(self) -> float:
        """Seconds a step."""
        return float(self.rungs[-1]["seconds"]) / max(1, int(self.rungs[-1]["step"]))

    def cost(self, share: float) -> float:
        """Seconds to go on to a share of its steps; its end is scored and verified, which takes about as long as to take it up."""
        left = (share - self.share) * int(self.rungs[-1]["of"]) * self.per_step
        return left + self.opening * (2.0 if share >= 1 else 1.0)


class Limited:
    """`processes.call` with an end: the child is asked to save its state and stop when its time is over.

    Attributes:
        expired: whether it was.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds, self.expired = seconds, False

    def plain(self, target: str, payload: dict[str, Any]) -> dict[str, Any]:
        """In the form of `processes.call`."""
        timers: list[threading.Timer] = []

        def begun(pid: int) -> None:
            if self.seconds is not None:
                timers.append(threading.Timer(self.seconds, self._expire, [pid]))
                timers[0].daemon = True
                timers[0].start()

        try:
            return processes.call(target, payload, begun=begun)
        finally:
            for timer in timers:
                timer.cancel()

    def up_to(self, planned: Planned, share: float | None, step: int | None) -> Call:
        """The same for a run that pauses at a share of its steps, or at a step; it raises `Paused` there."""

        def call(target: str, payload: dict[str, Any]) -> dict[str, Any]:
            more = {"share": share, "step": step, "place": str(planned.run.output)}
            reply = self.plain("tunesmith.compare.contender:segment", {**payload, **more})
            if "paused" in reply:
                raise Paused(reply["paused"])
            return reply

        return call

    def _expire(self, pid: int) -> None:
        self.expired = True
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
