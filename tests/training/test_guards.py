"""Every pitfall is noticed in a run that has it, once and with its remedy, and in no healthy one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tunesmith
from tunesmith.cli.show import show
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import toy_rows
from tunesmith.training import loop
from tunesmith.training.diverged import Diverged
from tunesmith.training.guards import Watch, guards
from tunesmith.training.log import read

HEALTHY = sorted((Path(__file__).parent / "healthy").glob("*.jsonl"))


def go(place: Path, models: Path, kind: str = "bert", **settings: Any) -> tunesmith.RunResult:
    training = {"log_every": 1, **settings.pop("training", {})}
    given: dict[str, Any] = {
        "technique": "lora", "max_steps": 24, "batch_size": 8, "dtype": "float32", "doctor": False, "device": "cpu", "learning_rate": 1e-3,
        "train": toy_rows(32), "eval": toy_rows(16), "training": training, **settings,
    }  # fmt: skip
    return tunesmith.train(str(tiny_model(kind, models / kind)), output=place, **given)


def noticed(run: tunesmith.RunResult) -> dict[str, str]:
    return {each["guard"]: each["message"] for each in run.result["training"]["warnings"]}


def lines(*losses: float, **more: Any) -> list[dict[str, Any]]:
    """Training lines with these losses, ten steps apart."""
    usual = {"event": "train", "gradient_norm": 1.0, "learning_rate": 1e-4, "layers": {"layer.0": 0.5, "layer.1": 0.8}}
    return [{**usual, "step": 10 * (i + 1), "loss": loss, **more} for i, loss in enumerate(losses)]


def said(*each: dict[str, Any]) -> dict[str, str]:
    watch = Watch(lambda sentence: None)
    for line in each:
        watch.add(line)
    return {found["guard"]: found["message"] for found in watch.warnings}


# ---- silence


@pytest.mark.parametrize("log", HEALTHY, ids=[path.stem for path in HEALTHY])
def test_a_healthy_run_is_passed_over(log: Path) -> None:
    """Logs of real runs, the measurement behind them as the last line."""
    found = read(log)
    assert len(found) >= 8
    assert said(*found) == {}


def test_there_are_healthy_runs() -> None:
    assert len(HEALTHY) >= 6


def test_a_tiny_run_is_passed_over(tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = go(tmp_path, models, learning_rate=1e-2, training={"evaluations": 4})
    assert noticed(run) == {}
    assert "warning" not in capsys.readouterr().err
    assert run.metrics["accuracy"] > 0.9


# ---- each of them, in a run


def test_a_rate_that_is_too_high(tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = go(tmp_path, models, technique="full", learning_rate=0.5)
    found = noticed(run)
    assert "the learning rate (0.5) is too high" in found["rate-too-high"]
    assert "--find-learning-rate" in found["rate-too-high"]
    assert "too high for this model" in " ".join(capsys.readouterr().err.split())
    show(run.folder, as_json=False)
    assert "Noticed at step 24: the training loss ended at" in " ".join(capsys.readouterr().out.split())


def test_they_can_be_turned_off(tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = go(tmp_path, models, technique="full", learning_rate=0.5, training={"guards": False})
    assert noticed(run) == {}
    assert "warning" not in capsys.readouterr().err


def test_a_rate_that_is_too_low(tmp_path: Path, models: Path) -> None:
    found = noticed(go(tmp_path, models, learning_rate=1e-8, training={"dropout": 0.0, "head_learning_rate": None}))
    assert "at a learning rate of 1e-08 nothing moves" in found["rate-too-low"]


def test_overfitting(tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is learned is wrong of the other rows."""
    flipped = [{**row, "label": "positive" if row["label"] == "negative" else "negative"} for row in toy_rows(16)]
    settings: dict[str, Any] = {"technique": "full", "eval": flipped, "learning_rate": 1e-2, "max_steps": 40}
    found = noticed(go(tmp_path / "watched", models, training={"evaluations": 8}, **settings))
    assert "keep the best (training.keep_best=true)" in found["overfitting"]
    seldom = noticed(go(tmp_path / "seldom", models, training={"evaluations": 2}, **settings))
    assert "that training began with" in seldom["overfitting"]
    assert "overfitting" not in noticed(go(tmp_path / "blind", models, training={"evaluations": 1}, **settings))


