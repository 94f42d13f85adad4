"""Frozen lower layers that run once: training from their stored states is training from the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_loop import furthest, go, logged, weights

import tunesmith
from tunesmith import run as runs
from tunesmith.cache.ragged import RaggedTable, open_rows
from tunesmith.techniques._layers import below, boundary
from tunesmith.testing import KINDS, tiny_model
from tunesmith.testing.techniques import Bench
from tunesmith.training import dropout
from tunesmith.training.lower_layers import LowerLayers, cut, place
from tunesmith.training.trials import stored_states_work

CPU = torch.device("cpu")
ROWS = [
    {"text": "the film was very good" + " and slow" * (i % 7), "label": i % 2} for i in range(32)
]  # of unequal lengths
TEXTS = [{"text": "i love the slow and awful story" + " of the actor" * (i % 5)} for i in range(24)]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were served from stored states in each pass."""
    seen: list[int] = []
    real = LowerLayers.batch

    def batch(self: LowerLayers, groups: Any, batch: Any) -> torch.Tensor:
        seen.append(len(groups))
        return real(self, groups, batch)

    monkeypatch.setattr(LowerLayers, "batch", batch)
    return seen


def pair(
    tmp_path: Path, models: Path, kind: str, technique: str = "full", **settings: Any
) -> list[tunesmith.RunResult]:
    """The same run with and without the cache, dropout on, three epochs of rows of unequal lengths."""
    # With the usual 1e-8 AdamW takes a step of full size where a gradient is zero in exact arithmetic (BERT's key biases).
    training = {"epsilon": 1e-4, "plan": False, **settings.pop("training", {})}  # whose passes would be counted, too
    return [
        tunesmith.train(
            str(tiny_model(kind, models / kind)), train=settings.get("train", ROWS), eval=settings.get("eval", ROWS[:4]),
            output=tmp_path / str(cached), technique=technique, batch_size=8, epochs=3, dtype="float32", learning_rate=1e-3,
            doctor=False, training={"log_every": 1, **training, "cache_frozen_layers": cached}, **{technique: {"layers": 1}},
            **{name: value for name, value in settings.items() if name not in ("train", "eval")},
        )
        for cached in (True, False)
    ]  # fmt: skip


def same(cached: tunesmith.RunResult, run: tunesmith.RunResult) -> None:
    # fp32 sums over batches of another shape: the lower layers ran on other rows beside each other.
    assert furthest(cached, run) < 1e-5
    for a, b in zip(logged(cached), logged(run), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


@pytest.mark.parametrize(("kind", "technique"), [("bert", "full"), ("llama", "full"), ("bert", "lora")])
def test_stored_states_train_what_the_rows_train(
    kind: str, technique: str, tmp_path: Path, models: Path, served: list[int]
) -> None:
    """Losses and final weights, dropout on; fails if lower layers draw dropout, or rows get each other's states."""
    cached, run = pair(tmp_path, models, kind, technique)
    assert sum(served) == 3 * len(ROWS)
    same(cached, run)


def test_packed_documents_are_served_where_they_stand(tmp_path: Path, models: Path, served: list[int]) -> None:
    cached, run = pair(
        tmp_path, models, "llama", train=TEXTS, eval=TEXTS[:4], task="language-modeling", max_length=64,
        training={"micro_batch_size": 2},
    )  # fmt: skip
    assert 0 < sum(served) < 3 * len(TEXTS)  # sequences, of which one holds several documents
    same(cached, run)


def test_plain_order_and_recomputed_activations(tmp_path: Path, models: Path, served: list[int]) -> None:
    training = {"length_buckets": False, "gradient_checkpointing": True, "micro_batch_size": 4}
    same(*pair(tmp_path, models, "bert", training=training))
    assert served


def test_frozen_weights_stay_and_the_last_layers_move(tmp_path: Path, models: Path, served: list[int]) -> None:
    """To the bit, in bf16 too, where the model computes with rounded copies."""
    from safetensors.torch import load_file

    run = go(tmp_path, models, "half", dtype="bfloat16", full={"layers": 1}, max_steps=8)
    assert served
    before, after = load_file(str(models / "bert" / "model.safetensors")), weights(run)
    for name, tensor in before.items():
        frozen = name.startswith(("embeddings.", "encoder.layer.0."))
        assert torch.equal(after[f"bert.{name}"], tensor) is frozen, name


def test_resume_from_stored_states_is_bit_for_bit(
    tmp_path: Path, models: Path, power_cut: Any, served: list[int]
) -> None:
    settings = {
        "full": {"layers": 1}, "max_steps": 12, "training": {"checkpoint_every": 2, "log_every": 1, "evaluate_every": 5},
    }  # fmt: skip
    whole = go(tmp_path, models, "whole", **settings)
    with power_cut(8):
        go(tmp_path, models, "cut", **settings)
    before = len(served)
    other = tunesmith.RunResult(tmp_path / "cut", runs.resume(tmp_path / "cut"))
    assert len(served) > before
    assert furthest(whole, other) == 0.0
    assert logged(whole) == logged(other)


def bench(kind: str, models: Path, technique: str = "full", layers: int = 1, **options: Any) -> tuple[Bench, Any]:
    made = Bench(kind, models, technique, {"layers": layers, **options})
    made.attach()
    dropout.install(
        made.loaded.model
    )  # as in a run: torch's own draws in the order of memory, which differs in recurrent layers
    folder = models / f"rows-{kind}-{technique}"
    rows = open_rows(_written(made, folder))
    return made, rows


def _written(made: Bench, folder: Path) -> Path:
    from tunesmith.cache.ragged import RaggedWriter

    folder.mkdir(exist_ok=True)
    writer = RaggedWriter(folder)
    for row in made.rows:
        writer.append({name: np.asarray(value) for name, value in row.items()})
    writer.close()
    return folder


def tried(made: Bench, rows: Any) -> tuple[bool, LowerLayers]:
    backbone = made.loaded.backbone
    depth = boundary(backbone)
    assert depth
    lower = LowerLayers(backbone, depth, torch.float32, CPU)
    return stored_states_work(made.task, made.technique, backbone, rows, 0, lower), lower


def test_a_trial_decides_and_leaves_no_trace(models: Path) -> None:
    made, rows = bench("bert", models)
    state, before = torch.random.get_rng_state(), made.logits()
    works, lower = tried(made, rows)
    assert works
    assert lower.source is made.loaded.backbone.base.embeddings  # the embeddings do not run either
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(made.logits(), before)
    assert all(p.grad is None for p in made.loaded.model.parameters())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("t5", "bart")])
