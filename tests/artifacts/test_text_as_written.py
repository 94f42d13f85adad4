"""Text while it is written: the same tokens as `generate`, whole characters, room for an answer."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tunesmith
from tunesmith.artifacts.detokenise import BROKEN
from tunesmith.artifacts.writing import Pieces, Sampling, Writer
from tunesmith.errors import DataError, UserError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for

ASK = [{"role": "user", "content": "the film was good"}]
GREEDY = Sampling(max_new_tokens=12, temperature=0)


@pytest.fixture(scope="module")
def writers(models: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Writer]:
    """Of a task and a model, trained for one step."""
    made: dict[str, Writer] = {}

    def of(task: str, kind: str = "llama", technique: str = "lora", **options: Any) -> Writer:
        key = repr((task, kind, technique, options))
        if key not in made:
            settings = (
                {task: {"generate_rows": 0, "max_new_tokens": 12, **options}}
                if task != "language-modeling"
                else {task: options}
            )
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TUNESMITH_CACHE", str(cache))
                patch.setattr("tunesmith.artifacts.verify.verify_run", lambda folder: {})
                rows = rows_for(task, 4)
                run = tunesmith.train(
                    str(tiny_model(kind, models / kind)), task=task, train=rows, eval=rows, technique=technique, max_steps=1, batch_size=4,
                    device="cpu", output=tmp_path_factory.mktemp("runs") / "run", doctor="off", **settings,
                )  # fmt: skip
            made[key] = Writer(tunesmith.load(run.artifact, device="cpu"))
        return made[key]

    return of


def written(writer: Writer, messages: list[dict[str, str]], sampling: Sampling = GREEDY) -> Any:
    ids, _ = writer.fit(messages, sampling.max_new_tokens)
    writing = writer.write(ids, sampling)
    pieces = list(writing)
    assert "".join(pieces) == writing.text
    return writing


# ---- the same tokens


@pytest.mark.parametrize(
    ("task", "kind", "technique", "options"),
    [
        ("chat", "llama", "lora", {}),
        ("chat", "llama", "prompt-tuning", {}),
        ("instruction", "t5", "lora", {}),
        ("instruction", "gpt2", "prefix-tuning", {"template": "alpaca"}),
        ("language-modeling", "llama", "lora", {}),
        ("language-modeling", "lstm", "full", {}),
    ],
)
def test_temperature_0_is_greedy_generate(task: str, kind: str, technique: str, options: Any, writers: Any) -> None:
    writer = writers(task, kind, technique, **options)
    ids, _ = writer.fit(ASK, 12)
    artifact, asked = writer.artifact, torch.tensor([ids])
    found = artifact.model.generate(
        input_ids=asked, attention_mask=torch.ones_like(asked), max_new_tokens=12, do_sample=False, repetition_penalty=1.0,
        eos_token_id=getattr(artifact.task, "stops", artifact.tokenizer.eos_token_id), pad_token_id=artifact.tokenizer.pad_token_id,
    )[0].tolist()  # fmt: skip
    found = found[1:] if kind == "t5" else found[len(ids) :]
    text = artifact.tokenizer.decode(found, skip_special_tokens=True)
    writing = written(writer, ASK)
    assert writing.text == (text if task == "language-modeling" else text.strip())
    assert writing.tokens == len(found)
    assert writing.ended == ("stop" if found[-1] in writing.stops else "length")


def test_a_first_message_is_answered_as_predict_does(writers: Any) -> None:
    prompt = {"prompt": ASK[0]["content"]}
    for task, row, options in (("chat", {"messages": ASK}, {}), ("instruction", prompt, {"template": "chat"})):
        writer = writers(task, **options)
        assert written(writer, ASK).text == writer.artifact.predict([row])[0]["prediction"]


def test_each_setting_changes_the_text(writers: Any) -> None:
    writer, plain = writers("chat"), Sampling(max_new_tokens=30, temperature=1.5, top_p=1.0, seed=0)
    texts = [
        written(writer, ASK, Sampling(**{**plain.__dict__, **change})).text
        for change in ({}, {}, {"seed": 1}, {"temperature": 0.2}, {"temperature": 0}, {"top_p": 0.05}, {"max_new_tokens": 3})
    ]  # fmt: skip
    assert texts[0] == texts[1], "the same seed gives the same text"
    assert len({texts[0], *texts[2:4], texts[6]}) == 4 and texts[4] != texts[0] and texts[5] != texts[0]


def test_the_random_numbers_of_others_are_left_alone(writers: Any) -> None:
    writer = writers("chat")  # opening a model draws numbers of its own
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    written(writer, ASK, Sampling(temperature=1.0, max_new_tokens=5))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"temperature": -1}, "temperature"), ({"top_p": 0}, "top-p"), ({"max_new_tokens": 0}, "max-new-tokens"), ({"seed": -1}, "seed")],
)  # fmt: skip
def test_settings_that_make_no_sense(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Sampling(**wrong)


# ---- stopping


def test_leaving_early_stops_the_model(writers: Any, monkeypatch: Any) -> None:
    writer = writers("chat")
    monkeypatch.setattr(writer.artifact.task, "stops", [])
    writing = writer.write(writer.fit(ASK)[0], Sampling(max_new_tokens=100, temperature=0))
    pieces = iter(writing)
    first = next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert writing.ended == "stopped" and writing.text == first
    assert not [t for t in threading.enumerate() if t.daemon and "_generate" in t.name]
    assert written(writer, ASK, Sampling(max_new_tokens=5, temperature=0)).ended == "length"


def test_an_error_of_the_model_comes_through(writers: Any, monkeypatch: Any) -> None:
    writer = writers("chat")

    def fail(**_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(writer.artifact.model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(writer.write([2, 3], GREEDY))


# ---- whole characters


@pytest.fixture(scope="module")
def byte_tokenizer() -> Any:
    """Every byte is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(["<end>", *alphabet])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")


