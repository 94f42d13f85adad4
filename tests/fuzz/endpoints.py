"""The server's endpoints: requests from its own OpenAPI document, right ones and wrong ones, and bodies that are nearly right."""

from __future__ import annotations

import http.client
import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

import requests
import schemathesis
import schemathesis.checks as checks
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from mutate import mutate, twist
from schemathesis.generation.modes import GenerationMode
from served import Running, random_artifact, random_lora, running, writer

CONTENT = "application/json"
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"model": "MODEL", "messages": [{"role": "user", "content": "Xin chào"}], "max_tokens": 3},
        {"model": "MODEL", "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "y"}]}],
         "max_completion_tokens": 2, "logprobs": True, "top_logprobs": 2, "seed": 3, "stop": ["a"], "n": 2},
        {"model": "MODEL", "messages": [{"role": "user", "content": "a"}], "max_tokens": 3, "stream": True,
         "stream_options": {"include_usage": True}},
    ],
    "/v1/completions": [
        {"model": "MODEL", "prompt": ["a film", "b"], "max_tokens": 3, "temperature": 0, "logprobs": 2, "presence_penalty": 1.5},
        {"model": "MODEL", "prompt": [[5, 6], [7]], "max_tokens": 2, "top_p": 0.5, "stream": True},
    ],
    "/v1/embeddings": [
        {"model": "MODEL", "input": ["a film", "phở"], "encoding_format": "base64"}, {"model": "MODEL", "input": [5, 6, 7]},
    ],
    "/v1/predict": [
        {"model": "MODEL", "rows": [{"text": "a fine film"}, {"text": "", "label": 1}]},
        {"model": "MODEL", "rows": [{"tokens": ["New", "York"]}], "head": None},
        {"model": "MODEL", "rows": [{"question": "what?", "context": "a film in Hà Nội"}]},
    ],
    "/v1/load_lora_adapter": [{"lora_name": "new", "lora_path": "spare"}, {"lora_name": "../x", "lora_path": "/etc"}],
    "/v1/unload_lora_adapter": [{"lora_name": "new"}],
}  # fmt: skip


@contextmanager
def servers(folder: Path) -> Iterator[list[Running]]:
    """A model that writes and one that reads, with adapters of several tasks."""
    from tunesmith.serve.limits import Limits
    from tunesmith.serve.server import Options

    limits = Limits(max_tokens=8, max_queue=16, max_batch=4, max_body=20_000, max_rows=20)
    llama, bert = writer("llama", folder), folder / "bert"
    from tunesmith.testing import tiny_model

    tiny_model("bert", bert)
    root = folder / "adapters"
    root.mkdir()
    random_lora(llama, root / "spare", 1)
    writing = {
        "a0": str(random_lora(llama, folder / "a0", 0)),
        "films": str(random_artifact(llama, folder / "films", "text-classification", "adapter")),
    }
    reading = {
        task: str(random_artifact(bert, folder / f"bert-{task}", task, "lora"))
        for task in ("token-classification", "question-answering")
    }
    with (
        running(Options(str(llama), writing, device="cpu", limits=limits, adapter_root=root)) as first,
        running(Options(str(bert), reading, device="cpu", limits=limits)) as second,
    ):
        yield [first, second]


def names(server: Running) -> list[str]:
    """What can be asked."""
    return [model["id"] for model in requests.get(f"{server.url}/v1/models", timeout=10).json()["data"]]


class Described:
    """Requests that schemathesis makes from the document, half of them wrong, with models that are there."""

    def __init__(self, server: Running) -> None:
        self.schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        self.models, self.url = names(server), server.url
        self.operations = [found.ok() for found in self.schema.get_all_operations()]
        self.runs = self.answered = 0
        self.session = requests.Session()

    def examine(self, operation: Any, mode: GenerationMode, examples: int, number: int) -> None:
        """Send so many requests to one address.

        Raises:
            AssertionError: an answer is not what the document says.
        """

        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            self.runs += 1
            if isinstance(case.body, dict) and isinstance(case.body.get("model"), str) and self.runs % 4:
                case.body["model"] = self.models[self.runs % len(self.models)]
            answer = case.call(session=self.session, timeout=20)
            self.answered += answer.status_code == 200
            case.validate_response(answer, checks=CHECKS)

        with suppress(Unsatisfiable):  # there is nothing to get wrong about an address without parameters
            send()


CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


class Mutated:
    """Bodies of requests that are right, with bytes changed."""

    def __init__(self, server: Running, number: int = 0) -> None:
        place = urlsplit(server.url)
        self.host, self.port = str(place.hostname), int(place.port or 80)
        self.random, self.runs, self.answered = random.Random(number), 0, 0
        models = names(server)
        self.pool = [
            (path, json.dumps(body, ensure_ascii=False).replace("MODEL", model).encode())
            for path, bodies in BODIES.items()
            for body in bodies
            for model in models
        ]

    def one(self) -> None:
        """Send one.

        Raises:
            AssertionError: the answer is neither a success nor a refusal in a sentence.
        """
        path, body = self.random.choice(self.pool)
        change = self.random.choice((mutate, twist, twist))
        sent = change(body, self.random)
        line = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            line.request("POST", path, sent, {"Content-Type": CONTENT})
            answer = line.getresponse()
            status, said = answer.status, answer.read()
        finally:
            line.close()
        self.runs += 1
        self.answered += status == 200
        if status != 200:
            error = json.loads(said)["error"]
            if not (400 <= status < 500 and 10 <= len(error["message"]) <= 4000):
                raise AssertionError(f"{path} {sent[:500]!r}: {status} {error}")
        elif b'"error"' in said[:12]:
            raise AssertionError(f"{path} {sent[:500]!r}: 200 {said[:300]!r}")


def fuzz(seconds: float, keep: Path, number: int) -> list[dict[str, Any]]:
    """Both kinds on both servers, for so long.

    Returns:
        Rows of the table.
    """
    import tempfile

    rows = []
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as found:
        share = seconds / 2 / len(found)
        for server, kind in zip(found, ("writes", "reads"), strict=True):
            described, bad, turn = Described(server), [], 0
            end = time.perf_counter() + share
            while time.perf_counter() < end and len(bad) < 20:
                operation = described.operations[turn % len(described.operations)]
                mode = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)[turn // len(described.operations) % 2]
                turn += 1
                try:
                    described.examine(operation, mode, 50, number + turn)
                except BaseException as error:  # groups of hypothesis are no Exception
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    bad.append(_kept(keep, f"server-{kind}-{turn}", error))
            rows.append(_row(f"server that {kind}", "schemathesis", described.runs, described.answered, bad))
            mutated, bad = Mutated(server, number), []
            end = time.perf_counter() + share
            while time.perf_counter() < end and len(bad) < 20:
                try:
                    mutated.one()
                except Exception as error:
                    bad.append(_kept(keep, f"server-{kind}-body-{mutated.runs}", error))
            rows.append(_row(f"server that {kind}", "mutations", mutated.runs, mutated.answered, bad))
    return rows


def _row(target: str, engine: str, runs: int, answered: int, bad: list[dict[str, str]]) -> dict[str, Any]:
    return {"target": target, "engine": engine, "executions": runs, "read": answered, "bad": bad}


def _kept(keep: Path, name: str, error: BaseException) -> dict[str, str]:
    place = keep / f"{name}.txt"
    place.write_text(f"{type(error).__name__}: {error}\n", encoding="utf-8")
    return {"bytes": str(place), "error": str(error)[:300]}
