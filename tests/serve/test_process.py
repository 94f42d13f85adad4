"""The command: how it starts, how it ends, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import Cli

STARTED = re.compile(r"Serving (.*) on http://127\.0\.0\.1:(\d+)")


def start(*words: str, **environment: str) -> tuple[subprocess.Popen[str], re.Match[str]]:
    """`tunesmith serve` in a process of its own, and the line that says where it is."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tunesmith", "serve", "--port", "0", "--device", "cpu", *words],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        found = STARTED.search(line)
        if found:
            return process, found
    raise AssertionError(f"the server ended with {process.wait()}")


def test_sigterm_finishes_what_is_running(base: Callable[[str], Path], loras: Callable[..., dict[str, Path]]) -> None:
    """The stream that runs and those that wait are answered to the end; then the port is closed and the exit code is 0."""
    import httpx

    adapter = loras("llama")["a1"]
    process, found = start(
        "--model", str(base("llama")), "--adapter", f"one={adapter}", "--max-batch", "1", TUNESMITH_TOKEN="a-token"
    )  # fmt: skip
    assert found[1] == "llama-writer, one"
    url = f"http://127.0.0.1:{found[2]}"
    body = {"model": "one", "prompt": "we", "max_tokens": 100, "temperature": 0, "ignore_eos": True, "stream": True}
    headers = {"Authorization": "Bearer a-token"}
    answers: list[tuple[list[str], float]] = []

    def stream() -> None:
        with httpx.stream("POST", f"{url}/v1/completions", json=body, headers=headers, timeout=30) as answer:
            answers.append((list(answer.iter_lines()), time.monotonic()))

    threads = [threading.Thread(target=stream) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert httpx.get(f"{url}/v1/models").status_code == 401
    with httpx.Client(headers=headers) as http:
        while "tunesmith_running 1\n" not in http.get(f"{url}/metrics").text:
            time.sleep(0.001)
        waiting = float(http.get(f"{url}/metrics").text.split("tunesmith_waiting ")[-1].split()[0])
    stopped = time.monotonic()
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(30)
    assert process.wait(30) == 0
    assert sum(ended > stopped for _, ended in answers) >= max(1, waiting)
    texts = []
    for lines, _ in answers:
        events = [line.removeprefix("data: ") for line in lines if line]
        assert events[-1] == "[DONE]"
        parsed = [json.loads(event)["choices"][0] for event in events[:-1]]
        assert parsed[-1]["finish_reason"] == "length"
        texts.append("".join(part["text"] for part in parsed))
    assert (len(texts), len(set(texts))) == (6, 1)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--adapter", "x"], "--adapter takes NAME=ARTIFACT"),
        (["--adapter", "x=a", "--adapter", "x=b"], "names `x` twice"),
        (["--dtype", "fp8"], "float32, bfloat16"),
        (["--host", "0.0.0.0"], "TUNESMITH_TOKEN"),
        (["--host", "no such host"], "cannot listen on"),
        (["--max-tokens", "0"], "--max-tokens"),
    ],
)
def test_wrong_words_end_with_two(
    words: list[str], said: str, cli: Cli, base: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNESMITH_TOKEN", raising=False)
    if "no such host" in words:
        words = [*words, "--token", "a-token-of-some-length"]
    answer = cli("serve", "--model", base("llama"), "--port", 0, *words)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err


def test_a_token_that_is_set_and_empty_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that is missing must not open the door, on loopback (behind a proxy) either."""
    monkeypatch.setenv("TUNESMITH_TOKEN", "")
    answer = cli("serve", "--model", "asset:smollm2-135m")
    assert answer.code == 2 and "the token is empty" in answer.err


def test_without_the_extra_one_sentence_says_how_to_get_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import tunesmith.cli.commands_serve as command

    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else object())
    answer = cli("serve", "--model", "x")
    assert answer.code == 2
    assert answer.err.strip() == "error: serving needs uvicorn; install with: pip install 'tunesmith[serve]'"
