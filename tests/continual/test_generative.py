"""Generative replay: how rows are cut, and that made-up ones are kept, dropped and learned as it says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

import tunesmith
from tunesmith.continual.generative_replay import GenerativeReplay, after, beginnings, common_end, without
from tunesmith.errors import TechniqueError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows


def test_the_mark_between_prompt_and_answer() -> None:
    assert common_end([[1, 2, 9, 8], [3, 9, 8], [4, 4, 9, 8]]) == [9, 8]
    assert common_end([[1, 2], [3, 4]]) == []
    assert common_end([]) == []
    assert after([5, 9, 8, 7, 9, 8], [9, 8]) == 3
    assert after([5, 9], [9, 8]) == 0 and after([5], []) == 0
    assert without([4, 5, 3, 6], [3]) == ([4, 5], True)
    assert without([4, 5], [3]) == ([4, 5], False)


def test_the_beginning_that_a_task_reads(models: Path) -> None:
    """As many tokens as it reads, whole characters, nothing from nothing."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("bert", models / "bert"))
    text = "Bộ phim rất hay. " + "good film " * 50
    (cut, short, nothing) = beginnings([text, "good", ""], tokenizer, 12)
    assert text.startswith(cut) and short == "good" and nothing == ""
    assert (
        tokenizer(cut, add_special_tokens=False)["input_ids"]
        == tokenizer(text, add_special_tokens=False)["input_ids"][:12]
    )


def stream(place: Path, models: Path, kind: str, task: str, first: Any, second: Any, **options: Any) -> Any:
    stages = [
        {"name": name, "task": task, "train": rows, "eval": rows[:6]} for name, rows in (("first", first), ("second", second))
    ]  # fmt: skip
    shape = {"instruction": {"generate_rows": 0}} if task == "instruction" else {}
    return tunesmith.train(
        str(tiny_model(kind, models / kind)), stream={"stages": stages}, output=place, strategy="generative-replay", max_steps=8, batch_size=8,
        technique="lora", learning_rate=1e-2, dtype="float32", device="cpu", doctor=False,
        **{"generative-replay": {"confidence": 0.0, "generator_hidden": 16, "generator_epochs": 1, "max_tokens": 24, **options}, **shape},
    )  # fmt: skip


def made_up(found: Any) -> list[dict[str, Any]]:
    file = found.folder / "generated" / "01-second.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


FLIPPED = [{**row, "label": "negative" if row["label"] == "positive" else "positive"} for row in toy_rows(24)]


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_a_small_model_writes_texts_and_the_large_one_labels_them(task: str, tmp_path: Path, models: Path) -> None:
    rows = rows_for(task, 24)
    found = stream(tmp_path / "run", models, "bert", task, rows, rows, ratio=0.5)
    written = made_up(found)
    kept = [row["row"] for row in written if row["kept"]]
    assert 1 <= len(kept) <= 12 and all(row["task"] == "first" for row in written)
    if task == "text-classification":
        assert all(row["text"] and row["label"] in ("positive", "negative") for row in kept)
    else:
        assert all(len(row["tokens"]) == len(row["ner_tags"]) for row in kept)
    assert len({json.dumps(row) for row in kept}) == len(kept)


def test_unsure_labels_are_dropped(tmp_path: Path, models: Path) -> None:
    found = stream(
        tmp_path / "run", models, "bert", "text-classification", toy_rows(24), FLIPPED, confidence=1.0, ratio=0.3
    )
    written = made_up(found)
    assert written and not any(row["kept"] for row in written)
    assert all("unsure" in row["why"] for row in written if "confidence" in row)


def test_a_decoder_makes_its_own_rows_up(tmp_path: Path, models: Path) -> None:
    """Whole rows behind the task's name; with blind tokens in their place the control learns something else."""
    rows = rows_for("instruction", 24)
    found = stream(tmp_path / "run", models, "llama", "instruction", rows, rows, ratio=0.5)
    written = made_up(found)
    assert {"prompt", "target", "prompt_ids", "target_ids", "kept", "why"} <= written[0].keys()
    assert all(row["why"] in ("", "does not end", "has no answer", "repeats another", "enough") for row in written)
    control = stream(tmp_path / "control", models, "llama", "instruction", rows, rows, ratio=0.5, texts="random")
    assert any(row["kept"] for row in made_up(control))
    assert control.result["stream"]["matrix"][0] == found.result["stream"]["matrix"][0]
    assert control.result["stream"]["matrix"][1] != found.result["stream"]["matrix"][1]


def test_the_controls_know_nothing_of_the_task(models: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("llama", models / "llama"))
    text = tmp_path / "speeches.txt"
    text.write_text("the film was good and the plot was bad and nobody saw it twice " * 20, encoding="utf-8")
    ids = tokenizer(text.read_text(), add_special_tokens=False)["input_ids"]
    for texts in ("random", str(text)):
        control = GenerativeReplay(GenerativeReplay.Options(texts=texts, max_tokens=16))
        rows = control._control(tokenizer, 5, [7], [8, 9])
        assert {len(row) for row in rows} == {8 + 2 + 8 + 1}
        for row in rows:
            prompt, border, answer, stop = row[:8], row[8:10], row[10:18], row[18]
            assert (border, stop) == ([8, 9], 7)
            if texts == "random":
                assert answer == prompt
            else:
                assert any(ids[i : i + 16] == [*prompt, *answer] for i in range(len(ids)))
    assert len({tuple(row) for row in rows}) > 1
    text.write_text("the film", encoding="utf-8")
    with pytest.raises(TechniqueError, match="take a longer text"):
        control._control(tokenizer, 5, [7], [8, 9])
    with pytest.raises(ValueError, match="neither generated nor random nor a text file"):
        GenerativeReplay.Options(texts="nonsense")


def test_a_stop_inside_the_prompt_does_not_end_a_row(models: Path) -> None:
    """Chat templates end every turn with the token that ends an answer, and models name it in their own generation settings."""
    from transformers import AutoModelForCausalLM

    folder = tiny_model("llama", models / "llama")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    stop, border, start = 7, [8, 9], [5, 6]
    model.generation_config.eos_token_id = stop
    model.generation_config.repetition_penalty = 5.0
    model.train()
    script = [11, stop, 12, *border, 13, stop, 14]

    def recite(module: Any, arguments: Any, logits: Any) -> Any:
        """The next word of the script, whatever was read."""
        recite.at += 1  # type: ignore[attr-defined]
        logits = logits.detach().zero_()
        logits[:, -1, script[min(recite.at, len(script)) - 1]] = 50.0  # type: ignore[attr-defined]
        return logits

    recite.at = 0  # type: ignore[attr-defined]
    model.lm_head.register_forward_hook(recite)
    strategy = GenerativeReplay(GenerativeReplay.Options(max_tokens=24))
    session: Any = SimpleNamespace(device=model.device)
    written = strategy._sample(session, model, tokenizer, start, 2, [stop], border)
    assert written == [script[:7]] * 2  # as far as the stop behind the border
    assert model.generation_config.eos_token_id == stop and model.training


@pytest.mark.parametrize(
    ("kind", "task", "words"),
    [("t5", "instruction", "encoder-decoder"), ("bert", "question-answering", "experience-replay")],
)
def test_tasks_that_cannot_be_made_up_are_refused(
    kind: str, task: str, words: str, tmp_path: Path, models: Path
) -> None:
    rows = rows_for(task, 16)
    with pytest.raises(tunesmith.errors.UserError, match=words):
        stream(tmp_path / "run", models, kind, task, rows, rows)