def test_no_half_character_is_given_out(byte_tokenizer: Any) -> None:
    text = "Xin chào, phở bò ở Hà Nội có ngon không? 🍜👩‍🍳 được\n ệ́"
    pieces = Pieces(byte_tokenizer)
    found = [pieces.add(token) for token in byte_tokenizer(text)["input_ids"]]
    assert "".join(found) + pieces.rest() == text
    assert all(BROKEN not in piece for piece in found)
    assert max(len(piece.encode()) for piece in found) == 4 and "" in found


def test_a_cut_character_at_the_end_is_no_text(byte_tokenizer: Any) -> None:
    pieces = Pieces(byte_tokenizer)
    found = "".join(pieces.add(token) for token in byte_tokenizer("phở")["input_ids"][:-1])
    assert found + pieces.rest() == "ph"


def test_pieces_are_what_all_tokens_decode_to(byte_tokenizer: Any) -> None:
    """Whatever a model writes, bytes that are no text included."""
    draw = random.Random(3)
    for _ in range(200):
        ids = [draw.choice([0, *range(1, 257)]) for _ in range(draw.randrange(1, 30))]
        pieces = Pieces(byte_tokenizer)
        found = "".join(pieces.add(token) for token in ids) + pieces.rest()
        assert found == byte_tokenizer.decode(ids, skip_special_tokens=True).rstrip(BROKEN)


def test_white_space_around_is_left_out(byte_tokenizer: Any) -> None:
    pieces = Pieces(byte_tokenizer, strip=True)
    found = [pieces.add(token) for token in byte_tokenizer(" \n xin  chào \n\n")["input_ids"]]
    assert "".join(found) + pieces.rest() == "xin  chào"
    assert "  c" in found


# ---- what fits


def talk(turns: int, words: int = 8) -> list[dict[str, str]]:
    said = [
        {
            "role": ("user", "assistant")[i % 2],
            "content": " ".join(["the", "film", "was", "good"] * words)[: 19 * words],
        }
        for i in range(turns)
    ]
    return [{"role": "system", "content": "we love film"}, *said]


