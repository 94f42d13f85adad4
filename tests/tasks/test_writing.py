"""Tasks that write: what is learned of a row, what is cut, what the options change, and how texts are scored."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chat import CHATML, SPECIAL, tokenizer_of

import tunesmith
from tunesmith import registry
from tunesmith.data.sources import Rows
from tunesmith.errors import DataError, ModelError
from tunesmith.metrics.text import TextOverlap, words
from tunesmith.models.load import load_model, load_tokenizer, locate, positions
from tunesmith.tasks._base import IGNORED
from tunesmith.tasks._language import token_scores
from tunesmith.testing import tiny_model

ROW = {"prompt": "Say hello.", "completion": "Hello there."}
ALPACA = {"prompt": "Translate.", "input": "Xin chào bạn", "completion": "Hello there."}


class _Model:
    generation_config = None
    config = type("Config", (), {"model_type": "llama"})()


def task_of(
    name: str, tokenizer: Any, kind: str = "decoder", rows: list[dict[str, Any]] | None = None, **options: Any
) -> Any:
    cls = registry.load("task", name)
    task = cls(cls.Options(**options))
    if rows:
        task.fit(Rows(Dataset.from_list(rows), "rows.jsonl", "x"))
    task.bind(_Model(), tokenizer, kind)
    return task


def encoded(task: Any, row: dict[str, Any], tokenizer: Any, max_length: int = 400) -> dict[str, Any]:
    return next(iter(task.encode([row], tokenizer, max_length)))[0]


def parts(feature: dict[str, Any], tokenizer: Any) -> tuple[str, str]:
    """Context and learned text of a decoder's feature."""
    labels = feature["labels"]
    return (
        tokenizer.decode(feature["input_ids"][labels == IGNORED]),
        tokenizer.decode(labels[labels != IGNORED]),
    )


# ---- instruction


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_a_completion_is_learned_with_its_end(kind: str) -> None:
    tokenizer = tokenizer_of(None)
    feature = encoded(task_of("instruction", tokenizer, kind, [ROW]), ROW, tokenizer)
    context = tokenizer.decode(feature["input_ids"][: int(feature["prompt"])])
    target = tokenizer.decode(feature["labels"][feature["labels"] != IGNORED])
    assert (context, target) == ("Say hello.", "Hello there.</s>")