def measured(step: int, loss: float) -> dict[str, Any]:
    return {"event": "evaluate", "step": step, "split": "eval", "metrics": {"loss": loss}}


@pytest.mark.parametrize(
    ("losses", "warned"),
    [((1.3, 1.64), True), ((1.64, 1.3), False), ((0.7, 0.85), False), ((0.7, 0.72), False)],
    ids=["rose above the start", "falls", "rose a little above the start", "hardly rose"],
)
def test_overfitting_that_is_measured_twice(losses: tuple[float, float], warned: bool) -> None:
    """The first evaluation of a run of few rows and many steps comes when it has overfitted already."""
    trained = lines(0.7, 0.1, 0.05, 0.001)
    found = said(*trained[:2], measured(20, losses[0]), *trained[2:], measured(40, losses[1]))
    assert ("overfitting" in found) == warned


def test_rows_of_another_kind_are_no_overfitting() -> None:
    """Their loss is above that of the training rows from the beginning, and training has not fallen by half."""
    trained = lines(3.0, 2.5, 2.2, 2.0)
    assert said(*trained[:2], measured(20, 5.0), *trained[2:], measured(40, 5.1)) == {}


def test_parameters_that_nothing_reads(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.techniques.bitfit import BitFit

    monkeypatch.setattr(
        "tunesmith.artifacts.verify.verify_run", lambda folder: {}
    )  # in a process that knows nothing of this
    attach = BitFit.attach

    def dead(self: Any, backbone: Any) -> None:
        attach(self, backbone)
        backbone.model.unread = torch.nn.Parameter(torch.ones(3))

    monkeypatch.setattr(BitFit, "attach", dead)
    found = noticed(go(tmp_path, models, technique="bitfit"))["dead-parameters"]
    assert found.startswith("1 of ") and "(unread)" in found


def test_one_answer_for_every_row(tmp_path: Path, models: Path) -> None:
    rows = [{"text": row["text"], "label": "positive"} for row in toy_rows(30)] + toy_rows(2)
    found = noticed(go(tmp_path, models, train=rows, eval=toy_rows(16), learning_rate=3e-3))["one-answer"]
    assert found.startswith("of all 16 eval rows the model says `positive`, which is right for 50%")


def test_what_was_to_be_retained(tmp_path: Path, models: Path) -> None:
    import transformers

    place = tmp_path / "writer"
    folder = tiny_model("llama", models / "llama")
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(place)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    rows = [{"prompt": row["text"], "completion": "i love the film"} for row in toy_rows(16)]
    text = tmp_path / "general.txt"
    text.write_text("\n".join(row["text"] for row in toy_rows(40)), encoding="utf-8")
    calm, wild = (
        tunesmith.train(
            str(place), task="instruction", train=rows, eval=rows[:8], retain=str(text), technique="full", learning_rate=rate, max_steps=12,
            batch_size=8, dtype="float32", doctor=False, device="cpu", training={"log_every": 1}, output=tmp_path / name,
        )
        for name, rate in (("calm", 1e-6), ("wild", 0.05))
    )  # fmt: skip
    assert "forgetting" not in noticed(calm)
    assert "is forgotten: bits per byte went from" in noticed(wild)["forgetting"]


def test_a_deep_network_without_gates(tmp_path: Path, models: Path) -> None:
    """Through eight layers of small weights nothing comes back to the first."""
    import transformers

    from tunesmith.testing.models import tiny_tokenizer

    place = tmp_path / "deep"
    tokenizer = tiny_tokenizer(False)
    from tunesmith.models.recurrent import RecurrentConfig

    config = RecurrentConfig(
        cell="rnn",
        hidden_size=32,
        num_hidden_layers=8,
        vocab_size=len(tokenizer),
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "in_proj" in name:
                parameter.mul_(0.02)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    run = tunesmith.train(
        str(place), train=toy_rows(32), eval=toy_rows(8), technique="full", max_steps=6, batch_size=8, dtype="float32", doctor=False, device="cpu",
        training={"log_every": 1}, output=tmp_path / "run",
    )  # fmt: skip
    assert "hardly any gradient reaches" in noticed(run)["vanishing-gradients"]
    assert "vanishing-gradients" not in noticed(go(tmp_path / "shallow", models, "rnn", technique="full", max_steps=6))


# ---- those that a run cannot be made to have at will, on lines


def test_a_jump_of_the_loss() -> None:
    calm = [2.0, 1.9, 2.1, 1.8, 1.9, 1.7, 1.8, 1.6, 1.7, 1.6]
    assert said(*lines(*calm, 1.9)) == {}
    found = said(*lines(*calm, 5.0, 5.5))
    assert list(found) == ["loss-spike"] and "jumped to 5 at step 110, from about 1.8 before" in found["loss-spike"]


def test_gradients_that_explode() -> None:
    calm = lines(*[1.0] * 8)
    wild = lines(*[1.0] * 9, gradient_norm=80.0, layers={"layer.0": 79.0, "layer.1": 10.0})[-1]
    assert said(*calm, {**wild, "gradient_norm": 15.0}) == {}
    found = said(*calm, wild)
    assert "most of it in layer.0, 80 times what it was" in found["exploding-gradients"]


def test_each_speaks_once(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    watch = Watch(heard.append)
    for line in lines(*[1.0] * 10, *[9.0] * 5):
        watch.add(line)
    assert len(heard) == len(watch.warnings) == 1


def test_every_guard_has_a_name_of_its_own() -> None:
    found = [guard.name for guard in guards()]
    assert len(set(found)) == len(found) == 9


# ---- not a number


def poison(monkeypatch: pytest.MonkeyPatch, step: int, what: str) -> None:
    """In one step the loss, or the gradient behind a fine loss, is not a number."""
    real = loop._gradients

    def poisoned(session: Any, passes: Any, accelerator: Any, readings: Any) -> None:
        if session.step + 1 == step and what == "loss":
            for each in passes:
                each.loss = lambda this: session.objective.loss(this) * float("nan")
        real(session, passes, accelerator, readings)
        if session.step + 1 == step and what == "gradient":
            next(iter(session.masters.tensors.values())).grad.fill_(float("inf"))

    monkeypatch.setattr(loop, "_gradients", poisoned)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_stops_before_it_is_learned_from_and_names_the_rows(
    what: str, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 4, what)
    moved: list[int] = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *args: moved.append(1) or real(self, *args))
    with pytest.raises(
        Diverged, match=r"is (nan|inf) at step 4, .*The rows of that pass are in .*diverged\.jsonl: .*row \d+"
    ) as caught:
        go(tmp_path, models)
    assert len(moved) == 3
    kept = [json.loads(line) for line in (tmp_path / "diverged.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(kept) == (8 if what == "gradient" else len(caught.value.rows[""]))
    assert all(each["step"] == 4 and each["row"]["text"] and each["at"] for each in kept)
    texts = {row["text"] for row in toy_rows(32)}
    assert {each["row"]["text"] for each in kept} <= texts


def test_a_resumed_run_notices_the_same(tmp_path: Path, models: Path, power_cut: Any) -> None:
    settings: dict[str, Any] = {"technique": "full", "learning_rate": 0.5, "training": {"checkpoint_every": 5}}
    whole = go(tmp_path / "whole", models, **settings)
    with power_cut(18):
        go(tmp_path / "cut", models, **settings)
    again = tunesmith.resume(tmp_path / "cut")
    assert again["training"]["warnings"] == whole.result["training"]["warnings"] != []


def test_what_is_replaced_does_not_learn(tmp_path: Path, models: Path) -> None:
    """Features are pooled in place of a pooler; one that came without weights would never get a gradient."""
    import transformers

    folder, place = tiny_model("bert", models / "bert"), tmp_path / "without a pooler"
    transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(place)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    for pooling, learning in (("mean", 2 * 32 + 2 + 4), ("native", 2 * 32 + 2 + 32 * 32 + 32)):
        run = tunesmith.train(
            str(place), train=toy_rows(32), eval=toy_rows(16), technique="feature-based", max_steps=12, doctor=False, device="cpu",
            output=tmp_path / pooling, **{"feature-based": {"pooling": pooling}},
        )  # fmt: skip
        assert "dead-parameters" not in noticed(run)
        assert run.result["cost"]["trainable_parameters"] == learning
