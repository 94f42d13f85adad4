"""Distillation of language models a chunk of logits at a time: equal to the plain way with its gradients, and nothing as large as all logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from objectives.scene import Scene, teacher
from tunesmith import registry
from tunesmith.objectives._divergences import Choices, divergence, log_one_minus, mixture
from tunesmith.objectives._tables import gather
from tunesmith.tasks import _chunked
from tunesmith.tasks._base import IGNORED
from tunesmith.tasks._chunked import BeforeHead, chunked, logits_by_group
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for

CHUNK = 3
DIVERGENCES = ("forward", "reverse", "jensen-shannon")
INSIDE = {"hidden": 1.0, "embeddings": 1.0, "attention": 1.0}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three positions at a time, so that every batch has several chunks."""
    monkeypatch.setattr(_chunked, "NUMBERS", 1)
    monkeypatch.setattr(_chunked, "FEWEST", CHUNK)


class Watch(TorchDispatchMode):
    """The sizes of all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for each in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(each, torch.Tensor):
                self.shapes.add(tuple(each.shape))
        return found


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many chunks the objective has asked for, pass by pass."""
    module, sizes = registry.load("objective", "distillation").__module__, []
    real = chunked

    def counted(states: torch.Tensor, head: nn.Linear, loss_of: Any) -> torch.Tensor:
        sizes.append(0)

        def one(logits: torch.Tensor, places: slice) -> torch.Tensor:
            sizes[-1] += 1
            assert len(logits) == places.stop - places.start <= CHUNK
            found: torch.Tensor = loss_of(logits, places)
            return found

        return real(states, head, one)

    monkeypatch.setattr(f"{module}.chunked", counted)
    return sizes


def top(logits: torch.Tensor, k: int | None, heat: float) -> Choices:
    log_p = (logits / heat).log_softmax(-1)
    if k is None:
        return Choices(log_p)
    values, ids = log_p.topk(k, -1)
    return Choices(values, ids, log_one_minus(values.logsumexp(-1)))