def test_the_chat_template_is_used_where_there_is_one() -> None:
    tokenizer = tokenizer_of(CHATML)
    row = {**ROW, "system": "Be kind."}
    context, target = parts(encoded(task_of("instruction", tokenizer, rows=[row]), row, tokenizer), tokenizer)
    assert (
        context
        == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert target == "Hello there.<|im_end|>"


@pytest.mark.parametrize(
    ("template", "begins", "holds"),
    [
        ("chat", "user: ", "Say hello."),
        ("plain", "Say hello.", "Say hello."),
        ("alpaca", "Below is an instruction", "### Response:\n"),
    ],
)
def test_the_frame_can_be_chosen(template: str, begins: str, holds: str) -> None:
    tokenizer = tokenizer_of(None)
    context, target = parts(
        encoded(task_of("instruction", tokenizer, rows=[ROW], template=template), ROW, tokenizer), tokenizer
    )
    assert context.lower().startswith(begins.lower())
    assert holds in context
    assert target.startswith("Hello there.")


def test_alpaca_rows_get_their_frame_with_and_without_input() -> None:
    tokenizer = tokenizer_of(None)
    task = task_of("instruction", tokenizer, rows=[ALPACA, {**ALPACA, "input": ""}])
    with_input, _ = parts(encoded(task, ALPACA, tokenizer), tokenizer)
    without, _ = parts(encoded(task, {**ALPACA, "input": ""}, tokenizer), tokenizer)
    assert "### Input:\nXin chào bạn\n\n### Response:\n" in with_input
    assert "paired with an input" in with_input
    assert "Input" not in without
    assert "paired" not in without


def test_alpaca_files_need_no_mapping(tmp_path: Path, models: Path) -> None:
    rows = [
        {"instruction": f"the film was {w}", "input": "", "output": "i love this"}
        for w in ("good", "fine", "great", "slow")
    ] * 4
    run = tunesmith.train(
        str(tiny_model("llama", models / "llama")), train=rows, eval=rows[:4], task="instruction", technique="full", max_steps=30,
        learning_rate=1e-2, output=tmp_path / "run", instruction={"max_new_tokens": 8},
    )  # fmt: skip
    assert run.metrics["token_accuracy"] > 0.9
    answers = run.load().predict([{"prompt": "the film was good", "input": ""}])
    assert answers[0]["prediction"] == "i love this"


def test_the_prompt_is_learned_when_asked() -> None:
    tokenizer = tokenizer_of(None)
    feature = encoded(task_of("instruction", tokenizer, rows=[ROW], train_on_prompt=True), ROW, tokenizer)
    assert (feature["labels"] == feature["input_ids"]).all()


def test_a_long_prompt_loses_its_end_but_not_its_frame() -> None:
    tokenizer = tokenizer_of(CHATML)
    row = {**ROW, "prompt": " ".join(f"word{i}" for i in range(200))}
    task = task_of("instruction", tokenizer, rows=[row])
    feature = encoded(task, row, tokenizer, 80)
    context, target = parts(feature, tokenizer)
    assert len(feature["input_ids"]) <= 80
    assert context.startswith("<|im_start|>user\nword0 word1")
    assert context.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert target == "Hello there.<|im_end|>"


def test_a_long_input_is_cut_before_the_instruction_and_the_frame_stays() -> None:
    for template, end in ((CHATML, "<|im_end|>\n<|im_start|>assistant\n"), (None, "### Response:\n")):
        tokenizer = tokenizer_of(template)
        row = {**ALPACA, "input": "Xin chào bạn " * 100}
        task = task_of("instruction", tokenizer, rows=[row])
        context, target = parts(encoded(task, row, tokenizer, max_length=260), tokenizer)
        assert target.startswith("Hello there.")
        assert "Translate." in context
        assert context.endswith(end)
        assert 1 <= context.count("chào") < 100
        # With less room still, the input is gone and the instruction begins to go.
        bare = len(encoded(task, {**ALPACA, "input": ""}, tokenizer)["input_ids"])
        context, _ = parts(encoded(task, row, tokenizer, max_length=bare - 3), tokenizer)
        assert "chào" not in context
        assert "Trans" in context
        assert "Translate." not in context
        assert context.endswith(end)
    with pytest.raises(DataError, match=r"frame of a prompt alone has \d+ tokens where max_length leaves \d+"):
        encoded(task, row, tokenizer, max_length=bare - 20)


def test_a_long_completion_stops_the_run_or_is_cut() -> None:
    tokenizer = tokenizer_of(None)
    row = {**ROW, "completion": "long " * 100}
    with pytest.raises(DataError, match="--max-length"):
        encoded(task_of("instruction", tokenizer, rows=[row]), row, tokenizer, 60)
    feature = encoded(task_of("instruction", tokenizer, rows=[row], long_completion="cut"), row, tokenizer, 60)
    context, target = parts(feature, tokenizer)
    assert len(feature["input_ids"]) <= 60
    assert context == "Say hello."
    assert target.endswith("</s>")


def test_a_cut_completion_leaves_its_prompt_the_frame_whatever_its_length() -> None:
    """The frame is more than the eighth that a completion has to leave, and some lengths used to be refused."""
    tokenizer = tokenizer_of(CHATML)
    frame = len(
        encoded(task_of("instruction", tokenizer, rows=[ROW]), {**ROW, "prompt": "", "completion": ""}, tokenizer, 200)[
            "input_ids"
        ]
    )
    task = task_of("instruction", tokenizer, rows=[ROW], long_completion="cut")
    for number in range(1, 80, 3):
        row = {**ROW, "prompt": "Say hello to them all.", "completion": "long " * number}
        length = frame + 16
        feature = encoded(task, row, tokenizer, length)
        context, target = parts(feature, tokenizer)
        assert len(feature["input_ids"]) <= length
        assert context.startswith("<|im_start|>user\nSay")
        assert context.endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert target.startswith("long")
        assert target.endswith("<|im_end|>")
    with pytest.raises(DataError, match=r"frame of a prompt alone .* raise --max-length"):
        encoded(task, row, tokenizer, frame // 2)
    with pytest.raises(DataError, match=r"a completion has \d+ tokens .*long_completion=cut"):
        encoded(task_of("instruction", tokenizer, rows=[ROW]), row, tokenizer, frame + 16)


def test_instructions_are_compared_by_what_was_chosen() -> None:
    """Perplexity where nothing is chosen, or where the choice needs texts and none is written."""

    def primary(**options: Any) -> str:
        task = registry.load("task", "instruction")
        return str(task(task.Options(**options)).primary)

    assert (primary(), primary(best_by="exact_match")) == ("perplexity", "exact_match")
    assert primary(best_by="exact_match", generate_rows=0) == "perplexity"
    assert primary(best_by="token_accuracy", generate_rows=0) == "token_accuracy"


@pytest.mark.parametrize(
    ("row", "words_"),
    [
        ({**ROW, "completion": "  "}, ["row 1", "completion is empty"]),
        ({**ROW, "prompt": ""}, ["row 1", "prompt is empty"]),
        ({"prompt": 3, "completion": "x"}, ["row 1", "`prompt` is a number"]),
    ],
)
def test_rows_without_text_are_refused(row: dict[str, Any], words_: list[str]) -> None:
    with pytest.raises(DataError) as error:
        task_of("instruction", tokenizer_of(None), rows=[row])
    assert all(word in str(error.value) for word in words_), str(error.value)


# ---- summarization


def test_a_document_is_cut_and_its_frame_and_summary_are_not() -> None:
    tokenizer = tokenizer_of(None)
    row = {"document": "word " * 300, "summary": "Hello there."}
    feature = encoded(task_of("summarization", tokenizer, rows=[row]), row, tokenizer, 100)
    context, target = parts(feature, tokenizer)
    assert context.endswith("\n\nTL;DR: ")
    assert target == "Hello there.</s>"
    assert len(feature["input_ids"]) <= 100
    reading = encoded(
        task_of("summarization", tokenizer, "encoder-decoder", [row], prefix="summarize: "), row, tokenizer, 100
    )
    assert len(reading["input_ids"]) == 100
    assert tokenizer.decode(reading["input_ids"]).startswith("summarize: word")


def test_summaries_are_cut_where_the_option_says() -> None:
    tokenizer = tokenizer_of(None)
    row = {"document": "word", "summary": "long " * 40}
    lengths = [
        len(
            encoded(task_of("summarization", tokenizer, "encoder-decoder", [row], max_summary=n), row, tokenizer)[
                "labels"
            ]
        )
        for n in (10, 20)
    ]
    assert lengths == [10, 20]


def test_models_that_only_read_are_refused(models: Path) -> None:
    for kind in ("bert", "modernbert"):
        source = locate(str(tiny_model(kind, models / kind)))
        for name in ("summarization", "instruction", "chat"):
            cls = registry.load("task", name)
            with pytest.raises(ModelError, match="reads text and cannot write it"):
                load_model(source, load_tokenizer(source), cls(cls.Options()))


# ---- generation


@pytest.fixture(scope="module")
def writer(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tunesmith.RunResult:
    """A tiny model that has learned two answers."""
    rows = [
        {"prompt": f"the film was {w}", "completion": c}
        for w, c in (("good", "i love the film"), ("bad", "they hate the plot"))
    ] * 8
    return tunesmith.train(
        str(tiny_model("llama", models / "llama")), train=rows, eval=rows[:4], task="instruction", technique="full", max_steps=30,
        learning_rate=1e-2, output=tmp_path_factory.mktemp("writer") / "run",
    )  # fmt: skip


def test_what_was_learned_is_written(writer: tunesmith.RunResult) -> None:
    found = writer.load().predict([{"prompt": "the film was good"}, {"prompt": "the film was bad"}])
    assert [row["prediction"] for row in found] == ["i love the film", "they hate the plot"]
    assert writer.metrics["exact_match"] == 1.0
    assert writer.metrics["rougeL"] == pytest.approx(1.0)
    assert writer.metrics["perplexity"] == pytest.approx(math.exp(writer.metrics["loss"]), rel=1e-6)


def test_generation_with_and_without_cache_and_batch_agree(writer: tunesmith.RunResult) -> None:
    artifact = writer.load()
    prompts = ["the film was good", "the very slow film was bad and the plot", "fine"]
    together = [row["prediction"] for row in artifact.predict([{"prompt": p} for p in prompts])]
    alone = [artifact.predict([{"prompt": p}])[0]["prediction"] for p in prompts]
    assert together == alone
    generation = artifact.task.generation
    artifact.task.generation = lambda *a: _uncached(generation(*a))
    assert [row["prediction"] for row in artifact.predict([{"prompt": p} for p in prompts])] == together


def _uncached(config: Any) -> Any:
    config.use_cache = False
    return config


@pytest.mark.parametrize(
    "changed",
    [
        {"max_new_tokens": 2}, {"beams": 4}, {"sample": True, "temperature": 5.0}, {"no_repeat": 1}, {"repetition_penalty": 9.0},
    ],
    ids=str,
)  # fmt: skip
def test_each_generation_option_changes_what_is_written(changed: dict[str, Any], models: Path) -> None:
    """On an untrained model, which repeats itself: each option must show in its ids."""
    cls = registry.load("task", "instruction")
    source = locate(str(tiny_model("gpt2", models / "gpt2")))
    tokenizer = load_tokenizer(source)
    found = []
    for options in ({}, changed):
        task = cls(cls.Options(max_new_tokens=options.pop("max_new_tokens", 12), **options))
        loaded = load_model(source, tokenizer, task, seed=0)
        task.frame, task.positions = "plain", 128
        task.stops = []
        features = [
            next(iter(task.encode([{"prompt": f"the {w} film"}], tokenizer, 40)))[0] for w in ("good", "bad", "slow")
        ]
        torch.manual_seed(0)
        found.append(task.write(loaded.model.eval(), features))
    assert found[0] != found[1]


@pytest.mark.parametrize(("option", "value"), [("top_p", 0.5), ("top_k", 3)])
def test_sampling_options_reach_the_sampler(option: str, value: float) -> None:
    task = task_of("instruction", tokenizer_of(None), rows=[ROW], sample=True, **{option: value})
    assert getattr(task.generation(_Model(), None), option) == value


def test_rows_beyond_the_limit_are_scored_and_not_written() -> None:
    task = task_of("instruction", tokenizer_of(None), rows=[ROW], generate_rows=2)
    written: list[int] = []
    task.write = lambda model, features: [written.append(int(f["row"])) or "x" for f in features]
    features = [{**encoded(task, ROW, task.tokenizer), "row": i} for i in range(4)]
    labels = task.collate(features, 0)["labels"]
    outputs = type("Outputs", (), {"logits": torch.randn(int((labels != IGNORED).sum()), 400)})()
    found = task.read(None, outputs, {"labels": labels}, features)
    assert written == [0, 1]
    assert [text for _, text in found] == ["x", "x", None, None]
    assert all(score.tokens == int((labels[0] != IGNORED).sum()) for score, _ in found)
    assert len(task.read(None, None, {}, features, predicting=True)) == 4


# ---- scores


def test_token_scores_are_the_sums_of_each_row() -> None:
    labels = torch.tensor([[IGNORED, 1, 2], [0, IGNORED, IGNORED]])
    logits = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    found = token_scores(type("Outputs", (), {"logits": logits})(), labels)
    logp = torch.log_softmax(logits, -1)
    assert found[0].nats == pytest.approx(-float(logp[0, 1] + logp[1, 2]), rel=1e-6)
    assert (found[0].tokens, found[0].right) == (2, 1)
    assert found[1].nats == pytest.approx(-float(logp[2, 0]), rel=1e-6)
    assert (found[1].tokens, found[1].right) == (1, 0)


def _rouge_n(a: list[str], b: list[str], n: int) -> float:
    x, y = (Counter(tuple(t[i : i + n]) for i in range(len(t) - n + 1)) for t in (a, b))
    both = sum((x & y).values())
    return 2 * both / (sum(x.values()) + sum(y.values())) if both else 0.0


def _rouge_l(a: list[str], b: list[str]) -> float:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i, j] = table[i - 1, j - 1] + 1 if x == y else max(table[i - 1, j], table[i, j - 1])
    both = int(table[-1, -1])
    return 2 * both / (len(a) + len(b)) if both else 0.0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            *[st.lists(st.sampled_from(["phim", "này", "rất", "hay", "the", "film", "is", "good"]), max_size=9)] * 2
        ),
        min_size=1,
        max_size=4,
    )
)
def test_rouge_agrees_with_its_definition(pairs: list[tuple[list[str], list[str]]]) -> None:
    metric = TextOverlap()
    for a, b in pairs:
        metric.update(" ".join(a), " ".join(b))
    found = metric.compute()
    for key, score in (
        ("rouge1", lambda a, b: _rouge_n(a, b, 1)),
        ("rouge2", lambda a, b: _rouge_n(a, b, 2)),
        ("rougeL", _rouge_l),
    ):
        assert found[key] == pytest.approx(np.mean([score(a, b) for a, b in pairs]), abs=1e-6), key


