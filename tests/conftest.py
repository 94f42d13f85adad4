"""Shared by all tests: a cache of their own, quiet libraries, tiny models, the command line."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from command_line import Cli, call
from tunesmith import processes

with suppress(ImportError):
    import setuptools  # noqa: F401  (before anything imports the standard library's distutils, which it replaces: BOFT needs it)

os.environ["TUNESMITH_STRICT"] = "1"  # a fault of one of the doctor's checks fails a test, and never a run

# Runs verify their artifact in another process; forking it from here, before any tensor exists, saves seconds a run.
processes.open_nursery(many=True)

SHARED_CACHE = os.environ.get("TUNESMITH_CACHE")  # where fetched assets may already lie


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    from tunesmith.console import quiet_libraries

    quiet_libraries()


@pytest.fixture(scope="module", autouse=True)
def little_to_look_through() -> None:
    """What is there before a file of tests begins stays: each run of them collects garbage, a fifth of its time with all that was imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def usual_verbosity() -> None:
    """What another test made quiet speaks again."""
    from tunesmith.console import set_verbosity

    set_verbosity(0)


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test writes to a temporary cache; tests marked `registry` keep the shared one, so that nothing is fetched twice."""
    if request.node.get_closest_marker("registry") is None:
        monkeypatch.setenv("TUNESMITH_CACHE", str(cache))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which `tiny_model` keeps its models."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """`with power_cut(5):` what trains inside dies in its fifth step; the random state behind it is not what it was."""
    import torch

    from tunesmith.training import loop

    @contextmanager
    def cut(step: int) -> Iterator[None]:
        steps, real = 0, loop._train_step

        def dying(*args: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == step:
                raise RuntimeError("power cut")
            return real(*args)

        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
            patch.setattr(loop, "_train_step", dying)
            yield
        torch.manual_seed(999)

    return cut


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return call
