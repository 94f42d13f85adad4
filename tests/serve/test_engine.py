"""The scheduler: every answer is the one that its adapter gives alone, whatever else happens in the batch."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.artifacts.switch import AdapterBank
from tunesmith.serve.engine import Engine
from tunesmith.serve.sampling import Sampling
from tunesmith.serve.work import Busy, Gone, Stopped
from tunesmith.serve.writing import Piece, Request

END = 3  # [SEP]
GREEDY = Sampling(temperature=0)
PROMPTS = [
    "a fine film",
    "the plot is dull and slow",
    "phim hay",
    "i love the actor with blue and green",
    "not good",
    "we",
]


class Client:
    """Collects the pieces of one request."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self.pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
        self.engine = engine
        (self.ticket,) = engine.submit([(request, self.pieces.put)])

    def wait(self) -> tuple[str, Piece]:
        text = ""
        while True:
            piece = self.pieces.get(timeout=20)
            text += piece.text
            if piece.error is not None:
                raise piece.error
            if piece.last:
                return text, piece


@pytest.fixture(scope="module")
def bank(base: Callable[[str], Path], loras: Callable[..., dict[str, Path]]) -> AdapterBank:
    bank = AdapterBank(str(base("llama")), device="cpu")
    for name, folder in loras("llama").items():
        bank.add(name, folder)
    return bank


@pytest.fixture
def engine(bank: AdapterBank) -> Iterator[Engine]:
    engine = Engine(bank, slots=6, max_queue=100, prefill_tokens=32).start()
    yield engine
    engine.stop()


def request(bank: AdapterBank, adapter: str | None, text: str, tokens: int = 12, **more: Any) -> Request:
    ids = bank.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Request(adapter, ids, tokens, bank.tokenizer, **{"sampling": GREEDY, **more})


