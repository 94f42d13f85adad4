"""Adapters of every technique, architecture and task, served beside each other: each answers as it does alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from served import random_artifact, running
from transformers import GenerationConfig

import tunesmith
from tunesmith.artifacts.writing import Writer
from tunesmith.serve.limits import Limits
from tunesmith.serve.server import Options
from tunesmith.testing import tiny_model
from tunesmith.testing.artifacts import reseal
from tunesmith.testing.rows import rows_for

WRITERS = {
    "llama": ("lora", "prefix-tuning", "prompt-tuning", "adapter", "ia3", "dora"),
    "gemma3": ("lora", "prefix-tuning", "prompt-tuning"),
    "gpt2": ("lora", "bitfit", "prompt-tuning", "prefix-tuning"),
    "t5": ("lora", "prompt-tuning"),
    "lstm": ("lora",),
}
PROMPTS = ["a fine film", "we", "the plot is not good and the actor is slow and dull", "phim hay", "i love two books"]


@pytest.mark.parametrize("kind", WRITERS)
def test_writers_of_all_kinds_beside_each_other(kind: str, base: Callable[[str], Path], tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    folders = {
        technique: random_artifact(base(kind), tmp_path / technique, "instruction", technique, template="plain")
        for technique in WRITERS[kind]
    }
    options = Options(
        str(base(kind)), {name: str(f) for name, f in folders.items()}, device="cpu", limits=Limits(max_batch=7)
    )
    asked = [(name, prompt) for prompt in PROMPTS for name in folders]
    with running(options) as server, ThreadPoolExecutor(12) as pool:
        client = server.client()

        def ask(each: tuple[str, str]) -> str:
            name, prompt = each
            found = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": prompt}], max_tokens=9, temperature=0
            )
            return found.choices[0].message.content

        answers = dict(zip(asked, pool.map(ask, asked), strict=True))
        if kind == "t5":
            with pytest.raises(Exception, match="writes no text"):
                client.completions.create(model=server.service.catalogue.base.id, prompt="we")
        shared = {name for name in folders if server.service.engine.bank.mixes(name)}
    assert shared == ({"lora"} if kind != "t5" else set())
    for name, folder in folders.items():
        artifact: Any = tunesmith.load(folder, device="cpu")
        task, model = artifact.task, artifact.model
        for prompt in PROMPTS:
            ids = torch.tensor([task.framed({}, prompt=prompt, input="", tokenizer=artifact.tokenizer)])
            chosen = GenerationConfig(
                max_new_tokens=9, do_sample=False, pad_token_id=0, eos_token_id=task.stops, decoder_start_token_id=0
            )
            written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=chosen)[0]
            written = written[1:] if kind == "t5" else written[ids.shape[1] :]
            truth = artifact.tokenizer.decode(written, skip_special_tokens=True)
            assert answers[name, prompt].strip() == truth.strip(), (name, prompt)
    if len(folders) > 1:
        assert len({tuple(answers[name, p] for p in PROMPTS) for name in folders}) == len(folders)


def test_rows_are_predicted_as_the_artifact_does(models: Path, tmp_path: Path) -> None:
    bert = tiny_model("bert", models / "bert")
    made = {
        task: random_artifact(bert, tmp_path / task, task, technique)
        for task, technique in (
            ("text-classification", "lora"), ("token-classification", "prefix-tuning"), ("question-answering", "adapter"),
        )
    }  # fmt: skip
    options = Options(str(bert), {name: str(f) for name, f in made.items()}, device="cpu", limits=Limits(max_rows=40))
    with running(options) as server, server.http() as http:
        for task, folder in made.items():
            artifact: Any = tunesmith.load(folder, device="cpu")
            rows = [{n: v for n, v in row.items() if n not in artifact.task.targets} for row in rows_for(task, 20)]
            found = http.post("/v1/predict", json={"model": task, "rows": rows})
            assert found.status_code == 200, found.text
            assert found.json()["task"] == task
            for ours, theirs in zip(found.json()["data"], artifact.predict(rows), strict=True):
                assert ours["prediction"] == theirs["prediction"]
                assert ours.get("score", 0) == pytest.approx(theirs.get("score", 0), abs=1e-5)
        for body, status, words in [
            ({"model": "bert", "rows": [{"text": "a"}]}, 400, "trained for no task"),
            ({"model": "text-classification", "rows": [{"text": "a"}, {"txt": "a"}]}, 400, "rows, row 2: `text` is missing"),
            ({"model": "text-classification", "rows": [{"text": "a"}] * 41}, 400, "more than this server takes"),
            ({"model": "text-classification", "rows": [{"text": "a"}], "head": "x"}, 400, "unknown head `x`"),
            ({"model": "text-classification", "rows": []}, 400, "rows"),
        ]:  # fmt: skip
            refused = http.post("/v1/predict", json=body)
            assert (refused.status_code, words in refused.json()["error"]["message"]) == (status, True), refused.text
        refused = http.post("/v1/completions", json={"model": "token-classification", "prompt": "a"})
        assert "its task is token-classification" in refused.json()["error"]["message"]
        vector = server.client().embeddings.create(model="bert", input="a fine film").data[0].embedding
        from transformers import AutoModel, AutoTokenizer

        with torch.no_grad():
            inputs = AutoTokenizer.from_pretrained(bert)("a fine film", return_tensors="pt")
            truth = AutoModel.from_pretrained(bert).eval()(**inputs).last_hidden_state[0].mean(0)
        assert vector == pytest.approx(truth.tolist(), abs=1e-5)
        tuned = server.client().embeddings.create(model="text-classification", input="a fine film").data[0].embedding
        assert tuned != pytest.approx(vector, abs=1e-2)


def test_a_prediction_through_one_head_does_not_change_what_another_writes(
    base: Callable[[str], Path], tmp_path: Path
) -> None:
    stages = [
        {"name": name, "task": task, "train": rows_for(task, 12), "eval": rows_for(task, 4)} for name, task in (("said", "instruction"), ("judged", "text-classification"))
    ]  # fmt: skip
    run = tunesmith.train(
        str(base("llama")), stream={"stages": stages}, technique="lora", max_steps=2, batch_size=4, output=tmp_path / "run", device="cpu",
        dtype="float32", doctor=False, instruction={"generate_rows": 0},
    )  # fmt: skip
    with (
        running(Options(str(base("llama")), {"both": str(run.artifact)}, device="cpu")) as server,
        server.http() as http,
    ):
        asked = {"model": "both", "prompt": "a fine film", "max_tokens": 6, "temperature": 0}
        before = http.post("/v1/completions", json=asked).json()["choices"][0]["text"]
        found = http.post("/v1/predict", json={"model": "both", "rows": [{"text": "a fine film"}], "head": "judged"})
        assert found.status_code == 200, found.text
        after = http.post("/v1/completions", json=asked)
        assert after.status_code == 200 and after.json()["choices"][0]["text"] == before


def test_an_adapter_that_cannot_be_described_does_not_stay(
    base: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is free again, and so is its memory."""
    from tunesmith.serve import jobs

    random_artifact(base("llama"), tmp_path / "late", "instruction", "lora")
    describe = jobs.describe

    def failing(*args: Any) -> Any:
        raise tunesmith.UserError("its chat template cannot be read")

    with (
        running(Options(str(base("llama")), device="cpu", adapter_root=tmp_path)) as server,
        server.http() as http,
    ):
        body = {"lora_name": "late", "lora_path": "late"}
        monkeypatch.setattr(jobs, "describe", failing)
        refused = http.post("/v1/load_lora_adapter", json=body)
        assert refused.status_code == 400 and "chat template" in refused.text
        monkeypatch.setattr(jobs, "describe", describe)
        assert http.post("/v1/load_lora_adapter", json=body).status_code == 200


