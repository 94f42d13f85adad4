"""Fixtures of the server's tests: tiny models that write, random adapters, a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served import ADAPTERS, Running, random_lora, running, writer


@pytest.fixture(scope="session")
def base(models: Path) -> Callable[[str], Path]:
    """The tiny model of an architecture, able to write."""
    return lambda kind: writer(kind, models)


@pytest.fixture(scope="session")
def loras(models: Path) -> Callable[..., dict[str, Path]]:
    """The first `count` random adapters on an architecture, by name."""

    def make(kind: str, count: int = ADAPTERS) -> dict[str, Path]:
        found = {}
        for seed in range(count):
            folder = models / f"{kind}-lora-{seed}"
            if not folder.is_dir():
                random_lora(writer(kind, models), folder, seed)
            found[f"a{seed}"] = folder
        return found

    return make


@pytest.fixture(scope="module")
def llama(base: Callable[[str], Path], loras: Callable[..., dict[str, Path]]) -> Iterator[Running]:
    """A tiny llama with eight adapters."""
    from tunesmith.serve.limits import Limits
    from tunesmith.serve.server import Options

    folders = {name: str(folder) for name, folder in loras("llama").items()}
    limits = Limits(max_tokens=100, max_queue=60, max_batch=6, max_body=20_000, max_rows=20)
    root = base("llama").parent
    with running(Options(str(base("llama")), folders, device="cpu", limits=limits, adapter_root=root)) as found:
        yield found
