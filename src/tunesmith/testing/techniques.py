"""A battery that every technique must pass on every architecture it accepts.

Each check states what it would catch; all of them run on tiny random models in fp32, in a second or two.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from tunesmith import registry, seeding
from tunesmith.data.sources import Rows
from tunesmith.errors import TechniqueError
from tunesmith.evaluation.cost import parameters
from tunesmith.models.load import Loaded, load_model, load_tokenizer, locate
from tunesmith.testing.models import tiny_model
from tunesmith.testing.rows import rows_for

RATE = {"full": 3e-3, "feature-based": 3e-2, "prompt-tuning": 3e-2, "prefix-tuning": 3e-2}  # others: 1e-2
STEPS = 160
FITTED = 0.6  # share of the first loss that the battery waits for
EXACT = 1e-5  # fp32 sums in another order on values of size 1


class Bench:
    """One technique on one tiny model, with a batch of toy rows."""

    def __init__(
        self,
        kind: str,
        folder: Path,
        name: str,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        task: str = "text-classification",
        quantization: str = "none",
    ) -> None:
        from datasets import Dataset

        self.name = name
        task_class = registry.load("task", task)
        self.task = task_class(task_class.Options())
        table = Dataset.from_list(rows_for(task))
        self.task.fit(Rows(table, "toy", "toy"))
        self.source = locate(str(tiny_model(kind, folder / kind)))
        technique_class = registry.load("technique", name)
        self.technique = technique_class(
            technique_class.Options.model_validate(dict(options or {})), registry.split_name(name)[1]
        )
        wanted = self.technique.load_options().get("quantization", "none")
        self.quantization = wanted if quantization == "none" else quantization
        self.loaded = self.open(seed)
        records = [dict(row) for row in table]
        encoded = [
            {**feature, "row": row}
            for row, several in enumerate(self.task.encode(records, self.loaded.tokenizer, 48))
            for feature in several
        ]
        self.rows = encoded
        self.batch = self.task.collate(encoded, self.loaded.tokenizer.pad_token_id)

    def open(self, seed: int = 0) -> Loaded:
        """A fresh model under the task's head."""
        tokenizer = load_tokenizer(self.source)
        return load_model(self.source, tokenizer, self.task, seed=seed, quantization=self.quantization)

    def reopen(self, folder: Path) -> None:
        """Open another model folder in place of this one."""
        self.source = locate(str(folder))
        self.loaded = self.open(7)

    def attach(self, seed: int = 1) -> None:
        """Attach with a fixed seed."""
        seeding.seed_everything(seed)
        self.technique.attach(self.loaded.backbone)

    def logits(self, loaded: Loaded | None = None, rows: Any = None) -> torch.Tensor:
        """Logits in evaluation mode."""
        chosen = (loaded or self.loaded).model.eval()
        batch = self.batch if rows is None else self.task.collate(rows, 0)
        with torch.no_grad():
            return logits_of(self.task.forward(chosen, batch))

    def train(self, steps: int = STEPS) -> list[float]:
        """Losses of a few full-batch AdamW steps, dropout off."""
        model = self.loaded.model.eval()
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=RATE.get(self.name, 1e-2), weight_decay=0.0)
        losses = []
        for _ in range(steps):
            loss = self.task.loss(self.task.forward(model, self.batch), self.batch) / len(self.rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if losses[-1] < FITTED * losses[0]:
                break
        return losses


def logits_of(outputs: Any) -> torch.Tensor:
    """What a head says, as one tensor."""
    if hasattr(outputs, "start_logits"):
        return torch.stack([outputs.start_logits, outputs.end_logits], -1).float().clone()
    return outputs.logits.float().clone()


def check_technique(
    name: str, kind: str, folder: Path, options: Mapping[str, Any] | None = None, quantization: str = "none"
) -> None:
    """Run the battery; raises AssertionError with what failed.

    Args:
        name: registry name (`peft:LOHA` too).
        kind: architecture, one of `tunesmith.testing.KINDS`.
        folder: where tiny models are kept.
        options: non-default options to attach with.
        quantization: how the backbone is stored.

    Raises:
        TechniqueError: the technique refuses this model (with its reason).
    """
    check_options(name)
    bench = Bench(kind, folder, name, options, quantization=quantization)
    untouched = bench.logits()
    bench.attach()
    check_start(bench, untouched)
    check_rows_alone(bench)
    frozen = check_counts(bench)
    losses = bench.train()
    assert losses[-1] < FITTED * losses[0], (
        f"{name} on {kind} does not fit 16 rows: loss {losses[0]:.3f} -> {losses[-1]:.3f}"
    )
    check_frozen(bench, frozen)
    check_every_tensor_moved(bench)
    check_saved(bench, kind, folder, options)
    check_repeatable(kind, folder, name, options)


def check_options(name: str) -> None:
    """Options round-trip, and an unknown option is refused (catches a silent typo)."""
    cls = registry.load("technique", name).Options
    defaults = cls()
    assert cls.model_validate(defaults.model_dump(mode="json")) == defaults
    if cls.model_config.get("extra") == "forbid":
        try:
            cls.model_validate({"no_such_option": 1})
        except ValidationError:
            return
        raise AssertionError(f"{name} takes an option it does not know")


def check_start(bench: Bench, untouched: torch.Tensor) -> None:
    """What claims to start as the identity does; what does not has an effect (catches hooks that never fire)."""
    difference = float((bench.logits() - untouched).abs().max())
    if bench.technique.starts_as_identity:
        assert difference <= EXACT, (
            f"{bench.name} claims to start as the identity and changes logits by {difference:.2e}"
        )
    elif bench.name not in ("feature-based",) and not bench.name.startswith("peft:"):
        assert difference > 1e-4, f"{bench.name} is attached and changes nothing"


def check_rows_alone(bench: Bench) -> None:
    """A row in a padded batch scores as the row alone (catches masks and positions that ignore padding)."""
    together = bench.logits()
    shortest = min(range(len(bench.rows)), key=lambda i: len(bench.rows[i]["input_ids"]))
    alone = bench.logits(rows=[bench.rows[shortest]])
    difference = float((together[shortest] - alone[0]).abs().max())
    assert difference <= EXACT, f"{bench.name}: padding changes a row's logits by {difference:.2e}"


def check_counts(bench: Bench) -> dict[str, torch.Tensor]:
    """Learning parameters equal the closed form plus the head; returns copies of everything frozen."""
    backbone = bench.loaded.backbone
    learning, _ = parameters(bench.loaded.model)
    head = sum(p.numel() for _, p in backbone.head_parameters())
    expected = bench.technique.closed_form_count(backbone) + head
    assert learning == expected, f"{bench.name}: {learning} parameters learn, the closed form gives {expected}"
    assert all(p.requires_grad for _, p in backbone.head_parameters()), f"{bench.name} froze the head"
    return {n: p.detach().clone() for n, p in bench.loaded.model.named_parameters() if not p.requires_grad}


def check_frozen(bench: Bench, before: Mapping[str, torch.Tensor]) -> None:
    """Frozen weights are bitwise what they were, and got no gradient."""
    for name, parameter in bench.loaded.model.named_parameters():
        if name in before:
            assert torch.equal(parameter, before[name]), f"{bench.name} changed the frozen `{name}`"
            assert parameter.grad is None, f"{bench.name} computed a gradient for the frozen `{name}`"


def check_every_tensor_moved(bench: Bench) -> None:
    """Everything that learns got a gradient (catches parameters that are declared and never used)."""
    idle = [
        n
        for n, p in bench.loaded.model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.abs().any()) and not unused(bench, n)
    ]
    assert not idle, f"{bench.name}: `{idle[0]}` learns and never got a gradient ({len(idle)} such)"


