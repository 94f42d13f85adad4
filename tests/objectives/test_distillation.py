"""Distillation: its loss against plain lines, every option, every task and technique, its cache, rows beside the labelled ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import tunesmith
from objectives.scene import Scene, letters, teacher
from tunesmith import run as runs
from tunesmith.errors import TunesmithError, UserError
from tunesmith.objectives._inside import pair_layers
from tunesmith.objectives._teacher import Teacher, match_labels
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows

WRITING = {"instruction": {"generate_rows": 2, "max_new_tokens": 4}}


@pytest.fixture
def bert(models: Path) -> Path:
    return tiny_model("bert", models / "bert")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, models: Path, cache: Path) -> Any:
    """A trained artifact with LoRA beside its weights."""
    place = tmp_path_factory.mktemp("adapted")
    return tunesmith.train(
        str(tiny_model("bert", models / "bert")), train=toy_rows(32), eval=toy_rows(8), technique="lora", max_steps=3, device="cpu",
        doctor=False, output=place,
    )  # fmt: skip


def go(place: Path, model: Path | None, teacher_: Any, options: Any = None, rows: Any = None, **settings: Any) -> Any:
    task = settings.get("task", "text-classification")
    rows = rows if rows is not None else rows_for(task, 24)
    settings = {
        "technique": "full", "max_steps": 3, "batch_size": 8, "dtype": "float32", "device": "cpu", "doctor": False, "learning_rate": 1e-2,
        "train": rows[:16], "eval": rows[16:], **settings,
    }  # fmt: skip
    return tunesmith.train(
        str(model) if model else None,
        objective="distillation",
        teacher=teacher_,
        distillation=options or {},
        output=place,
        **settings,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted((folder / "artifact").glob("*.safetensors")):
        found.update(load_file(str(path)))
    return found


def test_the_loss_is_what_it_says(tmp_path: Path, models: Path, bert: Path) -> None:
    """0.3 CE + 0.7 T^2 KL over rows, from the tables on disk, is the same sum over plain logits of both models."""
    scene = Scene(tmp_path, bert, teacher(models), options={"alpha": 0.3, "temperature": 4.0})
    opened = scene.taught.teachers[0].open(scene.ground, scene.part)
    total, units = 0.0, 0.0
    for each in scene.passes():
        inputs = {name: tensor for name, tensor in each.batch.items() if name != "labels"}
        with torch.no_grad():
            student, said = each.model(**inputs).logits, opened.model(**inputs).logits
        soft = 16 * F.kl_div((student / 4).log_softmax(-1), (said / 4).softmax(-1), reduction="sum")
        total += float(0.3 * F.cross_entropy(student, each.batch["labels"], reduction="sum") + 0.7 * soft)
        units += len(student)
    assert scene.loss() == pytest.approx(total / units, rel=1e-5)


FLIPS: list[tuple[str, dict[str, Any]]] = [
    ("text-classification", {"alpha": 0.1}), ("text-classification", {"temperature": 5.0}), ("text-classification", {"divergence": "reverse"}),
    ("text-classification", {"divergence": "jensen-shannon"}), ("text-classification", {"weights": [3.0, 1.0]}),
    ("text-classification", {"hidden": 1.0}), ("text-classification", {"hidden": 1.0, "hidden_loss": "cosine"}),
    ("text-classification", {"hidden": 1.0, "layers": "last"}), ("text-classification", {"hidden": 1.0, "layers": [2, 1]}),
    ("text-classification", {"embeddings": 1.0}), ("text-classification", {"attention": 1.0}),
    ("text-classification", {"attention": 1.0, "attention_loss": "mse"}), ("language-modeling", {"top_k": 2}),
    ("language-modeling", {"top_k": 40}), ("language-modeling", {"top_k": 40, "precision": "float16"}),
]  # fmt: skip


def test_every_option_changes_the_loss(tmp_path: Path, models: Path, bert: Path) -> None:
    """No two of them give the same number."""
    found: dict[str, set[float]] = {}
    for number, (task, options) in enumerate([("text-classification", {}), ("language-modeling", {}), *FLIPS]):
        kind = "bert" if task == "text-classification" else "gpt2"
        several = [teacher(models, kind, task), teacher(models, kind, task, seed=6)]
        scene = Scene(tmp_path / str(number), tiny_model(kind, models / kind), several, task, options=options)
        value = scene.loss()
        assert value not in found.setdefault(task, set()), (task, options)
        found[task].add(value)


def test_half_precision_is_near_and_smaller(tmp_path: Path, models: Path) -> None:
    kind, task = "gpt2", "language-modeling"
    scenes = [
        Scene(
            tmp_path / p,
            tiny_model(kind, models / kind),
            teacher(models, kind, task),
            task,
            options={"top_k": 20, "precision": p},
        )
        for p in ("float32", "float16")
    ]
    assert scenes[0].loss() == pytest.approx(scenes[1].loss(), rel=1e-3)
    sizes = [scene.taught.notes()["outputs"]["bytes"] for scene in scenes]
    assert sizes[1] < 0.85 * sizes[0]


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("token-classification", "distilbert"), ("question-answering", "bert"), ("language-modeling", "llama"), ("summarization", "t5"),
        ("instruction", "gpt2"), ("chat", "gemma3"), ("text-classification", "bilstm"), ("summarization", "bart"),
    ],
)  # fmt: skip
def test_a_teacher_that_is_the_student_teaches_nothing(task: str, kind: str, tmp_path: Path, models: Path) -> None:
    """Its answers, states and maps are the student's own: from the cache or live the loss is 0. Another teacher's is not."""
    own = teacher(models, kind, task)
    off = {"alpha": 0.0, "hidden": 0.0}
    inside = {"alpha": 0.0, "hidden": 1.0, "embeddings": 1.0, **({} if kind == "bilstm" else {"attention": 1.0})}
    for number, options in enumerate((off, inside)):
        scene = Scene(tmp_path / f"{number}", Path(own), own, task, options=options)
        assert bool(scene.taught.live) == bool(number)
        assert scene.loss() == pytest.approx(0, abs=1e-4), options
        other = Scene(
            tmp_path / f"{number}-other", Path(own), teacher(models, kind, task, seed=8), task, options=options
        )
        assert other.loss() > 2e-4


def test_masks_that_are_drawn_anew_are_read_live(tmp_path: Path, models: Path, bert: Path) -> None:
    name = teacher(models, task="language-modeling")
    scene = Scene(tmp_path, Path(name), name, "language-modeling", options={"alpha": 0.0})
    assert scene.taught.live and scene.loss() == pytest.approx(0, abs=1e-4)


def test_numbers_and_several_labels(tmp_path: Path, models: Path, bert: Path) -> None:
    """A regression takes the teacher's number as its target; of several labels every one is a decision, in whatever order."""
    numbers = [{"text": row["text"], "label": i % 5 + 0.5} for i, row in enumerate(toy_rows(24))]
    listed = [{"text": row["text"], "label": "a|b" if i % 2 else "b"} for i, row in enumerate(toy_rows(24))]
    for name, rows, more in (
        ("numbers", numbers, {}),
        ("listed", listed, {"text-classification": {"problem": "multi-label"}}),
    ):
        first = Scene(tmp_path / name, bert, teacher(models), rows=rows, **more, objective="supervised")
        loaded = first.model.heads.first
        loaded.model.save_pretrained(tmp_path / f"{name}-teacher")
        loaded.tokenizer.save_pretrained(tmp_path / f"{name}-teacher")
        for options in ({"alpha": 0.0}, {"alpha": 0.0, "hidden": 1.0}):
            same = Scene(
                tmp_path / f"{name}{len(options)}",
                bert,
                str(tmp_path / f"{name}-teacher"),
                rows=rows,
                options=options,
                **more,
            )
            value = same.loss()
            assert value == pytest.approx(0, abs=1e-5)
            with torch.no_grad():
                next(iter(same.model.heads.first.backbone.head_parameters()))[1].add_(0.5)
            assert same.loss() > 1e-2
    with pytest.raises(UserError, match="solves a regression problem and the rows are multi-label"):
        match_labels("x", SimpleNamespace(problem="multi-label"), SimpleNamespace(problem="regression"))