def test_the_oldest_turns_give_way(writers: Any) -> None:
    writer = writers("chat")
    positions = writer.artifact.task.positions
    short, none = writer.fit(talk(1))
    assert none == 0 and len(short) < positions // 2
    for turns, wanted in ((5, 20), (9, 20), (9, 1000)):
        ids, dropped = writer.fit(talk(turns), wanted)
        assert len(ids) <= positions - min(wanted, positions // 2)
        assert dropped % 2 == 0 and 0 < dropped < turns
        kept = [talk(turns)[0], *talk(turns)[1 + dropped :]]
        assert ids == writer.fit(kept, wanted)[0], "the system prompt stays, and whole exchanges go"
        longer = [talk(turns)[0], *talk(turns)[dropped - 1 :]]
        assert writer.fit(longer, wanted)[1] > 0, "no more is left out than must be"


def test_a_message_that_never_fits(writers: Any) -> None:
    with pytest.raises(
        DataError, match=r"the message has \d+ tokens .* reads \d+ beside an answer; shorten it or the system prompt"
    ):
        writers("chat").fit(talk(3, words=40))
    with pytest.raises(DataError, match="no message"):
        writers("chat").fit([])


def test_frames_of_single_prompts_read_the_last_message(writers: Any) -> None:
    writer = writers("instruction", "gpt2", "prefix-tuning", template="alpaca")
    assert writer.reads == "prompt"
    said = [*ASK, {"role": "assistant", "content": "bad"}, {"role": "user", "content": "a red book"}]
    assert writer.fit(said) == writer.fit(said[-1:])
    assert writer.fit(said)[0] != writer.fit(ASK)[0]
    with_system = writer.fit([{"role": "system", "content": "we love"}, *said])[0]
    assert len(with_system) > len(writer.fit(said)[0])


def test_turns_are_read_by_a_chat_frame(writers: Any) -> None:
    writer = writers("instruction", template="chat")
    assert writer.reads == "turns"
    assert len(writer.fit([*ASK, {"role": "assistant", "content": "bad"}, *ASK])[0]) > len(writer.fit(ASK)[0])


def test_a_text_goes_on_and_loses_its_beginning(writers: Any) -> None:
    writer = writers("language-modeling")
    assert writer.reads == "text"
    tokenizer, positions = writer.artifact.tokenizer, writer.artifact.task.positions
    lines = [{"role": "user", "content": "the red book"}, {"role": "assistant", "content": " was dull"}, *ASK]
    ids, dropped = writer.fit(lines)
    assert (tokenizer.decode(ids[1:]), dropped) == ("the red book was dull the film was good", 0)
    ids, dropped = writer.fit([{"role": "user", "content": "the red book " * 60}, *ASK], 10)
    assert len(ids) == positions - 10 and ids[0] == writer.fit(ASK)[0][0]
    assert tokenizer.decode(ids).endswith("book the film was good") and dropped == 1
    many = [{"role": "user", "content": "the red book " * 20} for _ in range(5)]
    assert writer.fit(many, 10)[1] == 4, "118 of 300 tokens are left: one message, and most of the one before"


@pytest.mark.parametrize(("task", "kind", "words"), [
    ("text-classification", "bert", "made for text-classification"), ("summarization", "t5", "made for summarization"),
    ("language-modeling", "bert", "masked language model"),
])  # fmt: skip
def test_others_are_sent_to_predict(task: str, kind: str, words: str, models: Path, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from tunesmith import registry

    cls = registry.load("task", task)
    opened = SimpleNamespace(folder=tmp_path)
    inner = cls(cls.Options())
    inner.objective = "masked"
    with pytest.raises(UserError, match=words) as caught:
        Writer(SimpleNamespace(task=inner, opened=opened))  # type: ignore[arg-type]
    assert f"tunesmith predict {tmp_path}" in str(caught.value)
