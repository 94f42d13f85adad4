"""Strategies inside a real stream: what they hold, which modules draw noise, which passes they add."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import tunesmith
from tunesmith import registry
from tunesmith.continual.generative_replay import GenerativeReplay, confidence
from tunesmith.continual.l2_sp import L2SP
from tunesmith.continual.lwf import LearningWithoutForgetting, divergence
from tunesmith.continual.none import NoStrategy
from tunesmith.continual.synaptic_intelligence import SynapticIntelligence
from tunesmith.tasks._base import Answer
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for, toy_rows
from tunesmith.training.checkpoint import moved
from tunesmith.training.session import Session

COLOURS = [{"text": f"the {c} book {i}", "label": c} for i in range(8) for c in ("red", "blue", "green")]
FILMS = {"name": "films", "train": toy_rows(24), "eval": toy_rows(8)}
OWN = {"name": "colours", "head": "own", "train": COLOURS, "eval": COLOURS[:6]}
MORE = {"name": "colours", "head": "extend", "train": [*toy_rows(6), *COLOURS], "eval": COLOURS[:6]}


def learn(place: Path, models: Path, stages: list[Any], kind: str = "bert", **settings: Any) -> Any:
    return tunesmith.train(
        str(tiny_model(kind, models / kind)), stream={"stages": stages}, output=place, max_steps=3, batch_size=8, device="cpu",
        dtype="float32", doctor=False, **{"technique": "lora", **settings},
    )  # fmt: skip


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Every session, as it was when its last step was over."""
    seen: list[Session] = []
    for cls in (NoStrategy, L2SP):
        monkeypatch.setattr(cls, "after_stage", lambda self, session: seen.append(session))
    return seen


@pytest.mark.parametrize("technique", ["full", "lora"])
@pytest.mark.parametrize("second", [OWN, MORE], ids=["own", "extend"])
def test_l2_sp_leaves_new_outputs_free(
    technique: str, second: Any, tmp_path: Path, models: Path, sessions: list[Session]
) -> None:
    learn(tmp_path / "run", models, [FILMS, second], technique=technique, strategy="l2-sp")
    session = sessions[-1]
    held = session.strategy.start
    of_heads = {n: t for n, t in session.masters.tensors.items() if "classifier" in n and n.endswith("weight")}
    if second is OWN:
        assert [n for n in of_heads if n not in held] == ["colours::classifier.weight"]
    else:
        ((name, weight),) = of_heads.items()
        assert weight.shape[0] == 5 and held[name].shape[0] == 2
    assert any("classifier" not in name for name in held)


@pytest.mark.parametrize("technique", ["full", "lora"])
def test_l2_sp_in_a_first_stage_leaves_the_new_head_free(
    technique: str, tmp_path: Path, models: Path, sessions: list[Session]
) -> None:
    learn(tmp_path / "run", models, [FILMS], technique=technique, strategy="l2-sp", **{"l2-sp": {"first_stage": True}})
    held = sessions[0].strategy.start
    assert held and not any("classifier" in name for name in held)