TECHNIQUES = [
    ("prompt-tuning", {"hidden": 1.0, "embeddings": 1.0, "attention": 1.0}), ("prefix-tuning", {"attention": 1.0}),
    ("adapter", {"hidden": 1.0, "layers": "last"}), ("lora", {}), ("bitfit", {"divergence": "jensen-shannon"}), ("peft:LOHA", {}),
]  # fmt: skip


@pytest.mark.parametrize(("technique", "options"), TECHNIQUES)
def test_it_composes_with_techniques(
    technique: str, options: dict[str, Any], tmp_path: Path, models: Path, bert: Path
) -> None:
    """The teachers' part alone moves everything that learns."""
    scene = Scene(tmp_path, bert, teacher(models), options={"alpha": 0.0, **options}, technique=technique)
    learning = {n: p for n, p in scene.model.heads.first.model.named_parameters() if p.requires_grad}
    for _ in range(2):  # what begins at zero hides what stands before it
        for each in scene.passes():
            scene.objective.loss(each).backward()
        with torch.no_grad():
            for parameter in learning.values():
                parameter.sub_(1e-3 * parameter.grad if parameter.grad is not None else 0.0)
    still = [name for name, p in learning.items() if p.grad is None or not bool(p.grad.abs().any())]
    # key biases shift all scores of a query alike, so that nothing ever moves them
    assert [name for name in still if not name.endswith("key.bias")] == []


