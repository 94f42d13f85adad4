"""The commands of docs/serving.md run as they stand, with a tiny model in place of the large one, and its table of flags is true."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from served import random_artifact, running

from command_line import Cli
from tunesmith.cli import commands_serve
from tunesmith.serve.limits import Limits
from tunesmith.serve.server import Options

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
BASH = [line for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.S | re.M) for line in block.splitlines()]
(PYTHON,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)


def test_the_page_runs(
    base: Callable[[str], Path], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    for name in ("polite", "short"):
        random_artifact(base("llama"), tmp_path / "runs" / name / "artifact", "chat", "lora", seed=len(name))
    random_artifact(base("llama"), tmp_path / "runs" / "reviews" / "artifact", "text-classification", "lora")
    install, command, ask, outside = BASH
    assert install == "pip install 'tunesmith[serve]'"
    monkeypatch.chdir(tmp_path)
    asked: list[Options] = []
    monkeypatch.setattr("tunesmith.serve.server.serve", asked.append)
    words = shlex.split(command.replace("asset:smollm2-135m", str(base("llama"))))
    assert cli(*words[1:], "--device", "cpu", "--adapter", "reviews=runs/reviews/artifact").code == 0
    (options,) = asked
    assert list(options.adapters) == ["polite", "short", "reviews"]
    with running(options) as server:
        exec(compile(PYTHON.replace("http://127.0.0.1:8000", server.url), "serving.md", "exec"), {})
        assert "'llama-writer', 'polite', 'short', 'reviews'" in capsys.readouterr().out
        words = shlex.split(ask.replace("http://127.0.0.1:8000", server.url))
        answer = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
        assert re.search(r'"prediction":"(positive|negative)"', answer.stdout), answer.stdout
    words = shlex.split(outside.partition(") ")[2].replace("asset:smollm2-135m", str(base("llama"))))
    monkeypatch.setenv("TUNESMITH_TOKEN", "a-token-of-some-length")
    assert cli(*words[1:]).code == 0
    assert (asked[1].host, asked[1].token) == ("0.0.0.0", "a-token-of-some-length")
    secret = re.search(r'python -c "(.*?)"', outside)
    assert secret is not None
    made = subprocess.run([sys.executable, "-c", secret[1]], capture_output=True, text=True, check=True).stdout.strip()
    assert len(made) >= 32


def test_flags_and_defaults_are_those_of_the_command() -> None:
    flags = inspect.signature(commands_serve.serve).parameters
    table = dict(re.findall(r"^\| `--([a-z-]+)` \| (\d+)", PAGE, re.M))
    assert set(table) == {"max-batch", "max-queue", "max-tokens", "max-body", "max-rows", "drain"}
    for name, default in table.items():
        assert flags[name.replace("-", "_")].default == int(default)
        assert getattr(Limits(), name.replace("-", "_"), int(default)) == int(default)
    for flag in re.findall(r"`(--[a-z-]+)", PAGE.split("## When one process")[0]):
        assert flag.removeprefix("--").replace("-", "_") in flags, flag
