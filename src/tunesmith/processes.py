"""Run a function in a process of its own: a fresh interpreter, or a fork of one that has only imported libraries.

Importing torch, transformers and peft takes seconds. A nursery is forked right after the imports, before any
model is loaded or any tensor computed, and forks a child for every request. So each run has its own memory, and
its peak is its own; a child that dies takes nothing with it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.console import quiet_libraries
from tunesmith.errors import TunesmithError, interrupt
from tunesmith.private import hide

FIRST = ("torch", "transformers.generation.utils", "datasets")  # what a run itself needs before its first step
THEN = ("accelerate", "peft", "sklearn.linear_model")  # and what some of its children need beside
OURS = (  # what trains, plans and verifies: a third of a second, worth it where many children are to come
    "tunesmith.artifacts.verify",
    "tunesmith.run",
    "tunesmith.training.loop",
    "tunesmith.plan.forecast",
    "scipy.optimize",
)
NICE = 10  # a tenth of the time of a busy core
COUNT_BY_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"

_address: str | None = None  # of the nursery that this process or its parent opened


class ChildError(TunesmithError):
    """A child process failed; carries its message and exit code."""

    def __init__(self, message: str, exit_code: int, kind: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.kind = kind  # name of the error's class in the child


def call(
    target: str,
    payload: dict[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    begun: Callable[[int], None] = lambda pid: None,
) -> dict[str, Any]:
    """Run `module:function(payload)` in another process and return its JSON result.

    Args:
        target: what to run.
        payload: for it, as JSON.
        environment: variables that the child has beside this process's own; OMP_NUM_THREADS is how many threads torch takes there.
        begun: is told the child's process id when it has started: SIGTERM asks it to save its state and end.

    Raises:
        ChildError: it failed or died.
    """
    ask = _ask_nursery if _address is not None else _ask_interpreter
    reply = ask(target, payload, {**os.environ, **(environment or {})}, begun)
    return result_of(reply)


def result_of(reply: dict[str, Any] | None) -> dict[str, Any]:
    """What `answer` gave in another process.

    Raises:
        ChildError: that failed or died.
    """
    if reply is None:
        raise ChildError("the process ended without an answer (killed, or out of memory).", 1)
    if "error" in reply:
        raise ChildError(str(reply["error"]), int(reply.get("exit_code", 1)), str(reply.get("kind", "")))
    return dict(reply["result"])


def answer(target: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Run `module:function(payload)` in this process; its result, or its failure in words, as another process can read it."""
    return _run(target, payload)


def open_nursery(*, idle: bool = False, many: bool = False, fork: bool = True) -> None:
    """Start the parent of later children: a fork where nothing but imports has happened here, else a fresh interpreter.

    A process that has computed with torch must not be forked: its thread pools and CUDA state do not survive, and its
    memory would count as the children's. So the fork happens only where torch was not even imported before this call, or who calls knows better.
    It is made once the libraries that both need are there, and imports the rest beside what this process does next.

    Args:
        idle: torch may have been imported here, and nothing was computed with it.
        many: many children are to come, so what each would do before its first step is done once, before the first of them.
        fork: this process may be forked; not where threads and connections of others live in it, as in a worker of Ray.
    """
    global _address
    if _address is not None or not hasattr(os, "fork") or sys.platform == "darwin":
        return
    address = str(Path(tempfile.mkdtemp(prefix="tunesmith-")) / "nursery")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(64)
    if not fork or ("torch" in sys.modules and not idle):
        command = [
            sys.executable,
            "-m",
            "tunesmith.processes",
            "--nursery",
            address,
            str(listener.fileno()),
            str(os.getpid()),
            *(["--many"] if many else []),
        ]
        nursery = subprocess.Popen(command, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=2).pid
    else:
        _import_libraries(FIRST)
        owner = os.getpid()
        nursery = os.fork()
        if nursery == 0:
            try:
                aside = threading.Thread(target=_import_aside, args=(many,))
                aside.start()
                while aside.is_alive() and os.getppid() == owner:
                    aside.join(1.0)
                _nurse(listener, address, owner)
            finally:
                os._exit(1)
    listener.close()
    _address = address
    atexit.register(_close_nursery, nursery, os.getpid(), address)


def _close_nursery(nursery: int, owner: int, address: str) -> None:
    """End the nursery with its owner: it holds the owner's stderr, and whoever reads that to its end would wait for it."""
    if os.getpid() != owner:
        return
    with suppress(OSError):
        if os.waitpid(nursery, os.WNOHANG) == (0, 0):  # still there, so the number is still its own
            os.kill(nursery, signal.SIGKILL)
            os.waitpid(nursery, 0)
    shutil.rmtree(Path(address).parent, ignore_errors=True)


def _import_libraries(names: Sequence[str]) -> None:
    """Import what runs need, and leave the GPU alone: CUDA cannot be used in a fork of a process that asked for it.

    Counting devices by NVML does not touch CUDA. bitsandbytes, which peft imports, asks each GPU for its generation as it is imported,
    so where there may be one, children import these two themselves.
    """
    quiet_libraries()
    import torch

    before, os.environ[COUNT_BY_NVML] = os.environ.get(COUNT_BY_NVML), "1"
    try:
        for module in names:
            if module == "peft" and torch.version.cuda and importlib.util.find_spec("bitsandbytes"):
                continue
            importlib.import_module(module)
    finally:
        if before is None:
            del os.environ[COUNT_BY_NVML]
        else:
            os.environ[COUNT_BY_NVML] = before
    # What they made stays for good: no collection looks through it again (half a second each), and children keep sharing its pages.
    gc.freeze()