@pytest.mark.parametrize("technique", ["lora", "feature-based"])
def test_every_head_draws_noise_while_it_learns(
    technique: str, tmp_path: Path, models: Path, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[tuple[list[bool], bool]] = []

    def look(self: Any, session: Session) -> None:
        modes.append((
            [loaded.model.get_submodule(loaded.backbone.head_names[0]).training for loaded in session.heads.loaded.values()],
            session.backbone.layers[0].training,
        ))  # fmt: skip

    monkeypatch.setattr(NoStrategy, "after_backward", look)
    learn(tmp_path / "run", models, [FILMS, OWN], technique=technique, strategy="none")
    base = technique == "lora"
    assert modes[0] == ([True], base) and modes[-1] == ([True, True], base)


def test_the_fisher_is_estimated_without_noise(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every head of a later stage, and it leaves the model learning as before."""
    seen: list[bool] = []
    real = Session.single_rows

    def rows(self: Session, most: int) -> Any:
        for model, task, batch in real(self, most):
            yield model, task, batch
            seen.extend(m.training for m in model.modules() if isinstance(m, torch.nn.Dropout))

    monkeypatch.setattr(Session, "single_rows", rows)
    learn(tmp_path / "run", models, [FILMS, OWN], strategy="ewc", ewc={"rows": 6})
    assert seen and not any(seen)


def test_rows_of_a_fisher_draw_labels_and_masks_of_their_own(
    tmp_path: Path, models: Path, sessions: list[Session]
) -> None:
    texts = {
        "name": "texts",
        "task": "language-modeling",
        "train": [{"text": "the film was very good and bright"}] * 12,
        "eval": [{"text": "a film"}] * 3,
    }
    learn(
        tmp_path / "run",
        models,
        [texts],
        strategy="none",
        **{"language-modeling": {"objective": "masked", "packing": False}},
    )
    places = {tuple((batch["labels"][0] != -100).tolist()) for _, _, batch in sessions[0].single_rows(12)}
    assert len(places) > 1


@pytest.mark.parametrize("problem", ["single-label", "multi-label", "regression"])
def test_how_sure_a_model_is_of_a_made_up_row(problem: str) -> None:
    task = SimpleNamespace(problem=problem)
    answer = {
        "single-label": Answer(1, {"prediction": "a", "score": 0.7}, [0.7]),
        "multi-label": Answer([1, 0], {"prediction": ["a"], "score": {"a": 0.9, "b": 0.3}}, [0.9, 0.3]),
        "regression": Answer(0.1, {"prediction": 0.1}, [0.1]),
    }[problem]
    assert confidence(task, answer) == {"single-label": 0.7, "multi-label": 0.7, "regression": 1.0}[problem]


def test_plain_text_is_not_made_up() -> None:
    cls = registry.load("task", "language-modeling")
    replay = GenerativeReplay(GenerativeReplay.Options())
    assert "have none; take experience-replay" in str(replay.objection(cls(cls.Options()), "decoder"))


def test_made_up_rows_are_learned_as_text_too(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the third stage would ask for rows of the first that nobody learned to write since."""
    added: list[list[str]] = []
    real = GenerativeReplay.extra_batches

    def extra(self: Any, session: Any, passes: Any) -> Any:
        found = real(self, session, passes)
        added.append([each.part for each in found])
        return found

    monkeypatch.setattr(GenerativeReplay, "extra_batches", extra)
    rows = rows_for("instruction", 16)
    stages = [{"name": n, "task": "instruction", "train": rows, "eval": rows[:4]} for n in ("one", "two")]
    learn(
        tmp_path / "run", models, stages, "llama", strategy="generative-replay", instruction={"generate_rows": 0},
        **{"generative-replay": {"texts": "random", "max_tokens": 16, "ratio": 0.5}},
    )  # fmt: skip
    assert added[0] == ["text:one"]
    assert added[-1] == ["replay:one", "text:two", "text:one"]


# ---- learning without forgetting


def test_answers_are_compared_over_what_both_rows_hold() -> None:
    """By hand; a row's masked places depend on that row alone, so a batch can be cut anywhere."""
    inf = -math.inf
    before = torch.tensor([[1.0, 2.0, inf], [0.5, inf, 3.0], [inf, inf, inf]])
    now = torch.tensor([[0.0, 1.0, inf], [0.5, inf, 1.0], [inf, inf, inf]])
    rows = []
    for b, n in (([1.0, 2.0], [0.0, 1.0]), ([0.5, 3.0], [0.5, 1.0])):
        rows.append(F.kl_div(torch.tensor(n).log_softmax(0), torch.tensor(b).softmax(0), reduction="sum"))
    assert float(divergence(before, now)) == pytest.approx(float(sum(rows)), rel=1e-5)
    assert float(divergence(before[:1], now[:1]) + divergence(before[1:], now[1:])) == pytest.approx(
        float(sum(rows)), rel=1e-5
    )
    moving = now.clone().requires_grad_()
    divergence(before, moving).backward()
    assert torch.isfinite(moving.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("problem", ["multi-label", "regression"])
def test_what_is_no_choice_of_one_is_compared_as_what_it_is(problem: str) -> None:
    """Yes and no of every label (a shift of all logits is a change), and squared differences of numbers."""
    task = SimpleNamespace(problem=problem, name="text-classification", owns_head=True)
    strategy = LearningWithoutForgetting(LearningWithoutForgetting.Options(temperature=1.0))
    before, now = torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, 0.0]])
    if problem == "regression":
        before, now = before[:, :1], now[:, :1]
    model = {"old": lambda **_: SimpleNamespace(logits=before), "new": lambda **_: SimpleNamespace(logits=now)}
    strategy.old = SimpleNamespace(heads={"head": SimpleNamespace(model=model["old"])})
    session = SimpleNamespace(heads={"head": SimpleNamespace(model=model["new"])})
    each = SimpleNamespace(task=SimpleNamespace(name="text-classification", model_inputs=lambda batch: {}), batch={})
    found = float(strategy.distance(session, "head", task, each))
    if problem == "regression":
        assert found == pytest.approx(1.0)
        return
    p, q = before.sigmoid(), now.sigmoid()
    assert found == pytest.approx(float((p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()), rel=1e-5)


@pytest.mark.parametrize("strength", [1.0, 0.0])
def test_what_a_model_wrote_is_held_in_another_task(
    strength: float, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[list[str]] = []
    real = LearningWithoutForgetting.extra_batches

    def extra(self: Any, session: Any, passes: Any) -> Any:
        added.append([each.part for each in real(self, session, passes)])
        return real(self, session, passes)

    monkeypatch.setattr(LearningWithoutForgetting, "extra_batches", extra)
    stages = [
        {"name": task, "task": task, "train": rows_for(task, 12), "eval": rows_for(task, 4)}
        for task in ("instruction", "summarization")
    ]
    learn(
        tmp_path / "run", models, stages, "llama", strategy="lwf", lwf={"strength": strength}, instruction={"generate_rows": 0},
        summarization={"generate_rows": 0},
    )  # fmt: skip
    assert added[0] == [] and added[-1] == (["lwf:instruction"] if strength else [])


# ---- states


def test_a_state_moves_as_a_whole() -> None:
    found = moved({"a": [{"w": torch.ones(2)}], "b": {"n": 3, "s": "x"}, "c": None}, "meta")
    assert found["a"][0]["w"].device.type == "meta" and found["b"] == {"n": 3, "s": "x"} and found["c"] is None


def test_the_path_ends_where_the_kept_weights_are(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `keep_best` importance is that of the way to the best weights, not of steps that were taken back."""
    marks: list[Any] = []
    ends: list[Any] = []
    mark, after = SynapticIntelligence.mark, SynapticIntelligence.after_stage
    monkeypatch.setattr(SynapticIntelligence, "mark", lambda self: marks.append(mark(self)) or marks[-1])

    def look(self: Any, session: Any) -> None:
        ends.append(dict(self.path))
        after(self, session)

    monkeypatch.setattr(SynapticIntelligence, "after_stage", look)
    stage = {**FILMS, "validation": toy_rows(8)}
    learn(
        tmp_path / "run", models, [stage], strategy="synaptic-intelligence", learning_rate=3e-2,
        training={"keep_best": True, "evaluate_every": 1},
    )  # fmt: skip
    assert marks and all(torch.equal(ends[0][n], marks[-1][n]) for n in marks[-1])
