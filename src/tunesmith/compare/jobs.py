"""Several runs at once on one machine (`--jobs N`), each in a process of its own with its share of the cores.

A thread waits for each process, and the cores are divided: every run computes with cores // N threads (OMP_NUM_THREADS, where it is set, stays).
A sum over threads depends on how many there are, so runs are the same bit for bit as one after the other where the number of threads is.
What is computed once (encoded rows, features) is shared through the cache, whose locks let one run compute and the others wait.

Ctrl-C and SIGTERM reach every child as SIGTERM: each saves its state after the step that it is in, and then the comparison ends.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith import processes
from tunesmith.compare.carrying import Call, carry_out
from tunesmith.compare.checks import Identity
from tunesmith.compare.planning import Planned
from tunesmith.config import CompareConfig
from tunesmith.console import BARS, say, warn
from tunesmith.errors import Interrupted

THREADS = "OMP_NUM_THREADS"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of(jobs: int) -> int:
    """Threads of each of so many runs: what OMP_NUM_THREADS says, else the share of the cores."""
    given = os.environ.get(THREADS, "")
    return int(given) if given.isdecimal() and int(given) else max(1, cores() // jobs)


def carry_out_all(
    planned: Sequence[Planned], folder: Path, identity: Identity, config: CompareConfig
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(every run in the order of the plan, what the protocol says of where they ran), however many run at once.

    Raises:
        Interrupted: stopped on request; finished runs are kept.
    """
    # What makes identities opens rows, and may do so before the first thread.
    known = [identity.of_planned(each) for each in planned]

    def work(place: int, call: Call | None) -> dict[str, Any]:
        return carry_out(planned[place], folder, f"[{place + 1}/{len(planned)}]", known[place], call)

    if config.jobs == 1 and config.ray is None:
        return [work(place, None) for place in range(len(planned))], {}
    pool: Pool
    if config.ray is not None:
        from tunesmith.compare.cluster import Cluster

        pool = Cluster(config)
        about: dict[str, Any] = {"ray": pool.about}
    else:
        pool = Pool(config.jobs)
        about = {"jobs": config.jobs, "threads": threads_of(config.jobs)}
        say(f"{config.jobs} runs at once with {about['threads']} thread(s) each.")
    return pool.run([lambda place=place: work(place, pool.call) for place in range(len(planned))]), about  # type: ignore[misc]


class Pool:
    """So many pieces of work at once, each waiting for a process of its own."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.environment = {THREADS: str(threads_of(jobs)), BARS: "off"}
        self.children: set[int] = set()
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.warned = False

    def call(self, target: str, payload: dict[str, Any]) -> dict[str, Any]:
        """`processes.call`, with the child known to `stop`."""
        if self.stopping.is_set():
            raise Interrupted("interrupted before it began")
        own: list[int] = []

        def begun(pid: int) -> None:
            own.append(pid)
            with self.lock:
                self.children.add(pid)
                if self.stopping.is_set():  # between the question above and now
                    _ask_to_stop(pid)

        try:
            result = processes.call(target, payload, environment=self.environment, begun=begun)
        finally:
            with self.lock:
                self.children.difference_update(own)
        self._look_at_memory(result)
        return result

    def run(self, work: Sequence[Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
        """Everything, and its results in the same order.

        Raises:
            Interrupted: stopped on request, when every child has ended.
        """
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(work)):
            waiting.put(place)
        results: dict[int, dict[str, Any]] = {}
        failures: list[BaseException] = []

        def carry() -> None:
            while not self.stopping.is_set():
                try:
                    place = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    results[place] = work[place]()
                except BaseException as error:
                    failures.append(error)
                    self.stop()

        threads = [threading.Thread(target=carry, daemon=True) for _ in range(min(self.jobs, len(work)))]
        try:
            for thread in threads:
                thread.start()
            self._wait(threads)
        except KeyboardInterrupt:
            self.stop()
            self._wait(threads)  # a second Ctrl-C does not wait for what they save
            raise Interrupted("interrupted; finished runs are kept: the same command goes on from there.") from None
        if failures:
            raise failures[0]
        return [results[place] for place in range(len(work))]

    def stop(self) -> None:
        """Ask every child to save its state and end, and begin nothing more."""
        self.stopping.set()
        with self.lock:
            for pid in self.children:
                _ask_to_stop(pid)

    @staticmethod
    def _wait(threads: Sequence[threading.Thread]) -> None:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # a signal's handler runs between two of these

    def _look_at_memory(self, result: dict[str, Any]) -> None:
        """Say once that runs of this size would not all fit."""
        import psutil

        peak = (result.get("cost") or {}).get("peak_memory_bytes") or 0
        total = psutil.virtual_memory().total
        if peak * self.jobs > total and not self.warned:
            self.warned = True
            warn(
                f"{self.jobs} runs of {peak / 2**30:.1f} GiB need more than the {total / 2**30:.1f} GiB of this machine; take fewer with --jobs."
            )


def _ask_to_stop(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