@pytest.mark.parametrize("technique", ["full", "lora", "dora", "adapter"])
def test_architectures_that_can_be_shortened(kind: str, technique: str, models: Path) -> None:
    assert tried(*bench(kind, models, technique))[0]


def test_a_base_in_four_bits_can_be_shortened(models: Path) -> None:
    pytest.importorskip("bitsandbytes")
    assert tried(*bench("llama", models, "qlora"))[0]


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_architectures_that_cannot_are_left_alone(kind: str, models: Path) -> None:
    """T5's lowest layer makes the positions of all; BART draws dropout between embeddings and layers. The trial finds both."""
    assert not tried(*bench(kind, models, layers=3))[0]


def test_dropout_below_the_boundary_is_found(models: Path) -> None:
    made, rows = bench("bert", models)
    made.technique.set_training = lambda backbone: backbone.model.train()
    assert not tried(made, rows)[0]


def test_what_learns_below_is_found(models: Path) -> None:
    made, rows = bench("bert", models)
    backbone = made.loaded.backbone
    backbone.embedding.weight.requires_grad_(True)
    assert boundary(backbone) is None
    lower = LowerLayers(backbone, 1, torch.float32, CPU)
    assert not stored_states_work(made.task, made.technique, backbone, rows, 0, lower)


def test_a_pass_without_states_is_no_pass(models: Path) -> None:
    """What another part of a run asks of the model must not be answered with the states of a batch before."""
    made, rows = bench("llama", models)
    _, lower = tried(made, rows)
    lower.install()
    lower.states = torch.zeros(*made.batch["input_ids"].shape, made.loaded.backbone.hidden_size)
    made.logits()
    with pytest.raises(AssertionError, match="without stored states"):
        made.logits()
    lower.remove()
    made.logits()