def test_words_are_those_of_any_script_and_form() -> None:
    import unicodedata

    assert words("Phim này, RẤT-hay!") == ["phim", "này", "rất", "hay"]
    metric = TextOverlap()
    metric.update(unicodedata.normalize("NFD", "Phim này hay"), unicodedata.normalize("NFC", "Phim này hay"))
    assert metric.compute() == pytest.approx({"rouge1": 1, "rouge2": 1, "rougeL": 1, "chrf": 100, "exact_match": 1})
    assert SPECIAL  # the tokenizer of the chat tests serves here too


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_prompt_that_fills_the_context_gets_one_token_and_no_more(kind: str, models: Path) -> None:
    """No room is not the same as room without a bound."""

    source = locate(str(tiny_model(kind, models / kind)))
    cls = registry.load("task", "instruction")
    task = cls(cls.Options(max_new_tokens=9))
    loaded = load_model(source, load_tokenizer(source), task)
    task.positions = room = positions(loaded, 0)
    assert room is not None
    prompt = np.full(room, 7, np.int32)
    asked: list[int] = []
    real = loaded.model.generate

    def generate(**settings: Any) -> Any:
        asked.append(settings["generation_config"].max_new_tokens)
        return real(**settings)

    loaded.model.generate = generate
    assert len(task.write(loaded.model, [{"input_ids": prompt, "prompt": room}])) == 1
    assert asked == [1]
    task.write(loaded.model, [{"input_ids": prompt[:5], "prompt": 5}])
    assert asked == [1, 9]