def test_an_adapter_has_its_own_frame(base: Callable[[str], Path], tmp_path: Path) -> None:
    """A chat template of the artifact, the system prompt of its training, and the frame of plain instructions."""
    from transformers import AutoTokenizer

    from tunesmith.serve.prompts import chat_ids
    from tunesmith.serve.refusals import Refused

    plain = random_artifact(base("llama"), tmp_path / "plain", "instruction", "lora", template="alpaca")
    spoken = random_artifact(base("llama"), tmp_path / "spoken", "chat", "lora", system="we love film")
    template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} the {% endfor %}"
    tokenizer = AutoTokenizer.from_pretrained(spoken)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(spoken)
    reseal(spoken)
    short = random_artifact(base("llama"), tmp_path / "short", "summarization", "lora")
    folders = {"plain": str(plain), "spoken": str(spoken), "short": str(short)}
    with running(Options(str(base("llama")), folders, device="cpu")) as server:
        catalogue = server.service.catalogue
        user = {"role": "user", "content": "a fine film"}

        def text(name: str, *messages: dict[str, str]) -> str:
            return catalogue.find(name).tokenizer.decode(chat_ids(catalogue.find(name), list(messages)))

        words = tokenizer("system we love film the user a fine film the", add_special_tokens=False)["input_ids"]
        assert chat_ids(catalogue.find("spoken"), [user]) == words
        own = tokenizer("system no the user a fine film the", add_special_tokens=False)["input_ids"]
        assert chat_ids(catalogue.find("spoken"), [{"role": "system", "content": "no"}, user]) == own
        turns = [{"role": "system", "content": "no"}, user, {"role": "assistant", "content": "yes"}, user]
        talked = chat_ids(catalogue.find("spoken"), turns)
        assert talked == Writer(tunesmith.load(spoken, device="cpu")).fit(turns)[0], "as `tunesmith chat` reads it"
        assert talked.count(tokenizer.eos_token_id or tokenizer.sep_token_id) == 1, (
            "the answer is closed, as in training"
        )
        again = text("spoken", *turns[:3])
        assert again.endswith("a fine film the [UNK] [UNK] the"), (
            "behind an answer a further one is opened, and none is closed"
        )
        framed = text("plain", user)
        assert "a fine film" in framed
        assert text(catalogue.base.id, user) != framed
        with pytest.raises(Refused, match="rows of summarization"):
            text("short", user)
        with pytest.raises(Refused, match="trained on single instructions"):
            text("plain", user, {"role": "assistant", "content": "yes"}, user)
