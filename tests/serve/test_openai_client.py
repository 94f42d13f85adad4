"""OpenAI's own client against a running server."""

from __future__ import annotations

import base64
import math
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

MESSAGES = [{"role": "user", "content": "a fine film and a dull plot"}]


def greedy(client: Any, model: str, prompt: str, tokens: int = 10, **more: Any) -> Any:
    return client.completions.create(model=model, prompt=prompt, max_tokens=tokens, temperature=0, **more)


def test_models_are_listed(llama: Any) -> None:
    client = llama.client()
    names = [model.id for model in client.models.list()]
    assert names == ["llama-writer", *(f"a{i}" for i in range(8))]
    assert client.models.retrieve("a3").id == "a3"
    assert client.models.retrieve("a3").parent == "llama-writer"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a9")


def test_interleaved_answers_are_those_of_each_adapter_alone(
    llama: Any, base: Callable[[str], Path], loras: Callable[..., dict[str, Path]]
) -> None:
    from peft import PeftModel

    prompts = ["a fine film", "we", "the plot is not good and the actor is slow", "phim hay"]
    client = llama.client()
    asked = [(name, prompt) for prompt in prompts for name in ("llama-writer", *loras("llama"))]
    with ThreadPoolExecutor(16) as pool:
        answers = dict(zip(asked, pool.map(lambda a: greedy(client, *a).choices[0].text, asked), strict=True))
    tokenizer = AutoTokenizer.from_pretrained(base("llama"))
    chosen = GenerationConfig(max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=3)
    for name, folder in {"llama-writer": None, **loras("llama")}.items():
        model: Any = AutoModelForCausalLM.from_pretrained(base("llama")).eval()
        model = PeftModel.from_pretrained(model, folder).eval() if folder else model
        for prompt in prompts:
            ids = torch.tensor([tokenizer(prompt)["input_ids"][:-1]])  # [CLS] and the words, without [SEP]
            written = model.generate(input_ids=ids, generation_config=chosen)[0, ids.shape[1] :]
            truth = tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            assert answers[name, prompt].strip() == truth.strip(), (name, prompt)
    assert len({answers[name, prompts[0]] for name in ("llama-writer", *loras("llama"))}) == 9


def test_chat_and_its_stream_say_the_same(llama: Any) -> None:
    client = llama.client()
    asked = {
        "model": "a1",
        "messages": MESSAGES,
        "max_tokens": 12,
        "temperature": 0,
        "extra_body": {"ignore_eos": True},
    }
    whole = client.chat.completions.create(**asked)
    assert whole.object == "chat.completion"
    assert (whole.model, whole.choices[0].message.role) == ("a1", "assistant")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    events = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert events[0].choices[0].delta.role == "assistant"
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == whole.choices[0].message.content
    finished = [event.choices[0].finish_reason for event in events if event.choices]
    assert finished[-1] == whole.choices[0].finish_reason
    assert set(finished[:-1]) == {None}
    assert events[-1].usage == whole.usage
    assert len(events) > 6  # token by token


def test_several_choices_and_prompts(llama: Any) -> None:
    client = llama.client()
    alone = [greedy(client, "a2", prompt).choices[0].text for prompt in ("we", "phim")]
    both = greedy(client, "a2", ["we", "phim"])
    assert [choice.text for choice in both.choices] == alone
    assert [choice.index for choice in both.choices] == [0, 1]
    drawn = client.chat.completions.create(model="a2", messages=MESSAGES, n=3, seed=5, max_tokens=12, temperature=1.5)
    assert len({choice.message.content for choice in drawn.choices}) == 3
    parts = {0: "", 1: ""}
    for event in client.completions.create(
        model="a2", prompt=["we", "phim"], max_tokens=10, temperature=0, stream=True
    ):
        parts[event.choices[0].index] += event.choices[0].text
    assert list(parts.values()) == alone


def test_seeds_stop_strings_and_limits(llama: Any) -> None:
    client = llama.client()

    def drawn(seed: int | None) -> str:
        found = client.completions.create(
            model="a4", prompt="we", max_tokens=15, temperature=1.2, top_p=0.9, seed=seed, extra_body={"ignore_eos": True}
        )  # fmt: skip
        return found.choices[0].text

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(None) != drawn(None)
    whole = greedy(client, "a4", "we", 12, extra_body={"ignore_eos": True})
    assert whole.usage.completion_tokens == 12
    assert whole.choices[0].finish_reason == "length"
    words = whole.choices[0].text.split()
    stop = f"{words[1][-1]} {words[2][0]}"  # from the middle of one token into the next
    cut = greedy(client, "a4", "we", 12, stop=["never there", stop], extra_body={"ignore_eos": True})
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].text == whole.choices[0].text[: whole.choices[0].text.index(stop)]
    streamed = greedy(client, "a4", "we", 12, stop=stop, stream=True, extra_body={"ignore_eos": True})
    assert "".join(event.choices[0].text for event in streamed) == cut.choices[0].text


