"""Every technique on every task on every architecture, tried on tiny random models.

    python -m tunesmith.testing.matrix > docs/matrix.md

A cell attaches a technique to a model under a task's head and checks that three steps lower the loss, that only what was declared
moves, that what was saved and opened again scores the same, that a row in a padded batch scores as the row alone, and, where the
model writes, that it writes the same with and without a cache. What cannot make sense is refused with a sentence.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tunesmith import registry
from tunesmith.errors import ModelError, TechniqueError
from tunesmith.testing.models import KINDS, RECURRENT, RELATED
from tunesmith.testing.techniques import Bench

TECHNIQUES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("full", "full", {}),
    ("feature-based", "feature-based", {}),
    ("bitfit", "bitfit", {}),
    ("adapter (Houlsby)", "adapter", {"placement": "houlsby"}),
    ("adapter (Pfeiffer)", "adapter", {"placement": "pfeiffer"}),
    ("adapter (parallel)", "adapter", {"placement": "parallel"}),
    ("lora", "lora", {"rank": 4}),
    ("dora", "dora", {"rank": 4}),
    ("ia3", "ia3", {}),
    ("prompt-tuning", "prompt-tuning", {"length": 4}),
    ("prefix-tuning", "prefix-tuning", {"length": 4}),
    ("peft:VERA", "peft:VERA", {"r": 8}),
)
ARCHITECTURES = (*KINDS, *RELATED, *RECURRENT)
STEPS = 3
RATE = 5e-4
PADDED = 1e-4  # a row alone against a row in a batch: fp32 sums in another order
EXACT = 1e-6


def tasks() -> list[str]:
    """Every registered task but those that are another one in another form: their cells are those of `instruction`."""
    return [name for name in registry.names("task") if not registry.load("task", name).wraps]


def cell(technique: str, options: dict[str, Any], task: str, kind: str, folder: Path) -> str:
    """`ok`, `refused: reason` or `FAIL: what`, for one technique, task and architecture."""
    try:
        check_cell(technique, options, task, kind, folder)
    except (TechniqueError, ModelError) as error:
        return f"refused: {str(error).splitlines()[0]}"
    except Exception as error:  # the probe reports whatever breaks
        return f"FAIL: {type(error).__name__}: {(str(error) or 'no message').splitlines()[0][:160]}"
    return "ok"


def check_cell(technique: str, options: dict[str, Any], task: str, kind: str, folder: Path) -> None:
    """All checks of one cell.

    Raises:
        TechniqueError: the technique refuses the model or task.
        ModelError: the task refuses the model.
        AssertionError: something is wrong.
    """
    bench = Bench(kind, folder, technique, options, task=task)
    bench.attach()
    model: Any = bench.loaded.model
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    learning = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    assert learning, "nothing learns"
    check_padding(bench)
    first, last = train(bench)
    assert last < first, f"loss {first:.4f} -> {last:.4f} in {STEPS} steps"
    moved = False
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), f"the frozen `{name}` moved"
        else:
            moved = moved or not torch.equal(parameter, learning[name])
    assert moved, "nothing moved"
    check_saved(bench, technique, options, task, kind, folder)
    if task in ("summarization", "instruction", "chat"):
        check_writing(bench)


def train(bench: Bench) -> tuple[float, float]:
    """Losses before and after a few full-batch steps, dropout off."""
    model = bench.loaded.model.eval()
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.0)
    losses = []
    for _ in range(STEPS):
        loss = bench.task.loss(bench.task.forward(model, bench.batch), bench.batch) / bench.task.units(bench.batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        final = bench.task.loss(bench.task.forward(model, bench.batch), bench.batch) / bench.task.units(bench.batch)
    return losses[0], float(final)


def check_padding(bench: Bench) -> None:
    """The shortest row alone scores as in the padded batch."""
    model = bench.loaded.model.eval()
    shortest = min(range(len(bench.rows)), key=lambda i: len(bench.rows[i]["input_ids"]))
    longest = max(range(len(bench.rows)), key=lambda i: len(bench.rows[i]["input_ids"]))
    with torch.no_grad():
        sums = []
        for rows in ([bench.rows[shortest]], [bench.rows[longest]], [bench.rows[shortest], bench.rows[longest]]):
            batch = bench.task.collate(rows, bench.loaded.tokenizer.pad_token_id)
            sums.append(float(bench.task.loss(bench.task.forward(model, batch), batch)))
    difference = abs(sums[0] + sums[1] - sums[2])
    assert difference <= PADDED * max(1.0, sums[2]), f"padding changes the loss by {difference:.2e}"


def check_saved(bench: Bench, technique: str, options: dict[str, Any], task: str, kind: str, folder: Path) -> None:
    """Export, open on a fresh model, restore: the same logits."""
    trained = bench.logits()
    with tempfile.TemporaryDirectory() as place:
        saved = Path(place)
        bench.technique.export(bench.loaded.backbone, saved, bench.source.path)
        again = Bench(
            kind, folder, technique, options, seed=7, task=task
        )  # another head: the saved one must replace it
        if bench.technique.saves == "model":
            bench.loaded.tokenizer.save_pretrained(saved)
            again.reopen(saved)
        else:
            again.attach(seed=2)
        again.technique.restore(again.loaded.backbone, saved)
        difference = float((again.logits() - trained).abs().max())
    assert difference <= EXACT, f"saved and opened again, logits differ by {difference:.2e}"


def check_writing(bench: Bench) -> None:
    """Greedy texts with a cache, without one, and of a row alone are the same."""
    task, model = bench.task, bench.loaded.model.eval()
    plain = task.generation
    features = bench.rows[:3]
    with torch.no_grad():
        texts = []
        for cached in (True, False):
            task.generation = lambda *a, use=cached: _with(plain(*a), use_cache=use, max_new_tokens=6)
            texts.append(task.write(model, features))
        alone = [task.write(model, [feature])[0] for feature in features[:1]]
    task.generation = plain
    assert texts[0] == texts[1], "text with a cache differs from text without"
    assert alone == texts[1][:1], "a row in a batch is continued otherwise than the row alone"


def _with(config: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(config, name, value)
    return config


def column(task: str, kind: str, folder: Path) -> dict[str, str]:
    """The cells of all techniques on one task and architecture."""
    torch.manual_seed(0)
    return {label: cell(technique, options, task, kind, folder) for label, technique, options in TECHNIQUES}


def tables(cells: dict[tuple[str, str], dict[str, str]]) -> Iterator[str]:
    """Markdown of the whole matrix: a count, a table a task, and the reasons of what is refused."""
    values = [value for found in cells.values() for value in found.values()]
    good, refused = sum(v == "ok" for v in values), sum(v.startswith("refused") for v in values)
    yield "# Technique x task x architecture\n"
    yield (
        "Generated by `python -m tunesmith.testing.matrix > docs/matrix.md`; a test fails when it is stale. Each cell was tried on a tiny "
        "random model: three steps lower the loss, only declared parameters move, saving and opening is exact, padding changes "
        "nothing, and text is the same with and without a cache.\n"
    )
    yield f"**{len(values)} cells: {good} ok, {refused} refused with a reason, {len(values) - good - refused} failing.**\n"
    reasons: dict[str, int] = {}
    for task in dict.fromkeys(task for task, _ in cells):
        kinds = [kind for t, kind in cells if t == task]
        yield f"## {task}\n"
        yield "| | " + " | ".join(kinds) + " |"
        yield "|---" * (len(kinds) + 1) + "|"
        for label, _, _ in TECHNIQUES:
            shown = []
            for kind in kinds:
                value = cells[task, kind][label]
                if value.startswith("refused"):
                    number = reasons.setdefault(value.removeprefix("refused: "), len(reasons) + 1)
                    shown.append(f"refused ({number})")
                else:
                    shown.append(value)
            yield f"| {label} | " + " | ".join(shown) + " |"
        yield ""
    yield "## Why cells are refused\n"
    for reason, number in reasons.items():
        yield f"{number}. {reason}"


def main() -> None:
    """Print the matrix."""
    import logging

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        cells = {(task, kind): column(task, kind, Path(place)) for task in tasks() for kind in ARCHITECTURES}
    print("\n".join(tables(cells)))


if __name__ == "__main__":
    main()
