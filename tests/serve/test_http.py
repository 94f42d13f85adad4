"""Tokens, limits, loading, and what becomes of requests that are none."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from served import Running, random_lora, running

from tunesmith.artifacts.switch import check_name
from tunesmith.errors import UserError
from tunesmith.serve.catalogue import base_name
from tunesmith.serve.limits import Limits
from tunesmith.serve.security import check_token, is_loopback
from tunesmith.serve.server import Options, listen, open_service

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def guarded(base: Callable[[str], Path]) -> Iterator[Running]:
    """One slot, no queue to speak of, a token."""
    limits = Limits(max_batch=1, max_queue=1, max_tokens=100, max_body=4000)
    with running(Options(str(base("llama")), device="cpu", token=TOKEN, limits=limits)) as found:
        yield found


def message(answer: Any) -> str:
    """The sentence of an error, which has OpenAI's shape."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])


def test_everything_but_health_wants_the_token(guarded: Running) -> None:
    with guarded.http() as http:
        assert (http.get("/health").status_code, http.get("/health").json()) == (200, {"status": "ok"})
        for method, path in [
            ("GET", "/metrics"),
            ("GET", "/v1/models"),
            ("POST", "/v1/chat/completions"),
            ("GET", "/no"),
            ("GET", "/health/"),
        ]:
            for header in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": TOKEN},
                {"Authorization": f"Basic {TOKEN}"},
                {"Authorization": "Bearer"},
            ):
                refused = http.request(method, path, headers=header)
                assert refused.status_code == 401, (path, header)
                assert "Authorization: Bearer TOKEN" in message(refused)
                assert TOKEN not in refused.text
    with guarded.http(TOKEN) as http:
        assert http.get("/v1/models").status_code == 200
    with pytest.raises(openai.AuthenticationError):
        guarded.client("wrong").models.list()
    assert guarded.client(TOKEN).models.list().data


def test_metrics_are_prometheus_text(guarded: Running) -> None:
    with guarded.http(TOKEN) as http:
        http.post(
            "/v1/completions", json={"model": "llama-writer", "prompt": "we", "max_tokens": 3, "ignore_eos": True}
        )
        http.get("/nothing/at/all")
        answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    sample = re.compile(r'^tunesmith_[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [0-9.e+-]+$')
    assert all(line.startswith(("# HELP ", "# TYPE ")) or sample.match(line) for line in lines)
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['tunesmith_written_tokens_total{adapter=""}']) >= 3
    assert float(values['tunesmith_requests_total{route="/v1/completions",status="200"}']) >= 1
    assert 'tunesmith_requests_total{route="other",status="404"}' in values
    assert values["tunesmith_running"] == "0"
    counts = [
        float(v) for k, v in values.items() if k.startswith('tunesmith_request_seconds_bucket{route="/v1/completions"')
    ]
    assert counts == sorted(counts)


def test_a_full_queue_says_when_to_come_back(guarded: Running) -> None:
    engine = guarded.service.engine
    hold, release = threading.Event(), threading.Event()

    def slow() -> Any:
        hold.set()
        release.wait(20)
        yield

    body = {"model": "llama-writer", "prompt": "we", "max_tokens": 2}
    found: list[Any] = []
    engine.run(slow(), counted=False)
    hold.wait(20)
    with guarded.http(TOKEN) as http:
        waiting = [
            threading.Thread(target=lambda: found.append(http.post("/v1/completions", json=body))) for _ in range(2)
        ]
        for thread in waiting:
            thread.start()
        while engine.waiting < 2:
            threading.Event().wait(0.005)
        for path, more in (("/v1/completions", {}), ("/v1/completions", {"stream": True}), ("/v1/embeddings", None)):
            asked = {**body, **more} if more is not None else {"model": "llama-writer", "input": "we"}
            refused = http.post(path, json=asked)
            assert refused.status_code == 429, refused.text
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert "the queue is full" in message(refused)
        assert http.get("/health").status_code == 200
        release.set()
        for thread in waiting:
            thread.join(20)
        assert [answer.status_code for answer in found] == [200, 200]
        many = http.post("/v1/completions", json={**body, "n": 3})
        assert (many.status_code, "at once" in message(many)) == (400, True)


