"""Shared by all tests: a cache of their own, quiet libraries, tiny models, the command line."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from command_line import Cli, call
from tunesmith import processes

with suppress(ImportError):
    import setuptools  # noqa: F401  (before anything imports the standard library's distutils, which it replaces: BOFT needs it)

os.environ["TUNESMITH_STRICT"] = "1"  # a fault of one of the doctor's checks fails a test, and never a run

# Runs verify their artifact in another process; forking it from here, before any tensor exists, saves seconds a run.
processes.open_nursery()

SHARED_CACHE = os.environ.get("TUNESMITH_CACHE")  # where fetched assets may already lie


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    from tunesmith.console import quiet_libraries

    quiet_libraries()


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
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return call
