"""Runs over a Ray cluster of several nodes, one of which dies on the way. Skips where ray is not installed; `make setup` installs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith import config as configuration
from tunesmith.config import CompareConfig
from tunesmith.errors import UserError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

GIVEN: dict[str, Any] = {
    "train": toy_rows(64), "eval": toy_rows(8), "techniques": ["lora"], "seeds": [0, 1], "baselines": [], "batch_size": 4, "max_steps": 150,
    "training": {"checkpoint_every": 10, "log_every": 1, "evaluations": 1, "plan": False},
}  # fmt: skip


def test_without_ray_it_says_what_to_install(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def missing(name: str, *args: Any, **more: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'tunesmith\[ray\]'"):
        tunesmith.compare(str(tiny_model("bert", models / "bert")), ray="auto", output=tmp_path / "c", **GIVEN)


def test_a_second_try_of_a_task_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same token in the folder: the first try died. Another one: another call, which begins as it was told to."""
    from tunesmith import processes
    from tunesmith.compare import cluster

    asked, opened = [], []
    monkeypatch.setattr(processes, "open_nursery", lambda **how: opened.append(how))
    monkeypatch.setattr(processes, "answer", lambda target, payload: asked.append(payload) or {"result": {}})
    monkeypatch.setattr(cluster.os, "environ", dict(os.environ))
    payload = {"place": str(tmp_path), "overwrite": True, "resume": False}
    own, now = tmp_path / "config.yaml", time.time()
    own.write_text("", encoding="utf-8")
    for token, mark, age in (("a", None, 0), ("a", "b", 0), ("a", "a", 0), ("a", "a", 60)):
        if mark is not None:
            (tmp_path / cluster.ATTEMPT).write_text(mark, encoding="utf-8")
            os.utime(tmp_path / cluster.ATTEMPT, (now, now))
            os.utime(own, (now - age, now - age))  # older than the first try: what another run left there
        cluster.work("x:y", dict(payload), {}, token)
        assert not (tmp_path / cluster.ATTEMPT).exists()
    begun = [(each["overwrite"], each["resume"]) for each in asked]
    assert begun == [(True, False), (True, False), (False, True), (True, False)]
    assert opened == [{"fork": False}] * 4


def test_a_fresh_run_whose_node_dies_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a comparison sends for a run that begins is what a second try goes on with."""
    from tunesmith import processes
    from tunesmith.compare import carrying, cluster
    from tunesmith.compare.planning import plan

    given = {
        "model": "m",
        "train": "a.csv",
        "techniques": ["lora"],
        "baselines": [],
        "seeds": [0],
        "output": str(tmp_path),
    }
    (planned,) = plan(configuration.build(CompareConfig, given), tmp_path)
    place, asked = Path(str(planned.run.output)), []

    def answer(target: str, payload: dict[str, Any]) -> dict[str, Any]:
        asked.append((payload["overwrite"], payload["resume"]))
        (place / "config.yaml").write_text("", encoding="utf-8")
        if len(asked) == 1:
            raise ConnectionError("the node is gone")
        return {}

    monkeypatch.setattr(processes, "answer", answer)
    monkeypatch.setattr(cluster.os, "environ", dict(os.environ))

    def call(target: str, payload: dict[str, Any], **_: Any) -> dict[str, Any]:
        with pytest.raises(ConnectionError):
            cluster.work(target, {**payload, "place": str(place)}, {}, "a")
        return cluster.work(target, {**payload, "place": str(place)}, {}, "a")

    carrying._carry_out(planned, tmp_path, "lora", {}, call)
    assert asked == [(True, False), (False, True)]


WORLD = """
import importlib, json, os, sys, threading, time, traceback
from pathlib import Path
from ray.cluster_utils import Cluster
import tunesmith

beside = threading.Thread(target=importlib.import_module, args=("tunesmith.compare.cluster",))
beside.start()
model, folder, given = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}  # that a node is dead is known after 2.5 s, by itself after 15
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": soon})
workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
cluster.wait_for_nodes()
beside.join()

def kill():
    places = [folder / "runs" / "lora" / str(seed) for seed in (0, 1)]
    while not any((place / "checkpoints").is_dir() and not (place / "result.json").is_file() for place in places):
        time.sleep(0.05)
    cluster.remove_node(workers[0], allow_graceful=False)
    (folder / "killed").write_text("")

threading.Thread(target=kill, daemon=True).start()
try:
    tunesmith.compare(model, ray=cluster.address, output=folder, **given)
except BaseException:
    traceback.print_exc()
finally:  # ray's own way to end can wait for the node that died
    for node in [*cluster.worker_nodes, cluster.head_node]:
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    sys.stderr.flush()
    os._exit(0)
"""


def test_a_node_that_dies_on_the_way(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray is not installed (pip install 'tunesmith[ray]')")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model, folder = str(tiny_model("bert", models / "bert")), tmp_path / "c"
    command = [sys.executable, "-c", WORLD, model, str(folder), json.dumps(GIVEN)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as world:
        try:
            here = tunesmith.compare(model, output=tmp_path / "here", **GIVEN)  # while it imports and waits
            _, said = world.communicate(timeout=600)
        except BaseException:
            world.kill()
            raise
    assert (folder / "killed").is_file(), said[-3000:]
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert {run["status"] for run in results["runs"]} == {"finished"}
    assert results["protocol"]["ray"]["nodes"] == 2
    assert "Ray cluster" in (folder / "report.html").read_text(encoding="utf-8")
    ours = {(run["technique"], run["seed"]): run["metrics"] for run in results["runs"]}
    for run in here.results["runs"]:
        assert ours[(run["technique"], run["seed"])] == run["metrics"]  # whichever node, and however often
    again = tunesmith.compare(model, output=folder, **GIVEN)  # and what is there counts here, too
    assert [run["metrics"] for run in again.results["runs"]] == [run["metrics"] for run in results["runs"]]


def test_no_cluster_is_a_sentence(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is made ready here for runs that are children of its nodes."""
    from tunesmith import processes

    pytest.importorskip("ray", reason="ray is not installed (pip install 'tunesmith[ray]')")
    monkeypatch.setattr(processes, "open_nursery", lambda **_: pytest.fail("opened"))
    with pytest.raises(UserError, match="cannot reach a Ray cluster"):
        tunesmith.compare(str(tiny_model("bert", models / "bert")), ray="127.0.0.1:1", output=tmp_path / "c", **GIVEN)