def unused(bench: Bench, name: str) -> bool:
    """Parameters of the architecture that a short classification never reaches, whatever the technique."""
    # Key biases shift all scores of a query alike, so their gradient is zero in exact arithmetic; embeddings and
    # T5's relative positions are touched where rows have such tokens or distances only.
    return any(
        part in name
        for part in (
            "pooler",
            "embed",
            "shared",
            "wte",
            "wpe",
            "key.bias",
            "k_lin.bias",
            "k_proj.bias",
            "relative_attention_bias",
            "lm_head",
        )
    ) and bench.technique.name in ("full", "bitfit")


def check_saved(bench: Bench, kind: str, folder: Path, options: Mapping[str, Any] | None) -> None:
    """Export, open on a fresh model, restore: the same logits (catches a head or buffer left behind)."""
    trained = bench.logits()
    with tempfile.TemporaryDirectory() as place:
        saved = Path(place)
        bench.technique.export(bench.loaded.backbone, saved, bench.source.path)
        again = Bench(
            kind, folder, bench.name, options, seed=7, quantization=bench.quantization
        )  # another head: the saved one must replace it
        if bench.technique.saves == "model":
            bench.loaded.tokenizer.save_pretrained(saved)
            again.reopen(saved)
        else:
            again.attach(seed=2)
        again.technique.restore(again.loaded.backbone, saved)
        difference = float((again.logits() - trained).abs().max())
    assert difference <= 1e-6, f"{bench.name}: saved and opened again, logits differ by {difference:.2e}"


def check_repeatable(kind: str, folder: Path, name: str, options: Mapping[str, Any] | None) -> None:
    """The same seed gives bitwise the same losses."""
    runs = []
    for _ in range(2):
        bench = Bench(kind, folder, name, options)
        bench.attach(seed=3)
        runs.append(bench.train(3))
    assert runs[0] == runs[1], f"{name}: two runs with one seed differ: {runs}"


def refusal(name: str, kind: str, folder: Path, options: Mapping[str, Any] | None = None) -> str | None:
    """Why a technique refuses a model, or None."""
    bench = Bench(kind, folder, name, options)
    try:
        bench.attach()
    except TechniqueError as error:
        return str(error)
    return None
