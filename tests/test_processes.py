"""Helper processes end with the process that started them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_nursery_ends_when_its_owner_ended_before_it_was_ready(tmp_path: Path) -> None:
    """A refused run is over sooner than the nursery's imports; a nursery that stayed would hold its caller's pipe forever."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    address = tmp_path / "place" / "nursery"
    address.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(address))
        listener.listen(1)
        command = [
            sys.executable, "-m", "tunesmith.processes", "--nursery", str(address), str(listener.fileno()), str(gone.pid),
        ]  # fmt: skip
        done = subprocess.run(command, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, timeout=300, check=False)
    assert done.returncode == 0
    assert not address.exists()


CAREFUL = """
import os, sys
import torch
from tunesmith import processes

torch.version.cuda = "13.0"

def counted():
    assert os.environ.get(processes.COUNT_BY_NVML) == "1", "asks the CUDA runtime, and its forks could not use it"
    return False

def touched(*args, **settings):
    raise AssertionError("initialises CUDA")

torch.cuda.is_available = counted
for name in ("_lazy_init", "get_device_capability", "get_device_properties", "current_device", "mem_get_info"):
    setattr(torch.cuda, name, touched)
processes._import_libraries(processes.FIRST + processes.THEN)
processes._get_ready()
assert {"transformers", "accelerate", "datasets"} <= sys.modules.keys()
assert "bitsandbytes" not in sys.modules
assert processes.COUNT_BY_NVML not in os.environ
"""


def test_the_nursery_leaves_cuda_alone() -> None:
    """A fork of a process that asked for CUDA cannot use it: every run on a GPU would fail when its artifact is verified."""
    done = subprocess.run([sys.executable, "-c", CAREFUL], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_a_child_that_cannot_use_cuda_asks_a_fresh_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tunesmith import processes

    assert processes._run_here("builtins:dict", {"a": 1}) == {"result": {"a": 1}}
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(processes, "_run", lambda *_: pytest.fail("carried out in the fork"))
    assert processes._run_here("builtins:dict", {"a": 1}) == {"result": {"a": 1}}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_child_ends_with_who_asked_for_it(number: int, tmp_path: Path) -> None:
    """Killed with a comparison, a run that went on would write into the folder in which the next one begins."""
    from tunesmith import processes

    file = tmp_path / "pid"
    asker = os.fork()
    if asker == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with suppress(KeyboardInterrupt, processes.ChildError):
            processes.call("command_line:stay", {"file": str(file)})
        os._exit(0)
    end = time.monotonic() + 60
    while not (file.exists() and file.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    child = int(file.read_text())
    os.kill(asker, number)
    os.waitpid(asker, 0)
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("first", "idle"), [("torch", False), ("torch", True), ("json", False)])
def test_a_nursery_ends_with_its_owner(tmp_path: Path, first: str, idle: bool) -> None:
    """And not a while later: it holds the owner's stderr, and `tunesmith ... 2>&1 | tee log` would wait for it."""
    told = tmp_path / "told"
    script = (
        f"import {first}, pathlib, psutil; from tunesmith import processes; processes.open_nursery(idle={idle}); pathlib.Path({str(told)!r}).write_text(processes._address); "
        f"(nursery,) = psutil.Process().children(); assert ('--nursery' in nursery.cmdline()) is {first == 'torch' and not idle}"
    )
    with (tmp_path / "said").open("w") as said:
        done = subprocess.run([sys.executable, "-c", script], stdout=said, stderr=said, timeout=300, check=False)
    assert done.returncode == 0, (tmp_path / "said").read_text()
    assert not Path(told.read_text()).parent.exists()


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="needs fork")
@pytest.mark.parametrize("fork", [True, False])
def test_a_process_that_may_not_be_forked_is_not(fork: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch has not been imported, so nothing else speaks against it."""
    from tunesmith import processes

    class Made(Exception):
        """By the one way or the other."""

    def made(how: str) -> Any:
        def make(*_: Any, **__: Any) -> None:
            raise Made(how)

        return make

    monkeypatch.setattr(processes, "_address", None)
    monkeypatch.setattr(processes, "_import_libraries", lambda names: None)
    monkeypatch.setattr(processes.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    monkeypatch.setattr(os, "fork", made("fork"))
    monkeypatch.setattr(processes.subprocess, "Popen", made("interpreter"))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(Made, match="fork" if fork else "interpreter"):
        processes.open_nursery(fork=fork)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("first", "many"), [("json", False), ("json", True), ("torch", True)])  # torch: not a fork
def test_what_every_run_needs_is_made_once_for_many(tmp_path: Path, first: str, many: bool) -> None:
    script = (
        f"import {first}, json, sys; from tunesmith import processes; processes.open_nursery(many={many}); "
        "print(json.dumps(processes.call('command_line:loaded', {})))"
    )
    surroundings = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False, env=surroundings
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"peft": True, "tunesmith.run": many, "renaming": many}