def test_bodies_are_measured_as_they_are_announced_and_as_they_come(guarded: Running) -> None:
    large = json.dumps({"model": "llama-writer", "prompt": "film " * 2000}).encode()
    headers = {"Content-Type": "application/json"}
    with guarded.http(TOKEN) as http:
        refused = http.post("/v1/completions", content=large, headers=headers)
        assert (refused.status_code, "4000 bytes" in message(refused)) == (413, True)
        refused = http.post("/v1/completions", content=iter([large[:3000], large[3000:]]), headers=headers)  # chunked
        assert (refused.status_code, "4000 bytes" in message(refused)) == (413, True)
        for content, words in [
            (b"{", "not JSON"), (b"[]", "object"), (b"\xff", "not JSON"), (b"[" * 3000, "not JSON"), (b"", "not JSON"), (b"{}", "`model` is missing"),
            (b'{"model": "x", "prompt": "a", "temperature": NaN}', "temperature"), (b'{"model": 1, "prompt": "a"}', "model"),
            (b'{"model": "llama-writer", "prompt": "\\ud83d"}', ""), (b'{"model": "llama-writer", "prompt": "a", "max_tokens": "5"}', "max_tokens"),
            (b'{"model": "llama-writer", "prompt": ""}', ""), (b'{"model": "../../etc", "prompt": "a"}', "unknown model"),
        ]:  # fmt: skip
            refused = http.post("/v1/completions", content=content, headers=headers)
            assert refused.status_code in ((404,) if b"etc" in content else (400, 200) if not words else (400,)), (
                content,
                refused.text,
            )
            assert not words or words in message(refused), (content, refused.text)
        refused = http.post("/v1/completions", content=b"{}", headers={"Content-Type": "text/plain"})
        assert (refused.status_code, "application/json" in message(refused)) == (400, True)
        assert (http.get("/v1/nothing").status_code, http.get("/v1/completions").status_code) == (404, 405)
        message(http.get("/v1/nothing"))
        message(http.get("/v1/completions"))


def test_without_a_token_only_this_machine_is_answered(llama: Running) -> None:
    with llama.http() as http:
        assert http.get("/v1/models").status_code == 200
        refused = http.get(
            "/v1/models", headers={"Host": "evil.example:8000"}
        )  # a name that points here (DNS rebinding)
        assert (refused.status_code, "Host header" in message(refused)) == (403, True)
        assert http.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200
        assert (
            http.get("/v1/models", headers={"Origin": "http://evil.example"}).headers.get("access-control-allow-origin")
            is None
        )