def test_a_frozen_backbone_is_read_once_for_all_rows(tmp_path: Path, models: Path, bert: Path) -> None:
    """Feature-based students learn from cached features, of unlabelled rows too; not where states are compared."""
    (tmp_path / "more.jsonl").write_text(json.dumps({"text": "the book is fine"}) + "\n")
    options = {"unlabelled": str(tmp_path / "more.jsonl"), "measure": False}
    found = go(tmp_path / "run", bert, teacher(models), options, technique="feature-based").result
    assert found["verification"]["largest_difference"] <= 1e-4 and found["distillation"]["rows"]["unlabelled"] == 1


def test_a_second_run_reads_what_the_first_computed(
    tmp_path: Path, models: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights to the bit, and the teacher is not opened."""
    options = {"measure": False, "temperature": 2.5}
    first = go(tmp_path / "a", bert, teacher(models), options)
    assert first.result["distillation"]["outputs"]["from"] == "computed"

    def never(*_: Any) -> None:
        raise AssertionError("the teacher was opened")

    monkeypatch.setattr(Teacher, "open", never)
    second = go(tmp_path / "b", bert, teacher(models), options)
    notes = second.result["distillation"]
    assert notes["outputs"]["from"] == "cache" and notes["outputs"]["bytes"] > 0
    assert notes["teachers"][0]["sha256"] == first.result["distillation"]["teachers"][0]["sha256"]
    left, right = weights(first.folder), weights(second.folder)
    assert all(torch.equal(left[name], right[name]) for name in left)
    with pytest.raises(AssertionError, match="opened"):  # another number of rows is another entry
        go(tmp_path / "c", bert, teacher(models), options, max_train_rows=9)


def test_killed_and_resumed_with_projections(tmp_path: Path, models: Path, power_cut: Any) -> None:
    """Bit for bit the run that was never stopped, learned projections included; the student is narrower than its teacher."""
    import transformers

    from tunesmith.testing.models import tiny_tokenizer

    narrow = tmp_path / "narrow"
    size = len(tiny_tokenizer(True))
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=size
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(narrow)
    tiny_tokenizer(True).save_pretrained(narrow)
    settings: dict[str, Any] = {"max_steps": 6, "training": {"checkpoint_every": 2}}
    options = {"hidden": 1.0, "embeddings": 1.0, "attention": 1.0, "measure": False}
    whole = go(tmp_path / "whole", narrow, teacher(models), options, **settings)
    assert whole.result["cost"]["trainable_parameters"] == whole.result["cost"]["total_parameters"]
    with power_cut(5):
        go(tmp_path / "cut", narrow, teacher(models), options, **settings)
    runs.resume(tmp_path / "cut")
    left, right = weights(whole.folder), weights(tmp_path / "cut")
    assert left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def test_quality_size_and_speed_are_measured(tmp_path: Path, models: Path, bert: Path, adapted: Any) -> None:
    found = go(tmp_path / "s", bert, adapted, {"measure": True}).result["distillation"]
    quality = found["quality"]
    assert quality["kept"] == pytest.approx(quality["student"] / quality["teacher"])
    assert found["size"]["ratio"] < 1  # the teacher has LoRA beside its weights
    speed = found["speed"]
    assert speed["latency_gain"] == pytest.approx(
        speed["teacher"]["latency_seconds"] / speed["student"]["latency_seconds"]
    )
    assert all(
        speed[who][what] > 0 for who in ("student", "teacher") for what in ("latency_seconds", "rows_per_second")
    )
    assert found["teachers"][0]["kind"] == "artifact"


# ---- rows beside the labelled ones


def test_unlabelled_rows_join_and_measured_ones_never(tmp_path: Path, models: Path, bert: Path) -> None:
    """From the file that all rows came from: those of training and eval are left out; labels in it are not looked at."""
    every = [{**row, "text": f"{row['text']} {word}"} for word in ("blue", "red", "green") for row in toy_rows(24)]
    unique = len({row["text"] for row in every})
    (tmp_path / "all.jsonl").write_text("".join(json.dumps({**row, "label": "nonsense"}) + "\n" for row in every))
    options = {"unlabelled": str(tmp_path / "all.jsonl"), "measure": False}
    found = go(tmp_path / "run", bert, teacher(models), options, rows=every[:24]).result["distillation"]["rows"]
    known = {row["text"] for row in every[:24]}
    assert found["left_out"] == sum(row["text"] in known for row in every) and unique > len(known)
    assert found == {"labelled": 16, "unlabelled": len(every) - found["left_out"], "left_out": found["left_out"]}
    scene = Scene(tmp_path / "scene", bert, teacher(models), rows=every[:24], options=options)
    seen = [each for step in scene.feed.steps(0, 12) for each in step]
    assert {each.labelled for each in seen} == {True, False}
    for each in seen:  # no label of an unlabelled row reaches the loss
        before = scene.objective.loss(each)
        each.batch["labels"] = 1 - each.batch["labels"]
        assert torch.equal(before, scene.objective.loss(each)) is not each.labelled
    with pytest.raises(UserError, match=r"every row of .* is a training, validation or eval row already"):
        (tmp_path / "few.jsonl").write_text(json.dumps(every[0]) + "\n")
        Scene(
            tmp_path / "none",
            bert,
            teacher(models),
            rows=every[:24],
            options={"unlabelled": str(tmp_path / "few.jsonl")},
        )


@pytest.mark.parametrize(
    ("task", "kind"),
    [("token-classification", "bert"), ("question-answering", "distilbert"), ("language-modeling", "gpt2")],
)
def test_unlabelled_rows_of_other_tasks(task: str, kind: str, tmp_path: Path, models: Path) -> None:
    rows = rows_for(task, 40)
    names = {
        "token-classification": ("tokens",),
        "question-answering": ("question", "context"),
        "language-modeling": ("text",),
    }[task]
    bare = [{name: [*row[name], "blue"] if name == "tokens" else f"{row[name]} blue" for name in names} for row in rows]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    own = teacher(models, kind, task)
    options = {"unlabelled": str(tmp_path / "more.jsonl"), "alpha": 0.0}
    scene = Scene(tmp_path / "run", Path(own), own, task, rows=rows, options=options)
    assert scene.taught.notes()["rows"]["unlabelled"] == 40
    seen = [each for step in scene.feed.steps(0, 4) for each in step]
    assert not all(each.labelled for each in seen)
    assert max(abs(float(scene.objective.loss(each))) for each in seen) < 1e-3  # the teacher is the student


@pytest.mark.parametrize("sequence", ["instead", "beside"])
def test_the_teachers_texts_are_learned_and_kept(sequence: str, tmp_path: Path, models: Path) -> None:
    """What is learned is what the teacher writes for the same prompts; the rows lie in the run's folder; a prompt without a completion too."""
    name = teacher(models, "gpt2", "instruction")
    (tmp_path / "more.jsonl").write_text(json.dumps({"prompt": "the book is fine"}) + "\n")
    options = {"sequence": sequence, "unlabelled": str(tmp_path / "more.jsonl"), "measure": False}
    found = go(
        tmp_path / "run",
        tiny_model("gpt2", models / "gpt2"),
        name,
        options,
        task="instruction",
        rows=rows_for("instruction", 24),
        **WRITING,
    )
    rows = found.result["distillation"]["rows"]
    lines = [
        json.loads(line)
        for line in (found.folder / "distillation" / "instruction-generated.jsonl").read_text().splitlines()
    ]
    assert len(lines) == rows["generated"] and rows.get("labelled", 0) == (16 if sequence == "beside" else 0)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)
    prompt = tokenizer(lines[0]["prompt"], return_tensors="pt")["input_ids"][:, :-1]
    written = model.generate(
        prompt, max_new_tokens=4, do_sample=False, attention_mask=torch.ones_like(prompt), pad_token_id=0
    )
    assert tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True).strip() == lines[0]["completion"]
    assert (found.folder / "distillation" / "instruction-unlabelled.jsonl").is_file()