def _import_aside(many: bool) -> None:
    """The rest of the imports, in a thread that gives way to whoever is at work: only a thread of its own may do so and leave the process as it was."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    _import_libraries(THEN)
    if many:
        _get_ready()


def _get_ready() -> None:
    """Do what every run does before it opens a model: import our own modules, and build the table by which transformers renames weights."""
    _import_libraries(OURS)
    # The table is an affair of transformers': where it has moved, every run builds it as before.
    with suppress(ImportError, AttributeError, TypeError):
        importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("bert")
    gc.freeze()


def _nurse(listener: socket.socket, address: str, owner: int) -> None:
    """The nursery's life: fork a child a request until the owner is gone."""
    global _address
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the children, which report back
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener.settimeout(1.0)
    while os.getppid() == owner:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            try:
                listener.close()
                _address = address
                _answer(connection)
            finally:  # whatever happens, a child never goes on as a second nursery
                os._exit(1)
        connection.close()
    Path(address).unlink(missing_ok=True)
    Path(address).parent.rmdir()
    os._exit(0)


def _answer(connection: socket.socket) -> None:
    """One child's life: read a request, carry it out, answer, end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection, connection.makefile("rwb") as stream:
        request = json.loads(stream.readline())
        stream.write(json.dumps({"pid": os.getpid()}).encode() + b"\n")
        stream.flush()
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        os.chdir(request.pop("folder"))
        os.environ.clear()
        os.environ.update(request.pop("environment"))
        take_threads()
        stream.write(json.dumps(_run_here(**request)).encode() + b"\n")
    sys.stderr.flush()
    os._exit(0)


def take_threads() -> None:
    """As many threads as the environment says: torch, which was loaded before, has read another one."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads):
        import torch

        torch.set_num_threads(int(threads))


def _end_with(connection: socket.socket) -> None:
    """Die when who asked is gone: it may be started again, and two must not write into one folder."""
    with suppress(OSError):
        connection.recv(1, socket.MSG_PEEK)  # nothing is sent any more, so this is the end of the other side
    os.kill(os.getpid(), signal.SIGKILL)


def _ask_nursery(
    target: str, payload: dict[str, Any], environment: dict[str, str], begun: Callable[[int], None]
) -> dict[str, Any] | None:
    assert _address is not None
    # The nursery was forked long ago: the child takes the caller's folder and environment, not the nursery's.
    request = {"target": target, "payload": payload, "folder": str(Path.cwd()), "environment": environment}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(_address)
        with connection.makefile("rwb") as stream:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            first = stream.readline()
            if first:
                begun(int(json.loads(first)["pid"]))
            try:
                line = stream.readline()
            except KeyboardInterrupt:
                if first:
                    with suppress(ProcessLookupError):
                        os.kill(json.loads(first)["pid"], signal.SIGTERM)
                line = stream.readline()  # what it says when its state is saved; a second Ctrl-C does not wait for it
                if b'"error"' not in line[:20]:  # it had just come to its end, or died
                    raise
    return json.loads(line) if line else None


def _ask_interpreter(
    target: str,
    payload: dict[str, Any],
    environment: dict[str, str] | None = None,
    begun: Callable[[int], None] = lambda pid: None,
) -> dict[str, Any] | None:
    command = [sys.executable, "-m", "tunesmith.processes", target]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        begun(process.pid)
        try:
            printed, _ = process.communicate(json.dumps(payload))
        except BaseException:
            process.terminate()  # which lets it save its state; leaving this block waits for it
            raise
    lines = printed.strip().splitlines()
    try:
        return dict(json.loads(lines[-1])) if lines else None
    except json.JSONDecodeError:
        return None


def _run_here(target: str, payload: dict[str, Any]) -> dict[str, Any] | None:
    """In this child, unless something asked for CUDA before the fork after all: then in a fresh interpreter."""
    import torch

    if torch.cuda._is_in_bad_fork():
        return _ask_interpreter(target, payload)
    return _run(target, payload)


def _run(target: str, payload: dict[str, Any]) -> dict[str, Any]:
    module, _, name = target.partition(":")
    try:
        return {"result": getattr(importlib.import_module(module), name)(payload)}
    except TunesmithError as error:
        return {
            "error": str(error),
            "exit_code": error.exit_code,
            "kind": getattr(error, "kind", "") or type(error).__name__,
        }
    except KeyboardInterrupt:
        return {"error": "interrupted", "exit_code": 130}
    except Exception as error:
        print(hide(traceback.format_exc()), file=sys.stderr, end="")
        return {"error": f"{type(error).__name__}: {error}", "exit_code": 1}


if __name__ == "__main__" and sys.argv[1] == "--nursery":
    from tunesmith import processes  # the importable module holds the state, not __main__

    # Who the owner is must be told: it may be gone before the libraries are imported, and the parent is then another.
    owner = int(sys.argv[4])
    if os.getppid() == owner:
        processes._import_libraries(processes.FIRST + processes.THEN)
        if "--many" in sys.argv[5:]:
            processes._get_ready()
    processes._nurse(socket.socket(fileno=int(sys.argv[3])), sys.argv[2], owner)
elif __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    real, sys.stdout = sys.stdout, sys.stderr
    said = _run(sys.argv[1], json.loads(sys.stdin.read()))
    real.write(json.dumps(said) + "\n")
    real.flush()