def test_log_probabilities_are_the_models(llama: Any, base: Callable[[str], Path]) -> None:
    client = llama.client()
    chat = client.chat.completions.create(
        model="llama-writer", messages=MESSAGES, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    content = chat.choices[0].logprobs.content
    assert len(content) == chat.usage.completion_tokens
    assert all(entry.logprob == pytest.approx(entry.top_logprobs[0].logprob) for entry in content)
    assert all(len(entry.top_logprobs) == 3 and bytes(entry.bytes).decode() == entry.token for entry in content)
    model = AutoModelForCausalLM.from_pretrained(base("llama")).eval()
    tokenizer = AutoTokenizer.from_pretrained(base("llama"))
    found = greedy(client, "llama-writer", "a fine film", 5, logprobs=2, extra_body={"ignore_eos": True})
    report = found.choices[0].logprobs
    ids = [*tokenizer("a fine film")["input_ids"][:-1], *tokenizer.convert_tokens_to_ids(report.tokens)]
    with torch.no_grad():
        truth = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(ids) - 5
    by_hand = [float(truth[start + i - 1, ids[start + i]]) for i in range(5)]
    assert report.token_logprobs == pytest.approx(by_hand, abs=1e-4)
    assert [len(top) for top in report.top_logprobs] == [2] * 5
    assert report.text_offset[0] == 0


def test_vectors_are_the_mean_of_the_last_states(
    llama: Any, base: Callable[[str], Path], loras: Callable[..., dict[str, Path]]
) -> None:
    from peft import PeftModel

    texts = ["a fine film", "we", "the plot is not good and the actor is slow"]
    tokenizer = AutoTokenizer.from_pretrained(base("llama"))
    for name, folder in (("llama-writer", None), ("a5", loras("llama")["a5"])):
        found = llama.client().embeddings.create(model=name, input=texts)
        model: Any = AutoModelForCausalLM.from_pretrained(base("llama")).eval()
        model = PeftModel.from_pretrained(model, folder).eval().base_model.model if folder else model
        for text, item in zip(texts, found.data, strict=True):
            with torch.no_grad():
                states = model.model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            torch.testing.assert_close(torch.tensor(item.embedding), states.mean(0), atol=1e-4, rtol=1e-4)
        assert found.usage.prompt_tokens == sum(len(tokenizer(text)["input_ids"]) for text in texts)
    raw = (
        llama.http().post("/v1/embeddings", json={"model": "a5", "input": [[5, 6]], "encoding_format": "base64"}).json()
    )
    packed = base64.b64decode(raw["data"][0]["embedding"])
    plain = llama.client().embeddings.create(model="a5", input=[[5, 6]], encoding_format="float")
    assert struct.unpack(f"<{len(packed) // 4}f", packed) == pytest.approx(plain.data[0].embedding)


def test_errors_are_the_clients_own_classes(llama: Any) -> None:
    client = llama.client()
    with pytest.raises(openai.NotFoundError, match="unknown model `a11`; did you mean `a1`") as unknown:
        client.chat.completions.create(model="a11", messages=MESSAGES)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"max_tokens": 101}, "101 tokens are beyond this server's limit of 100"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "usr", "content": "x"}]}, "did you mean `user`"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "`tools` is not supported here"),
        ({"extra_body": {"temprature": 1}}, "did you mean `temperature`"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"n": 65}, "`n`"),
        ({"messages": [{"role": "user", "content": "film " * 200}]}, "holds 128 in all"),
    ]
    for change, words in wrong:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**{"model": "a1", "messages": MESSAGES, **change})
        assert words in refused.value.message, (change, refused.value.message)
    for change, words in [
        ({"prompt": [10**6]}, "token id 1000000"), ({"prompt": [-1]}, "token id -1"), ({"echo": True}, "`echo`"), ({"prompt": []}, "prompt"),
    ]:  # fmt: skip
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(**{"model": "a1", "prompt": "we", **change})
        assert words in refused.value.message, (change, refused.value.message)
    neutral = {"user": "me", "store": False, "response_format": {"type": "text"}, "tools": []}
    assert client.chat.completions.create(model="a1", messages=MESSAGES, max_tokens=1, **neutral).choices


def test_a_client_that_leaves_frees_its_slot(llama: Any) -> None:
    engine = llama.service.engine
    client = llama.client()
    endless = {"model": "a6", "max_tokens": 100, "temperature": 0, "extra_body": {"ignore_eos": True}}
    before = engine.metrics.value("finished_total", reason="cancelled")
    hold, release = threading.Event(), threading.Event()

    def slow() -> Any:
        hold.set()
        release.wait(20)
        yield

    stream = client.completions.create(prompt="we", stream=True, **endless)
    next(iter(stream))
    job = engine.run(slow())  # nothing is decoded meanwhile
    hold.wait(20)
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        llama.client(timeout=0.2).completions.create(prompt="we", **endless)  # leaves while it waits for its answer
    for _ in range(200):
        if not any(not ticket.cancelled for ticket in [*engine._waiting, *engine._groups.get("", _None).tickets]):
            break
        threading.Event().wait(0.02)
    release.set()
    job.future.result(20)
    engine.run(_nothing()).future.result(20)
    engine.run(_nothing()).future.result(20)
    assert (engine.running, engine.waiting) == (0, 0)
    assert engine.metrics.value("finished_total", reason="cancelled") == before + 2


class _None:
    tickets: tuple[()] = ()


def _nothing() -> Any:
    yield


def test_numbers_of_a_json_answer_are_finite(llama: Any) -> None:
    found = (
        llama.http()
        .post(
            "/v1/completions", json={"model": "a1", "prompt": "we", "max_tokens": 3, "temperature": 0, "logprobs": 20}
        )
        .json()
    )
    assert all(
        math.isfinite(value) for top in found["choices"][0]["logprobs"]["top_logprobs"] for value in top.values()
    )