def test_chats_are_answered_anew(tmp_path: Path, models: Path) -> None:
    name = teacher(models, "gpt2", "chat")
    options = {"sequence": "instead"}
    scene = Scene(
        tmp_path, tiny_model("gpt2", models / "gpt2"), name, "chat", options=options, chat={"max_new_tokens": 4}
    )
    first = scene.taught.sets["generated"].rows.table[0]["messages"]
    turns = json.loads(first) if isinstance(first, str) else first
    assert [turn["role"] for turn in turns] == ["user", "assistant"] and scene.loss() > 0


# ---- students made of their teacher


@pytest.mark.parametrize(
    "kind", ["bert", "distilbert", "modernbert", "gpt2", "llama", "qwen3", "gemma3", "t5", "bart", "lstm"]
)
def test_a_student_is_its_teacher_with_layers_dropped(kind: str, tmp_path: Path, models: Path) -> None:
    """It has the first layer's weights, embeddings and head; with one layer more it is the teacher."""
    from tunesmith.models.load import load_model, load_tokenizer, locate

    name = teacher(models, kind)
    scene = Scene(tmp_path / "one", Path(name), name, options={"student_layers": 1})
    loaded, source = scene.model.heads.first, locate(name)
    again = load_model(source, load_tokenizer(source), scene.part.task)
    mine, theirs = dict(loaded.model.named_parameters()), dict(again.model.named_parameters())
    assert len(mine) < len(theirs) and all(torch.equal(mine[n].detach(), theirs[n].detach()) for n in mine)
    assert len(loaded.backbone.layers) * 2 == len(again.backbone.layers)
    whole = Scene(tmp_path / "two", Path(name), name, options={"student_layers": [1, 2], "alpha": 0.0})
    assert whole.loss() == pytest.approx(0, abs=1e-5)