def loss_of(kind: str, k: int | None, said: list[torch.Tensor], labels: torch.Tensor, alpha: float = 0.3) -> Any:
    whole = mixture([top(each, k, 2.0) for each in said], [2.0, 1.0][: len(said)])

    def found(logits: torch.Tensor, places: slice) -> torch.Tensor:
        log_p, log_q = whole.at(places).pair(logits, 2.0)
        truth = F.cross_entropy(logits, labels[places], reduction="sum")
        return alpha * truth + (1 - alpha) * divergence(kind, log_p, log_q, 2.0).sum()

    return found


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("k", [4, None])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learns", ["states", "head", "all"])
def test_it_is_the_plain_loss_with_its_gradients(kind: str, k: int | None, bias: bool, learns: str) -> None:
    """Of states, weight and bias, for every divergence, whole or of the likeliest, from two teachers, with labels mixed in."""
    torch.manual_seed(0)
    head = nn.Linear(6, 11, bias=bias).requires_grad_(learns != "states")
    states = torch.randn(8, 6, requires_grad=learns != "head")
    labels = torch.randint(0, 11, (8,))
    of = loss_of(kind, k, [torch.randn(8, 11), torch.randn(8, 11)], labels)
    ways: list[Callable[[], torch.Tensor]] = [lambda: of(head(states), slice(None))]
    ways += [lambda rows=rows: chunked(states, head, of, rows) for rows in (1, 3, 8, 100)]  # type: ignore[misc]
    found = []
    for way in ways:
        head.zero_grad()
        states.grad = None
        loss = way()
        (0.3 * loss).backward()
        learned = [p for p in (states, *head.parameters()) if p.requires_grad]
        assert all(p.grad is not None for p in learned)
        found.append([loss.detach(), *(p.grad.clone() for p in learned if p.grad is not None)])
    for other in found[1:]:
        for plain, made in zip(found[0], other, strict=True):
            torch.testing.assert_close(made, plain, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(chunked(states, head, of), found[0][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("k", [8, None])
def test_no_tensor_is_as_large_as_the_logits(kind: str, k: int | None) -> None:
    """64 positions over 500 tokens, three at a time: nothing has more numbers than a chunk, or the weight."""
    head = nn.Linear(4, 500, bias=False)
    states, labels = torch.randn(64, 4, requires_grad=True), torch.randint(0, 500, (64,))
    source, theirs = torch.randn(64, 5), torch.randn(5, 500)

    def of(logits: torch.Tensor, places: slice) -> torch.Tensor:
        log_p, log_q = top(source[places] @ theirs, k, 2.0).pair(logits, 2.0)
        return divergence(kind, log_p, log_q, 2.0).sum() + F.cross_entropy(logits, labels[places], reduction="sum")

    with Watch() as seen:
        chunked(states, head, of).backward()
    assert max(torch.Size(shape).numel() for shape in seen.shapes) <= 5 * 500


CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("gpt2", "language-modeling", "full", {"top_k": 4, "divergence": kind}) for kind in DIVERGENCES
]  # fmt: skip
CASES += [("gpt2", "language-modeling", "full", {"top_k": 9999, "divergence": kind}) for kind in DIVERGENCES]
CASES += [("bert", "language-modeling", "full", {"divergence": kind}) for kind in DIVERGENCES]
CASES += [
    ("llama", "language-modeling", "lora", {"top_k": 4}), ("llama", "language-modeling", "lora", {"top_k": 9999, "alpha": 0.0}),
    ("bert", "language-modeling", "lora", {"alpha": 0.0}), ("bert", "language-modeling", "full", INSIDE), ("gpt2", "instruction", "full", {"top_k": 4}),
    ("gpt2", "language-modeling", "full", INSIDE), ("llama", "language-modeling", "prompt-tuning", {"top_k": 4, "hidden": 1.0}),
    ("gpt2", "language-modeling", "full", {"alpha": 1.0, "hidden": 1.0}), ("lstm", "language-modeling", "full", {"top_k": 4}),
    ("t5", "summarization", "full", {"top_k": 4}), ("t5", "summarization", "lora", {"top_k": 9999}), ("t5", "summarization", "full", INSIDE),
    ("bart", "summarization", "full", {"top_k": 4, "divergence": "reverse"}), ("gemma3", "chat", "full", {"top_k": 4, "temperature": 1.0}),
]  # fmt: skip


def learned(scene: Scene) -> tuple[float, torch.Tensor]:
    """The first step's loss, and its gradient of everything that learns, flat."""
    model = scene.model.heads.first.model
    own = list(scene.objective.modules().values())
    for parameter in (*model.parameters(), *own):
        parameter.grad = None
    total = 0.0
    for each in scene.passes():
        loss = scene.objective.loss(each)
        loss.backward()
        total += float(loss.detach())
    gradients = [p.grad.flatten() for p in (*model.parameters(), *own) if p.grad is not None]
    assert gradients
    return total, torch.cat(gradients)


@pytest.mark.parametrize(("kind", "task", "technique", "options"), CASES)
@pytest.mark.parametrize("teachers", [1, 2])
def test_students_learn_the_same(
    kind: str, task: str, technique: str, options: dict[str, Any], teachers: int, tmp_path: Path, models: Path, count: list[int]
) -> None:  # fmt: skip
    """Causal, masked and encoder-decoder; tables and live teachers; beside what is inside them; head learning (full) and frozen (lora)."""
    several = [teacher(models, kind, task, seed=seed) for seed in (5, 6)[:teachers]]
    scene = Scene(
        tmp_path, tiny_model(kind, models / kind), several, task, options=options, technique=technique,
        training={"dropout": 0.0},
    )  # fmt: skip
    assert scene.feed.lean
    found = learned(scene)
    assert count and min(count) > 1
    assert [live.opened.plain for live in scene.taught.live] == [True] * len(scene.taught.live)
    asked = len(count)
    scene.feed.lean = False
    plain = learned(scene)
    assert len(count) == asked
    assert found[0] == pytest.approx(plain[0], rel=1e-5)
    torch.testing.assert_close(found[1], plain[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "options"), [("gpt2", {"top_k": 4}), ("gpt2", {"hidden": 1.0}), ("bert", {})])
def test_neither_models_logits_are_there_at_once(
    kind: str, options: dict[str, Any], tmp_path: Path, models: Path
) -> None:
    name = teacher(models, kind, "language-modeling")
    scene = Scene(tmp_path, tiny_model(kind, models / kind), name, "language-modeling", options=options)
    head = scene.model.heads.first.model.get_output_embeddings()
    vocabulary, width = head.weight.shape
    largest = {}
    for lean in (True, False):
        scene.feed.lean = lean
        learned(scene)  # what is tried once is tried here
        with Watch() as seen:
            learned(scene)
        # rows of all matrices over the vocabulary but the weight itself
        rows = {shape[0] for shape in seen.shapes if len(shape) == 2 and shape[1] == vocabulary} - {width}
        largest[lean] = max(rows)
    positions = max(int((each.batch["labels"] != IGNORED).sum()) for each in scene.passes())
    assert positions > CHUNK and positions != width
    assert largest == {True: CHUNK, False: positions}


@pytest.mark.parametrize("chunks", [True, False])
def test_the_option_says_which_way(chunks: bool, tmp_path: Path, models: Path, count: list[int]) -> None:
    scene = Scene(
        tmp_path, tiny_model("gpt2", models / "gpt2"), teacher(models, "gpt2", "language-modeling"), "language-modeling",
        training={"chunked_loss": chunks},
    )  # fmt: skip
    assert [each.lean for each in scene.passes()] == [chunks] * len(scene.passes())
    learned(scene)
    assert bool(count) == chunks


def capped(models: Path, name: str, scale: float) -> str:
    """A Gemma 2, whose logits are bent behind its output layer; a small scale makes that hard to see."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from tunesmith.testing.models import tiny_tokenizer

    tokenizer = tiny_tokenizer(False)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=30.0, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    torch.manual_seed(1)
    model = Gemma2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=scale)
    model.save_pretrained(models / name)
    tokenizer.save_pretrained(models / name)
    return str(models / name)


@pytest.mark.parametrize("scale", [0.02, 0.5])
def test_a_soft_cap_behind_the_output_layer_keeps_the_plain_way(
    scale: float, tmp_path: Path, models: Path, count: list[int]
) -> None:
    """Of the student: it is not asked for chunks. Of a live teacher: its logits are taken whole, the student's in chunks."""
    bent = capped(tmp_path, f"gemma2-{scale}", scale)
    student = Scene(tmp_path / "a", Path(bent), bent, "language-modeling", options={"alpha": 0.0})
    assert not student.feed.lean and student.loss() == pytest.approx(0, abs=1e-4) and not count
    options = {"hidden": 1.0, "alpha": 0.0}
    scene = Scene(tmp_path / "b", tiny_model("llama", models / "llama"), bent, "language-modeling", options=options)
    found = learned(scene)
    assert count and scene.taught.live[0].opened.plain is False
    scene.feed.lean = False
    plain = learned(scene)
    assert found[0] == pytest.approx(plain[0], rel=1e-5)
    torch.testing.assert_close(found[1], plain[1], rtol=1e-4, atol=1e-5)


def test_long_prompts_do_not_hide_a_soft_cap(tmp_path: Path) -> None:
    """The trial's short rows have a label even where prompts are longer than what is tried."""
    bent = capped(tmp_path, "gemma2", 0.5)
    rows = [
        {"prompt": " ".join((row["prompt"].split() * 90)[:90]), "completion": row["completion"]}
        for row in rows_for("instruction", 16)
    ]
    scene = Scene(
        tmp_path, Path(bent), bent, "instruction", rows=rows, max_length=128, objective="supervised",
    )  # fmt: skip
    assert (
        min(int((each.batch["labels"][row] != IGNORED).nonzero()[0]) for each in scene.passes() for row in range(2))
        > 64
    )
    assert not scene.feed.lean


def test_groups_of_positions_have_their_own_logits() -> None:
    """As many whole groups at a time as fit a chunk, a longer one alone, empty ones too."""
    torch.manual_seed(0)
    head, counts = nn.Linear(4, 7), [0, 2, 1, 5, 0, 1, 1, 1, 1, 0]
    states = torch.randn(sum(counts), 4)
    before = BeforeHead(states, head, torch.zeros(len(states), dtype=torch.long))
    with torch.no_grad(), Watch() as seen:
        found = list(logits_by_group(before, counts))
    assert [len(each) for each in found] == counts
    torch.testing.assert_close(torch.cat(found), head(states))
    assert max(shape[0] for shape in seen.shapes if shape[-1] == 7) == 5
    assert len(list(logits_by_group(before, []))) == 0


def test_what_teachers_said_is_the_same(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables from logits of a few rows at a time are those from all logits of a batch."""
    found = []
    for number, chunks in enumerate((True, False)):
        monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / f"cache-{number}"))
        scene = Scene(
            tmp_path / str(number), tiny_model("llama", models / "llama"), teacher(models, "llama", "language-modeling"), "language-modeling",
            options={"top_k": 4}, training={"chunked_loss": chunks},
        )  # fmt: skip
        assert scene.taught.teachers[0].opened["language-modeling"].plain is (True if chunks else None)
        tables, places = scene.taught.tables[0], range(len(scene.taught.lesson.features))
        found.append({name: gather(tables, places, name, torch.device("cpu")) for name in ("ids", "logp", "rest")})
    for left, right in zip(*(each.values() for each in found), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)
