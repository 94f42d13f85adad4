"""Runs over an existing Ray cluster (`--ray ADDRESS`): a task a run, done again on another node if its node dies.

OUTPUT has to lie on a file system that all nodes share, and files that are named must have the same path on each (assets and hub ids are fetched
where they are needed). A run writes its folder itself, so nothing large travels, and a task that is done again goes on from the last checkpoint
of the one that died. Each task gets a fresh worker process (`max_calls=1`): its peak memory is its own.

A run takes the cores of the smallest node, or its Nth part with `--jobs N`; a GPU likewise where there are any.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from pathlib import Path
from typing import Any

import yaml

from tunesmith import config as configuration
from tunesmith import processes
from tunesmith.compare.jobs import THREADS, Pool
from tunesmith.config import CompareConfig, RunConfig
from tunesmith.console import BARS, say
from tunesmith.errors import Interrupted, UserError
from tunesmith.run_folder import resolved

RETRIES = 3  # of a task whose node or worker died; a run that fails is not tried again
MOST_WAITING = 64  # threads that wait for tasks
ATTEMPT = "attempt"
"""In a run's folder while its task runs: by which a second try knows that it is one."""
TAKEN_ALONG = ("TUNESMITH_", "HF_", "TOKENIZERS_")  # variables that a task has from here


def work(target: str, payload: dict[str, Any], environment: dict[str, str], token: str) -> dict[str, Any]:
    """On a node, in a worker of its own: a run, from the last checkpoint where this is not the first try."""
    os.environ.update(environment)
    # What verifies the artifact imports beside the run. Ray's workers are not forked (its documentation, "Forking new processes").
    processes.open_nursery(fork=False)
    processes.take_threads()
    place = Path(payload["place"])
    place.mkdir(parents=True, exist_ok=True)
    mark = place / ATTEMPT
    own, again = place / "config.yaml", mark.is_file() and mark.read_text(encoding="utf-8") == token
    if not again:
        mark.write_text(token, encoding="utf-8")
    # What lies there from before the first try belongs to another run, which that try had not yet cleared away.
    again = again and own.is_file() and own.stat().st_mtime_ns >= mark.stat().st_mtime_ns
    if again and "resume" in payload and not (place / "result.json").is_file():
        payload = {**payload, "overwrite": False, "resume": True}
    reply = processes.answer(target, payload)
    mark.unlink(missing_ok=True)
    return reply


def knock(address: str) -> None:
    """Whether anybody is at HOST:PORT: ray itself waits a minute for nobody and then ends the process.

    Raises:
        OSError: nobody is.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=5).close()


class Cluster(Pool):
    """The nodes of a Ray cluster as a pool of processes."""

    def __init__(self, config: CompareConfig) -> None:
        """Connect.

        Raises:
            UserError: ray is not installed, or there is no cluster.
        """
        try:
            import ray
        except ImportError as error:
            raise UserError("--ray needs ray; install it with: pip install 'tunesmith[ray]'.") from error
        self.ray = ray
        if not ray.is_initialized():
            try:
                knock(str(config.ray))
                ray.init(address=config.ray, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # ray raises several kinds
                reason = str(error).strip().split("\n")[0]
                raise UserError(
                    f"cannot reach a Ray cluster at `{config.ray}` ({reason}); start one with `ray start --head`, or give its address."
                ) from error
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        if not nodes:
            raise UserError(
                f"the Ray cluster at `{config.ray}` has no node with a core; add one with `ray start --address`."
            )
        cpus = max(1, int(min(node["CPU"] for node in nodes)) // config.jobs)
        gpus = 1 / config.jobs if config.device != "cpu" and any(node.get("GPU", 0) >= 1 for node in nodes) else 0
        self.about = {"address": config.ray, "nodes": len(nodes), "cpus": sum(node["CPU"] for node in nodes)}
        super().__init__(MOST_WAITING)
        kept = {name: value for name, value in os.environ.items() if name.startswith(TAKEN_ALONG)}
        self.environment = {**kept, THREADS: str(cpus), BARS: "off"}
        self.task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_calls=1, max_retries=RETRIES)(work)
        self.waiting: set[Any] = set()
        self.guard = threading.Lock()
        say(f"Ray cluster: {len(nodes)} nodes; a run takes {cpus} cores{' and a GPU' if gpus else ''}.")

    def call(self, target: str, payload: dict[str, Any]) -> dict[str, Any]:
        """In the form of `processes.call`, on any node."""
        if self.stopping.is_set():
            raise Interrupted("interrupted before it began")
        run = resolved(configuration.build(RunConfig, yaml.safe_load(payload["config"])))
        place = Path(str(run.output)).resolve()
        run.output = str(place)
        place.mkdir(parents=True, exist_ok=True)
        sent = {**payload, "config": configuration.dump(run), "place": str(place)}
        task = self.task.remote(target, sent, self.environment, uuid.uuid4().hex)
        with self.guard:
            self.waiting.add(task)
        try:
            reply = self.ray.get(task)
        except self.ray.exceptions.TaskCancelledError:
            raise Interrupted("interrupted") from None
        except self.ray.exceptions.RayError as error:
            reason = str(error).strip().split("\n")[0]
            raise processes.ChildError(f"its node or worker died {RETRIES + 1} times ({reason}).", 1) from error
        finally:
            with self.guard:
                self.waiting.discard(task)
        result = processes.result_of(reply)
        if not (place / "result.json").is_file():
            raise processes.ChildError(
                f"it finished on another machine, but `{place}` is not here; give an --output on a file system that all nodes share.",
                2,
            )
        return result

    def stop(self) -> None:
        """Ask every task to save its state and end, and begin nothing more."""
        self.stopping.set()
        with self.guard:
            for task in self.waiting:
                self.ray.cancel(task)