def test_layers_dropped_from_an_adapted_teacher(tmp_path: Path, models: Path, bert: Path, adapted: Any) -> None:
    """LoRA is folded in first; the run needs no --model, and its artifact opens and scores again."""
    found = go(tmp_path / "s", None, adapted, {"student_layers": 1}, technique="adapter", rows=toy_rows(24)).result
    assert found["verification"]["largest_difference"] <= 1e-4 and found["distillation"]["size"]["ratio"] < 0.9
    second = Scene(tmp_path / "last", adapted.artifact, str(adapted.artifact), options={"student_layers": [2]})
    kept = dict(second.model.heads.first.model.named_parameters())["bert.encoder.layer.0.output.dense.weight"]
    merged = adapted.load().opened
    merged.technique.merge(merged.loaded.backbone)
    assert torch.equal(kept.detach(), merged.loaded.model.bert.encoder.layer[1].output.dense.weight.detach())
    with pytest.raises(UserError, match="the teacher has the layers 1 to 2"):
        go(tmp_path / "more", None, adapted, {"student_layers": 5}, rows=toy_rows(24))


def test_layers_are_paired_evenly() -> None:
    assert pair_layers([2], [6], "uniform") == [[(1, 3), (2, 6)]]
    assert pair_layers([4], [6], "uniform") == [[(1, 2), (2, 3), (3, 5), (4, 6)]]
    assert pair_layers([3, 2], [6, 4], "last") == [[(3, 6)], [(2, 4)]]
    assert pair_layers([3], [6], [0, 4, 5]) == [[(2, 4), (3, 5)]]


# ---- streams


def test_stages_with_teachers_replay_and_several_tasks(tmp_path: Path, models: Path, bert: Path) -> None:
    """Two tasks in one stage, each with its teacher; then one that nobody teaches, with rows of the first replayed."""
    words = rows_for("token-classification", 24)
    stages = [
        {"name": "both", "tasks": [
            {"name": "films", "train": toy_rows(24), "eval": toy_rows(8), "teacher": teacher(models)},
            {"name": "words", "task": "token-classification", "train": words, "eval": words[:8], "teacher": [teacher(models, task="token-classification")]},
        ]},
        {"name": "more", "train": toy_rows(16), "eval": toy_rows(8), "teacher": []},
    ]  # fmt: skip
    found = tunesmith.train(
        str(bert), stream={"stages": stages}, objective="distillation", strategy="experience-replay", technique="lora", max_steps=3, batch_size=8,
        dtype="float32", device="cpu", doctor=False, output=tmp_path / "run", distillation={"hidden": 0.5, "attention": 0.5},
    ).result  # fmt: skip
    notes = found["distillation"]
    assert sorted(notes) == ["films", "words"] and notes["words"]["quality"]["metric"] == "f1"
    assert len(found["stream"]["matrix"]) == 2