def test_only_what_lies_below_is_in_evaluation_mode(models: Path) -> None:
    made, _ = bench("gpt2", models, "lora")
    backbone = made.loaded.backbone
    made.technique.set_training(backbone)
    low, high = backbone.layers
    assert not any(m.training for m in (*low.modules(), backbone.base.drop, backbone.embedding))
    assert all(m.training for m in high.modules()) and backbone.model.training
    names = {id(m) for m in below(backbone, "transformer.h.1")}
    assert id(backbone.base.ln_f) not in names and id(low) in names


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"technique": "lora"}, "lora was not told to keep to the last layers"),
        ({"full": {"layers": 2}}, "no layer lies below everything that learns"),
        ({"full": {"layers": 1}, "kind": "t5"}, "in a decoder that reads an encoder"),
        ({"full": {"layers": 3}, "kind": "t5"}, "has another gradient"),
        ({"full": {"layers": 1}, "task": "language-modeling", "train": TEXTS, "eval": TEXTS[:4]}, "drawn anew in every step"),
        ({"full": {"layers": 1}, "strategy": "l2-sp"}, "run the whole model"),
    ],
    ids=str,
)  # fmt: skip
def test_where_it_does_not_apply_it_is_off_and_says_why(
    settings: dict[str, Any],
    says: str,
    tmp_path: Path,
    models: Path,
    served: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tunesmith.console import people

    people.cache_clear()
    kind = settings.pop("kind", "bert")
    common = {
        "technique": "full",
        "train": ROWS[:8],
        "eval": ROWS[:2],
        "max_steps": 2,
        "batch_size": 4,
        "doctor": False,
    }
    tunesmith.train(
        str(tiny_model(kind, models / kind)), output=tmp_path / "run", training={"cache_frozen_layers": True}, **{**common, **settings}
    )  # fmt: skip
    said = " ".join(capsys.readouterr().err.split())
    people.cache_clear()
    assert "training.cache_frozen_layers=true has no effect" in said and says in said
    assert not served


@pytest.mark.parametrize("several", [False, True])
def test_stages_and_tasks_train_the_last_layers_without_stored_states(
    several: bool, tmp_path: Path, models: Path, served: list[int]
) -> None:
    """The second stage begins with an artifact: what was frozen is frozen there too, to the bit at the end."""
    from safetensors.torch import load_file

    tasks = [
        {"name": n, "task": "text-classification", "train": ROWS[:8], "eval": ROWS[:2], "head": "own"} for n in "ab"
    ]
    stages = [{"name": "s", "tasks": tasks}] if several else tasks
    run = tunesmith.train(
        str(tiny_model("bert", models / "bert")), stream={"stages": stages}, technique="full", full={"layers": 1}, max_steps=3, batch_size=4,
        output=tmp_path / "run", doctor=False, dtype="bfloat16", learning_rate=1e-3,
    )  # fmt: skip
    assert not served
    before, after = load_file(str(models / "bert" / "model.safetensors")), weights(run)
    for name, tensor in before.items():
        if name.startswith(("embeddings.", "encoder.layer.0.")):
            assert torch.equal(after[f"bert.{name}"], tensor), name
    assert not torch.equal(
        after["bert.encoder.layer.1.output.dense.weight"], before["encoder.layer.1.output.dense.weight"]
    )


@pytest.mark.parametrize(("epochs", "largest", "caches"), [(1, 1 << 32, False), (2, 1 << 32, True), (2, 1000, False)])
def test_unasked_it_caches_where_that_pays(
    epochs: int,
    largest: int,
    caches: bool,
    tmp_path: Path,
    models: Path,
    served: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tunesmith.frozen.LARGEST", largest)
    go(tmp_path, models, "run", full={"layers": 1}, max_steps=4 * epochs)
    assert bool(served) is caches


def test_time_that_an_earlier_run_took_counts(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.training import lower_layers

    real = lower_layers.compute
    monkeypatch.setattr(lower_layers, "compute", lambda *args: real(*args) + 1000.0)
    run = go(tmp_path, models, "run", full={"layers": 1}, max_steps=8)
    assert run.result["cost"]["train_seconds"] > 1000.0


def test_states_in_half_precision_keep_their_bits(tmp_path: Path) -> None:
    states = torch.randn(2, 5, 4).bfloat16()
    batch = {"input_ids": torch.zeros(2, 5), "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])}
    pieces = cut(states, batch, [3, 4])
    table = RaggedTable(tmp_path, "states", np.asarray([3, 4]), (4,), pieces[0].dtype)
    for index in (1, 0):
        table[index] = pieces[index]
    with pytest.raises(ValueError, match="shape"):
        table[0] = pieces[1]
    table.close({"seconds": 1.0})
    stored = open_rows(tmp_path).columns["states"]
    again = place([[stored[0]], [stored[1]]], batch)
    mask = batch["attention_mask"].bool()
    assert torch.equal(again[mask], states[mask])
    assert not again[~mask].any()
    with pytest.raises(ValueError, match="4 states for a row of 3 tokens"):
        place([[stored[1]], [stored[1]]], batch)
