"""pass@1 of written programs: each is run with its tests in a process of its own, with little time, memory and no files.

    pass@1 = share of problems whose first (greedy) program passes every test       (Chen et al. 2021, section 2.1)

The process has its own working folder and an empty environment, cannot use more than `SECONDS` of processor time or `MEMORY`
bytes, cannot start processes or write files. That is a fence against accidents, not against attackers: running what a model writes is
refused unless it is asked for.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.console import progress
from tunesmith.errors import DataError, UserError, called

COLUMNS = ("prompt", "test", "entry_point")
SECONDS = 10
MEMORY = 1 << 30
# A function's body ends where the next statement of the file begins.
NEXT = re.compile(r"\n(?=[^\s#)\]}\"'])")
RUNNER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
program = sys.stdin.read()
sys.stdin = None
exec(compile(program, "program", "exec"), {{"__name__": "program"}})
print("passed", {token!r})
"""


@dataclass(frozen=True)
class Attempt:
    """What became of one program.

    Attributes:
        program: the prompt and what was written.
        passed: whether every test passed.
        reason: the last line of its error, or why it was stopped.
    """

    program: str
    passed: bool
    reason: str


def asks_for_code(names: Sequence[str]) -> bool:
    """Whether rows are programming problems with tests."""
    return all(name in names for name in COLUMNS)


def require_permission(allowed: bool, data: str) -> None:
    """Refuse to run what a model writes unless it was asked for.

    Raises:
        UserError: it was not, or this system has no limits for processes.
    """
    if not allowed:
        raise UserError(
            f"`{data}` asks for programs, and scoring them runs what the model writes on this machine (at most {SECONDS} s and "
            f"{MEMORY >> 30} GiB each, no files, no further processes); add --allow-code-execution if you want that."
        )
    if sys.platform == "win32":
        raise UserError(
            "running written programs needs process limits, which Windows does not have; use Linux or macOS."
        )


def check_problems(problems: Sequence[Mapping[str, Any]], data: str) -> None:
    """Refuse problems that are not text.

    Raises:
        DataError: with the first of them.
    """
    for number, problem in enumerate(problems, 1):
        for name in COLUMNS:
            if not isinstance(problem[name], str):
                raise DataError(
                    f"{data}, row {number}: `{name}` is {called(problem[name])}; it must be text, so mend or remove the row."
                )


def first_function(prompt: str, written: str) -> str:
    """The prompt with the body that was written behind it, cut where the function ends."""
    end = NEXT.search(written)
    return prompt.rstrip() + (written[: end.start()] if end else written)


def has_ended(written: str) -> bool:
    """Whether what was written goes beyond its function, so that nothing more of it is read."""
    return NEXT.search(written) is not None


def run_program(program: str, seconds: int = SECONDS, memory: int = MEMORY) -> Attempt:
    """Run a program in a process of its own; it passes if it reaches its end."""
    token = os.urandom(8).hex()  # what a program prints itself cannot look like passing
    runner = RUNNER.format(seconds=seconds, memory=memory, token=token)
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", runner], input=program, capture_output=True, text=True, timeout=4 * seconds, cwd=folder,
                env={}, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Attempt(program, False, f"stopped after {4 * seconds} s")
    if done.returncode == 0 and done.stdout.rstrip().endswith(f"passed {token}"):
        return Attempt(program, True, "")
    lines = done.stderr.strip().splitlines()
    killed = f"stopped after {seconds} s of processor time" if done.returncode < 0 else "ended early"
    return Attempt(program, False, lines[-1] if lines else killed)


def pass_at_1(
    write: Callable[[Sequence[str]], Sequence[str]], problems: Sequence[Mapping[str, Any]], batch_size: int = 16
) -> tuple[float, list[Attempt]]:
    """Let a model write every program, run them, and count.

    A prompt is given without the line break at its end, as is usual (a model that has to go on behind one takes the function for
    finished, since the tokens of an indented line begin with the break): SmolLM2-135M passes none of human-eval otherwise.

    Args:
        write: continues prompts.
        problems: rows with `prompt`, `test` (which defines `check`) and `entry_point`.
        batch_size: prompts written at a time.
    """
    attempts: list[Attempt] = []
    with progress() as bar:
        shown = bar.add_task("programs", total=len(problems))
        for start in range(0, len(problems), batch_size):
            block = problems[start : start + batch_size]
            for problem, written in zip(block, write([p["prompt"].rstrip() for p in block]), strict=True):
                function = first_function(problem["prompt"], written)
                attempts.append(run_program(f"{function}\n\n{problem['test']}\n\ncheck({problem['entry_point']})\n"))
                bar.advance(shown)
    return sum(a.passed for a in attempts) / max(len(attempts), 1), attempts