# ---- what is refused


def refused(
    options: Any, match: str, place: Path, model: Path, named: Any, task: str = "text-classification", **more: Any
) -> None:
    with pytest.raises(TunesmithError, match=match):
        Scene(place, model, named, task, options=options, **more)


def test_refusals(tmp_path: Path, models: Path, bert: Path) -> None:
    name, spelled = teacher(models), letters(models, models / "letters-bert")
    lstm = tiny_model("lstm", models / "lstm")
    refused({"alpha": 1.0}, "alpha=1 learns from labels alone", tmp_path / "a", bert, name)
    refused({"hidden": 1.0}, "compared position by position", tmp_path / "b", spelled, name)
    refused({"sequence": "instead"}, "has none that are texts", tmp_path / "c", bert, name)
    refused({"weights": [1.0]}, "1 numbers for 2 teachers", tmp_path / "d", bert, [name, name])
    refused(
        {"layers": [1], "hidden": 1.0},
        "names 1 of the teacher's layers where the student has 2",
        tmp_path / "e",
        bert,
        name,
    )
    refused({}, "has no trained head for text-classification", tmp_path / "f", bert, str(bert))
    refused({}, "cannot teach|has no trained head", tmp_path / "g", bert, teacher(models, task="question-answering"))
    refused({}, "there is no model folder|neither a folder", tmp_path / "h", bert, "./nowhere")
    refused({"attention": 1.0}, "has no attention", tmp_path / "i", lstm, teacher(models, "lstm"))
    refused(
        {},
        "masked tokens are compared position by position",
        tmp_path / "j",
        spelled,
        teacher(models, task="language-modeling"),
        "language-modeling",
    )
    refused({"student_layers": 1}, "given together with distillation.student_layers", tmp_path / "k", bert, name)
    with pytest.raises(UserError, match="teacher: is what distillation learns from"):
        Scene(tmp_path / "l", bert, [])
    with pytest.raises(UserError, match="teacher: is for distillation"):
        tunesmith.train(str(bert), train=toy_rows(8), teacher=name, output=tmp_path / "m")


# ---- a teacher with several heads


def heads(place: Path, model: Path, *stages: tuple[str, Any]) -> Path:
    listed = [{"name": name, "train": rows, "eval": rows[:6], "head": "own"} for name, rows in stages]
    return tunesmith.train(
        str(model),
        stream={"stages": listed},
        technique="lora",
        max_steps=2,
        batch_size=8,
        device="cpu",
        doctor=False,
        output=place,
    ).folder


COLOURS = [{"text": f"the {c} book {i}", "label": c} for i in range(8) for c in ("red", "blue", "green")]


def test_the_head_that_knows_the_labels_teaches(bert: Path, tmp_path: Path) -> None:
    taught = heads(tmp_path / "teacher", bert, ("films", toy_rows(24)), ("colours", COLOURS))
    found = go(tmp_path / "student", bert, str(taught), rows=COLOURS)
    assert found.result["distillation"]["quality"]["teacher"] is not None
    go(tmp_path / "films", bert, str(taught), rows=toy_rows(24))


def test_heads_that_know_the_same_labels_are_told_apart_by_name(bert: Path, tmp_path: Path) -> None:
    """The first one would teach without a word that it was made for other rows."""
    taught = str(heads(tmp_path / "teacher", bert, ("films", toy_rows(24)), ("books", toy_rows(24))))
    with pytest.raises(UserError, match=r"several heads that know these labels \(films, books\)"):
        go(tmp_path / "student", bert, taught, rows=toy_rows(24))
    stage = {"name": "books", "train": toy_rows(24), "eval": toy_rows(6)}
    found = tunesmith.train(
        str(bert), stream={"stages": [stage]}, objective="distillation", teacher=taught, technique="lora", max_steps=2, batch_size=8,
        device="cpu", doctor=False, output=tmp_path / "named",
    )  # fmt: skip
    assert found.result["distillation"]["books"]["quality"]