def test_who_needs_a_token() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost", "[::1]")] == [True] * 5
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.com", "127.0.0.1.evil.com", ""))
    check_token("127.0.0.1", None)
    check_token("0.0.0.0", TOKEN)
    for host, token, words in [
        ("0.0.0.0", None, "TUNESMITH_TOKEN"), ("::", None, "token is needed"), ("0.0.0.0", "short", "16 or more"), ("127.0.0.1", "", "empty"),
        ("127.0.0.1", "a b", "blanks"), ("127.0.0.1", "a\nb", "blanks"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=words):
            check_token(host, token)


def test_adapters_come_and_go_while_others_write(
    llama: Running, loras: Callable[..., dict[str, Path]], models: Path
) -> None:
    root = llama.service.adapter_root
    assert root is not None
    new = random_lora(root / "llama-writer", root / "new-lora", seed=99)
    client, body = llama.client(), {"max_tokens": 8, "temperature": 0, "extra_body": {"ignore_eos": True}}
    truth = client.completions.create(model="a0", prompt="we", **body).choices[0].text
    stop = threading.Event()
    wrong: list[str] = []

    def writes() -> None:
        while not stop.is_set():
            text = client.completions.create(model="a0", prompt="we", **body).choices[0].text
            if text != truth:
                wrong.append(text)

    others = [threading.Thread(target=writes) for _ in range(3)]
    for thread in others:
        thread.start()
    with llama.http() as http:
        for path in (new.name, str(new)):
            loaded = http.post("/v1/load_lora_adapter", json={"lora_name": "new.1", "lora_path": path})
            assert (loaded.status_code, "added successfully" in loaded.text) == (200, True), loaded.text
            again = http.post("/v1/load_lora_adapter", json={"lora_name": "new.1", "lora_path": path})
            assert (again.status_code, "loaded already" in message(again)) == (400, True)
            assert client.models.retrieve("new.1").parent == "llama-writer"
            assert client.completions.create(model="new.1", prompt="we", **body).choices[0].text != truth
            stream = client.completions.create(model="new.1", prompt="we", stream=True, **body)
            first = next(iter(stream))
            gone = http.post("/v1/unload_lora_adapter", json={"lora_name": "new.1"})
            assert gone.status_code == 200, gone.text
            rest = list(stream)  # what was accepted is finished
            assert [first, *rest][-1].choices[0].finish_reason == "length"
            with pytest.raises(openai.NotFoundError):
                client.completions.create(model="new.1", prompt="we", **body)
        assert http.post("/v1/unload_lora_adapter", json={"lora_name": "new.1"}).status_code == 404
        refused = http.post("/v1/unload_lora_adapter", json={"lora_name": "llama-writer"})
        assert (refused.status_code, "stays" in message(refused)) == (400, True)
    stop.set()
    for thread in others:
        thread.join(20)
    assert not wrong


def test_path_tricks_are_refused(llama: Running, tmp_path: Path, loras: Callable[..., dict[str, Path]]) -> None:
    root = llama.service.adapter_root
    assert root is not None
    good = loras("llama")["a0"].name
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "adapter_config.json").write_text("{}")
    link, odd = root / "link", root / "odd"
    link.symlink_to(outside)
    odd.mkdir()
    (odd / "adapter_model.safetensors").symlink_to(loras("llama")["a0"] / "adapter_model.safetensors")
    (odd / "adapter_config.json").symlink_to(outside / "adapter_config.json")
    pickled = root / "pickled"
    pickled.mkdir()
    (pickled / "adapter_config.json").write_text((root / good / "adapter_config.json").read_text())
    (pickled / "adapter_model.bin").write_bytes(b"cos\nsystem\n")
    with llama.http() as http:
        for path in (
            "..",
            ".",
            "",
            "../..",
            "/etc",
            "/",
            str(outside),
            "link",
            "odd",
            f"../{root.name}/../../etc",
            "a\0b",
            "no-such",
            good + "/adapter_config.json",
            "x" * 5000,
        ):
            refused = http.post("/v1/load_lora_adapter", json={"lora_name": "n", "lora_path": path})
            assert (refused.status_code, "inside the server's" in message(refused)) == (400, True), (path, refused.text)
            assert str(root) not in refused.text
        for name in ("../x", "a/b", "", ".x", "-x", "a" * 65, "a\n", "a b", "ä", "a\0", "%2e%2e"):
            refused = http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": good})
            assert (refused.status_code, "cannot be the name" in message(refused)) == (400, True), (name, refused.text)
        refused = http.post("/v1/load_lora_adapter", json={"lora_name": "n", "lora_path": "pickled"})
        assert (refused.status_code, "safetensors" in message(refused)) == (400, True)
        assert str(root) not in refused.text
        assert "n" not in llama.service.catalogue
        assert http.get("/v1/models/..%2f..%2fetc").status_code == 404


def test_loading_is_off_unless_it_was_switched_on(guarded: Running) -> None:
    with guarded.http(TOKEN) as http:
        for path, body in (("load", {"lora_name": "n", "lora_path": "x"}), ("unload", {"lora_name": "n"})):
            refused = http.post(f"/v1/{path}_lora_adapter", json=body)
            assert (refused.status_code, "--allow-adapter-root" in message(refused)) == (403, True)


def test_names_of_bases_and_adapters() -> None:
    for model, name in [
        ("asset:smollm2-135m", "smollm2-135m"), ("/a/b/My Model", "My-Model"), ("owner/name", "name"), ("x/q.gguf", "q"), ("..", "base"),
    ]:  # fmt: skip
        assert base_name(model) == name
        check_name(name)


def test_what_cannot_be_served_is_refused_in_a_sentence(
    base: Callable[[str], Path], loras: Callable[..., dict[str, Path]], tmp_path: Path
) -> None:
    good = str(loras("llama")["a0"])
    for more, words in [
        ({"adapters": {"a/b": good}}, "cannot be the name"),
        ({"adapters": {"llama-writer": good}}, "another name"),
        ({"adapters": {"a": str(tmp_path)}}, "no .safetensors"),
        ({"adapter_root": tmp_path / "no"}, "is no folder"),
    ]:
        with pytest.raises(UserError, match=words):
            open_service(Options(str(base("llama")), device="cpu", **more))
    taken = listen("127.0.0.1", 0)
    taken.listen()
    with pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1, port"):
        listen("127.0.0.1", taken.getsockname()[1])
    taken.close()
    assert isinstance(taken, socket.socket)
