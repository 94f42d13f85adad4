"""Nothing is asked of the network unless a hub id is named, and no secret is printed or written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunesmith.console import visible
from tunesmith.private import hide
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows

SECRETS = {
    "HF_TOKEN": "hf_thisIsNobodysTokenButLong",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "TUNESMITH_TOKEN": "a-token-of-some-length",
    "AWS_SECRET_ACCESS_KEY": "AWSsecretOfNobody",
}
WATCH = '''
import os, sys

def watch(event, args):
    """Every connection and every name that is looked up, but for sockets of this machine's file system."""
    asked = None
    if event == "socket.connect" and isinstance(args[1], tuple):
        asked = args[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        asked = args[0]
    if asked is not None:
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {asked}\\n")
        raise OSError(101, "no network in this test")

sys.addaudithook(watch)
'''
RUN = """
import time
time.sleep = lambda seconds: None  # the hub's client waits longer after each try
from tunesmith.cli.main import run
for words in {commands!r}:
    print("$", *words, flush=True)
    print("exit", run(words), flush=True)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH)
    for name in ("train", "eval"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toy_rows(24)))
    tiny_model("bert", tmp_path / "model")
    return tmp_path


def carry_out(place: Path, commands: list[list[str]]) -> tuple[str, list[str]]:
    """What the commands said, in one process with secrets around it, and what was asked of the network."""
    watched = place / "watched"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_HUB", "TRANSFORMERS"))},
        **SECRETS,
        "WATCHED": str(watched),
        "TUNESMITH_CACHE": str(place / "cache"),
        "PYTHONPATH": str(place / "site"),
        "HF_HOME": str(place / "hub"),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(commands=commands)], cwd=place, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
    )  # fmt: skip
    return done.stdout, watched.read_text().splitlines() if watched.exists() else []


FAST = ["--max-steps", "2", "--batch-size", "8", "--device", "cpu"]
DATA = ["--model", "model", "--train", "train.jsonl", "--eval", "eval.jsonl"]


def test_no_network_and_no_secrets(place: Path) -> None:
    """The whole way from a folder and two files to a report, a merged model and a peft folder."""
    said, asked = carry_out(
        place,
        [
            ["doctor", *DATA],
            ["train", *DATA, *FAST, "--technique", "lora", "--output", "run", "-v"],
            ["resume", "run"],
            ["show", "run"],
            ["evaluate", "run/artifact", "--data", "eval.jsonl"],
            ["predict", "run/artifact", "--data", "eval.jsonl", "-o", "out.jsonl"],
            ["verify", "run"],
            ["merge", "run/artifact", "--output", "merged"],
            [
                "compare",
                *DATA,
                *FAST,
                "--techniques",
                "bitfit",
                "--seeds",
                "0",
                "--baselines",
                "majority",
                "--output",
                "comparison",
            ],
            ["list", "cache"],
        ],
    )
    assert said.count("exit 0") == 10, said
    assert asked == []
    left = [path for path in place.rglob("*") if path.is_file() and place / "model" not in path.parents]
    assert len(left) > 20
    for secret in SECRETS.values():
        assert secret not in said
        assert [path for path in left if secret.encode() in path.read_bytes()] == []


def test_a_hub_id_is_asked_for(place: Path) -> None:
    """The watch sees what it should, and the refusal says nothing of the token."""
    named = ["--model", "someone/no-such-model", "--train", "train.jsonl"]
    said, asked = carry_out(place, [["train", *named, *FAST, "--output", "run"]])
    assert "exit 2" in said and "someone/no-such-model" in said
    assert asked
    assert not any(secret in said for secret in SECRETS.values())


def test_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
        assert hide(f"a {value} b") == visible(f"a {value} b") == "a *** b"
    assert visible("see https://me:password@example.org/m") == "see https://***@example.org/m"
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("FOLDER", "a-folder-name")
    assert hide("false a-folder-name me@example.org") == "false a-folder-name me@example.org"


def test_an_address_with_a_password_is_refused_without_it(place: Path) -> None:
    said, _ = carry_out(place, [["train", "--model", "https://me:password@example.org/m", "--train", "train.jsonl"]])
    assert "exit 2" in said and "password" not in said.partition("\n")[2]


def test_details_of_a_failure_hide_secrets(monkeypatch: pytest.MonkeyPatch, cli: Any) -> None:
    """A traceback quotes the message of what was raised."""
    secret = "hf_abcdefghijkl"
    monkeypatch.setenv("HF_TOKEN", secret)

    def broken(kind: str) -> list[str]:
        raise RuntimeError(f"no answer to {secret}")

    monkeypatch.setattr("tunesmith.registry.names", broken)
    monkeypatch.setattr("sys.argv", ["tunesmith", "-v", "list", "techniques"])
    answer = cli("list", "techniques")
    assert answer.code == 1 and "Traceback" in answer.err and "our fault" in answer.err
    assert answer.err.count("no answer to ***") == 2 and secret not in answer.err