def alone(base: Path, adapter: Path | None, prompts: list[list[int]], tokens: list[int]) -> list[list[int]]:
    """What transformers' own `generate` writes with peft, each prompt by itself."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, GenerationConfig

    model: Any = AutoModelForCausalLM.from_pretrained(base).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    found = []
    for ids, count in zip(prompts, tokens, strict=True):
        chosen = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=END)
        found.append(model.generate(input_ids=torch.tensor([ids]), generation_config=chosen)[0, len(ids) :].tolist())
    return found


def test_interleaved_adapters_write_what_each_writes_alone(
    bank: AdapterBank, base: Callable[[str], Path], loras: Callable[..., dict[str, Path]]
) -> None:
    """Eight adapters and the base, more requests than slots, each compared with peft and `generate`."""
    engine = Engine(bank, slots=6, max_queue=100, prefill_tokens=32).start()
    folders: dict[str | None, Path | None] = {None: None, **loras("llama")}
    clients: dict[tuple[str | None, str], Client] = {}
    for n, text in enumerate(PROMPTS):
        for name in folders:
            more = {"sampling": Sampling(temperature=0, logprobs=0), "ends": frozenset([END])}
            clients[name, text] = Client(engine, request(bank, name, text, 5 + n, **more))
    answers = {}
    for key, client in clients.items():
        tokens: list[int] = []
        while True:
            piece = client.pieces.get(timeout=20)
            tokens += [chosen.token for chosen in piece.tokens]
            if piece.last:
                break
        answers[key] = [*tokens, END] if piece.finish == "stop" else tokens
    engine.stop()
    prompts = [bank.tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROMPTS]
    for name, folder in folders.items():
        truth = alone(base("llama"), folder, prompts, [5 + n for n in range(len(PROMPTS))])
        assert [answers[name, text] for text in PROMPTS] == truth, name
    different = {tuple(answers[name, PROMPTS[1]]) for name in folders}
    assert len(different) == len(folders)
    assert engine.metrics.value("steps_total") < sum(map(len, answers.values())) / 3  # they did share steps


def test_pieces_add_up_and_say_why_they_end(bank: AdapterBank, engine: Engine) -> None:
    ids_text, last = Client(engine, request(bank, "a1", PROMPTS[0], 9)).wait()
    assert (last.finish, last.written) == ("length", 9)
    written = ids_text.split()
    assert len(written) >= 3
    stop = written[2][1:] + " " + written[3][:1] if len(written) > 3 else written[2]
    text, last = Client(engine, request(bank, "a1", PROMPTS[0], 9, stops=[stop])).wait()
    assert last.finish == "stop"
    assert text == ids_text[: ids_text.index(stop)]
    assert last.written < 9
    first = bank.tokenizer.convert_tokens_to_ids(written[1])
    text, last = Client(engine, request(bank, "a1", PROMPTS[0], 9, ends=frozenset([first]))).wait()
    assert last.finish == "stop"
    assert text.split() == written[: written.index(written[1])]


def test_a_seed_repeats_a_text_in_any_company(bank: AdapterBank, engine: Engine) -> None:
    how = Sampling(temperature=1.0, top_p=0.95, seed=11)
    (first,) = [Client(engine, request(bank, "a2", PROMPTS[1], 15, sampling=how))]
    truth, _ = first.wait()
    others = [Client(engine, request(bank, f"a{i}", PROMPTS[i], 15, sampling=Sampling())) for i in range(4)]
    again, _ = Client(engine, request(bank, "a2", PROMPTS[1], 15, sampling=how)).wait()
    different, _ = Client(engine, request(bank, "a2", PROMPTS[1], 15, sampling=Sampling(seed=12))).wait()
    for other in others:
        other.wait()
    assert again == truth != different


def test_a_cancelled_request_frees_its_slot_and_harms_nobody(bank: AdapterBank) -> None:
    engine = Engine(bank, slots=2, max_queue=1).start()
    gone = [Client(engine, request(bank, f"a{i}", PROMPTS[i], 100_000)) for i in range(2)]
    gone[0].pieces.get(timeout=20)
    queued = Client(engine, request(bank, None, PROMPTS[2], 4))
    with pytest.raises(Busy) as refused:
        Client(engine, request(bank, None, PROMPTS[2], 4))
    assert refused.value.seconds >= 1
    engine.cancel([gone[0].ticket])
    text, last = queued.wait()
    assert last.finish == "length"
    assert engine.running == 1
    engine.cancel([gone[1].ticket])
    deadline = time.monotonic() + 10
    while engine.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (engine.running, engine.waiting) == (0, 0)
    assert text == Client(engine, request(bank, None, PROMPTS[2], 4)).wait()[0]
    engine.stop()


def test_jobs_go_on_between_steps(bank: AdapterBank, engine: Engine) -> None:
    writing = Client(engine, request(bank, "a3", PROMPTS[3], 100_000))
    writing.pieces.get(timeout=20)

    def job() -> Any:
        assert threading.current_thread().name == "tunesmith-model"
        for _ in range(3):
            yield
        return writing.ticket.writer.written

    before = writing.ticket.writer.written
    after = engine.run(job()).future.result(timeout=20)
    assert after >= before + 2

    def failing() -> Any:
        yield
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        engine.run(failing()).future.result(timeout=20)
    engine.cancel([writing.ticket])
    assert engine.alive


def test_an_adapter_leaves_when_its_last_request_is_done(
    base: Callable[[str], Path], loras: Callable[..., dict[str, Path]]
) -> None:
    bank = AdapterBank(str(base("llama")), device="cpu")
    bank.add("a0", loras("llama")["a0"])
    engine = Engine(bank, slots=2).start()
    writing = Client(engine, request(bank, "a0", PROMPTS[0], 60))
    writing.pieces.get(timeout=20)
    left: Future[None] = engine.remove("a0")
    assert engine.remove("a0") is left
    with pytest.raises(Gone):
        Client(engine, request(bank, "a0", PROMPTS[0], 60))
    assert writing.wait()[1].finish == "length"
    left.result(timeout=20)
    assert bank.names == []
    engine.stop()


def test_a_pass_that_fails_takes_only_its_own_batch(bank: AdapterBank, engine: Engine) -> None:
    broken = request(bank, "a0", PROMPTS[0], 5)
    with pytest.raises(Exception, match="index out of range"):
        Client(engine, Request("a0", [10**6], 5, bank.tokenizer)).wait()
    assert Client(engine, broken).wait()[1].finish == "length"
    assert engine.metrics.value("finished_total", reason="error") == 1


def test_a_prompt_that_fails_harms_nobody_who_writes_in_the_same_batch(bank: AdapterBank) -> None:
    """It had not joined: those who write go on, with the same words as without it."""
    engine = Engine(bank, slots=4).start()
    truth, _ = Client(engine, request(bank, "a1", PROMPTS[1], 40)).wait()
    writing = Client(engine, request(bank, "a1", PROMPTS[1], 40))
    begun = writing.pieces.get(timeout=20).text
    with pytest.raises(Exception, match="index out of range"):
        Client(engine, Request("a0", [10**6], 5, bank.tokenizer)).wait()
    assert begun + writing.wait()[0] == truth
    assert engine.running == 0
    engine.stop()


def test_a_job_that_nobody_waits_for_leaves_the_queue_at_once(bank: AdapterBank) -> None:
    """Also behind one that works for long: else dead ones would fill the queue."""
    engine = Engine(bank, slots=1, max_queue=2).start()
    free = threading.Event()

    def long() -> Any:
        while not free.is_set():
            time.sleep(0.005)
            yield

    def never() -> Any:
        yield
        raise AssertionError("nobody wanted it")

    first = engine.run(long())
    for _ in range(20):
        dead = engine.run(never())
        engine.drop_job(dead)
        with pytest.raises(Stopped):
            dead.future.result(timeout=20)
    assert engine.waiting == 1
    free.set()
    first.future.result(timeout=20)
    engine.stop()


def test_stopping_fails_what_is_not_done(bank: AdapterBank) -> None:
    engine = Engine(bank, slots=1).start()
    clients = [Client(engine, request(bank, None, PROMPTS[0], 100_000)) for _ in range(2)]
    clients[0].pieces.get(timeout=20)
    engine.stop()
    for client in clients:
        with pytest.raises(Stopped):
            client.wait()
    with pytest.raises(Stopped):
        Client(engine, request(bank, None, PROMPTS[0], 1))
    assert not engine.alive
