"""The prediction of a stage that is ready to learn: its rows, model, technique and feed are the ones that training will take.

Nothing of them is changed: the random state is put back, gradients are dropped, weights are not touched, so that a run is the same bit for bit whether it
was predicted or not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tunesmith.console import say
from tunesmith.continual._base import Strategy
from tunesmith.evaluation import cost
from tunesmith.evaluation.shortage import is_shortage
from tunesmith.plan.clock import pace, seconds_of
from tunesmith.plan.disk import artifact_bytes
from tunesmith.plan.machine import machine
from tunesmith.plan.prediction import Planned, Prediction
from tunesmith.plan.room import Kept, Room, chunked, kept, room
from tunesmith.plan.shapes import Shape, largest, shapes
from tunesmith.plan.waiting import waited
from tunesmith.seeding import derive
from tunesmith.tasks._chunked import FEWEST, NUMBERS
from tunesmith.training.attention import attention_kernel
from tunesmith.training.feed import MixedFeed, Pass
from tunesmith.training.session import Session

MORE = 3.0  # times as large as the largest timed pass: what is seen beyond tensors is not scaled further


@dataclass(frozen=True)
class Known:
    """What the stage knows beside its session.

    Attributes:
        learning: parameters that learn.
        total: all parameters.
        spent: seconds that went into stored features, which count as training time.
        stored: bytes of those features.
        evaluated: bytes of tensors that measuring the rows takes beside a model.
        unknown: why something cannot be said, by its name.
    """

    learning: int
    total: int
    spent: float = 0.0
    stored: int = 0
    evaluated: int = 0
    unknown: Mapping[str, str] = field(default_factory=dict)


def foretell(session: Session, known: Known, *, only_plan: bool) -> dict[str, Any] | None:
    """Say what the fit will cost; None where nobody wants to know.

    Args:
        session: ready for `fit`.
        known: the rest.
        only_plan: nothing more is wanted.

    Raises:
        Planned: then.
    """
    if not (only_plan or session.config.training.plan):
        return None
    found = forecast(session, known)
    if only_plan:
        raise Planned(found)
    say(f"{session.title.removesuffix(session.technique.name)}{found.sentence()}")
    return found.as_json()


def lower_layers_unknown(technique: Any, options: Any) -> dict[str, str]:
    """Why a plan says little of a run that may store the states of frozen layers: it would have to run them all."""
    if technique.layers is None or options.cache_frozen_layers is False:
        return {}
    why = "whether states of frozen layers are stored is decided when they are (training.cache_frozen_layers=false)"
    return {"seconds": why, "memory": why}


def forecast(session: Session, known: Known) -> Prediction:
    """Predict what the fit of a session will cost.

    Args:
        session: ready for `fit`, what stands in for frozen parts installed.
        known: the rest.
    """
    unknown = {**dict(known.unknown), **_beside(session)}
    steps = shapes(session.feed, session.total_steps)
    every = [shape for step in steps for shape in step]
    worst = largest(session.feed, steps, session.total_steps)
    session.objective.before_stage(session)
    held = cost.resident(session.device), cost.peak_memory(session.device)  # before anything of it is tried
    with _undisturbed(session):
        found = _kept(session, worst)
        stands = None if found is None else _room(session, known, found, worst, held)
        seconds = share = None
        if found is None or stands is None:
            unknown.setdefault("memory", "a pass over a few rows could not be counted")
        elif stands.largest < worst.rows:
            unknown.setdefault("seconds", "the largest pass may not fit into memory, so none was timed")
        elif "seconds" not in unknown:
            before = waited()
            seconds, timed = _seconds(session, steps, every, known, unknown)
            after = waited()
            share = None if before is None or after is None else after.since(before)
            stands = _room(session, known, found, worst, held, *_slack(session, found, worst, timed, held[0]))
    return Prediction(
        technique=session.technique.name,
        trainable_parameters=known.learning,
        total_parameters=known.total,
        steps=session.total_steps,
        memory=None if stands is None or "memory" in unknown else stands.parts,
        seconds=seconds,
        artifact_bytes=artifact_bytes(session.heads, session.technique),
        available_bytes=0 if stands is None else stands.available,
        largest_batch=None if stands is None or "memory" in unknown else stands.largest,
        rows=sum(len(feed.rows.lengths) for feed in _feeds(session)),
        architecture="recurrent" if session.backbone.recurrent else session.backbone.kind,
        num_labels=_num_labels(session),
        unknown=unknown,
        waited=share,
    )


def stored_bytes(feed: Any) -> int:
    """Of the features of frozen parts that a feed serves."""
    if isinstance(feed, MixedFeed):
        return 0
    column = (
        feed.lower.stored
        if feed.lower is not None
        else feed.rows.columns.get("states")
        if feed.stand_in is not None
        else None
    )
    return 0 if column is None else int(column.values.nbytes)


def _num_labels(session: Session) -> int | None:
    """Of all heads together, each counted once, one that has none as one answer; None where none has labels."""
    counts = {part.head: part.task.num_labels for part in session.parts.values()}
    return sum(count or 1 for count in counts.values()) if any(counts.values()) else None


def _feeds(session: Session) -> list[Any]:
    """One of each task."""
    return list(session.feed.feeds.values()) if isinstance(session.feed, MixedFeed) else [session.feed]


def _beside(session: Session) -> dict[str, str]:
    """What a step does beside its own passes, which nobody has timed."""
    kind, strategy = type(session.strategy), session.config.strategy
    always = ("after_backward", "after_step")
    looks_back = session.stage_number or getattr(session.strategy.options, "first_stage", False)
    later = ("extra_batches", "penalty") if looks_back else ()
    if any(getattr(kind, name) is not getattr(Strategy, name) for name in (*always, *later)):
        why = f"what the strategy {strategy} adds to a step is not known before"
        return {"seconds": why, "memory": why}
    if session.config.stream is not None and type(session.weighting).__name__ == "PCGrad":
        return {"seconds": "the weighting pcgrad works on gradients in a step"}
    return {}


@contextmanager
def _undisturbed(session: Session) -> Iterator[None]:
    """Inside, the model is in training mode and may be run; behind, all random states and modes are what they were."""
    modules = {module: module.training for loaded in session.heads.loaded.values() for module in loaded.model.modules()}
    devices = [session.device] if session.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(session.config.seed, "plan"))
        session.train_mode()
        try:
            yield
        finally:
            session.masters.forget()
            for module, training in modules.items():
                module.training = training


def _pass(session: Session, shape: Shape) -> Pass:
    """One forward pass as training will make it."""
    rng = np.random.default_rng(derive(shape.feed.seed, "collate", shape.step))
    made = shape.feed.make(shape.places, rng)
    if isinstance(session.feed, MixedFeed):
        made.part = next(name for name, feed in session.feed.feeds.items() if feed is shape.feed)
    made.arm()
    return made


def _both_ways(session: Session, shape: Shape, turn: Callable[[], None] = lambda: None) -> None:
    """A forward and a backward pass whose gradients are dropped; `turn` is called in between."""
    made, masters = _pass(session, shape), session.masters
    with attention_kernel(session.device):
        loss = session.objective.loss(made) / max(made.units, 1.0)
        turn()
        loss.backward()
        del loss
    masters.gather()
    masters.clear()
    if session.device.type == "cuda":
        torch.cuda.synchronize(session.device)


def _kept(session: Session, worst: Shape) -> Kept | None:
    """What the largest pass keeps, counted on a few of its rows."""
    model = worst.feed.model
    shape = getattr(model.config, "text_config", None) or model.config
    width = int(getattr(shape, "vocab_size", 0) or 0)
    found = kept(worst, lambda shape, turn: _both_ways(session, shape, turn), session.heads, width)
    if found is None or not worst.feed.lean or session.config.objective != "supervised":
        return found
    logits = max(FEWEST * width, NUMBERS) * (4 + (2 if session.masters.split else 0))
    return chunked(found, worst.rows, float(logits))


def _room(
    session: Session,
    known: Known,
    found: Kept,
    worst: Shape,
    held: tuple[int, int],
    slack: float = 0.0,
    stays: float = 0.0,
) -> Room:
    every = {id(p): p for p in session.heads.parameters()}.values()
    file_bytes = sum(p.numel() * (4 if p.is_floating_point() else p.element_size()) for p in every)
    most = max(len(feed.lengths) for feed in _feeds(session))
    return room(
        session.heads, session.masters, session.device, found, worst.rows, most, known.stored, file_bytes,
        now=held[0], peak=held[1], slack=slack, stays=stays, best=session.config.training.keep_best, evaluated=known.evaluated,
    )  # fmt: skip


def _slack(session: Session, found: Kept, worst: Shape, timed: list[Shape], before: int) -> tuple[float, float]:
    """What the largest pass will take beyond its tensors, from what the timed ones were seen to take; and that itself, which stays when they are gone.

    A C library's heap has holes where shapes differ, and kernels keep buffers of their own (up to as much again in bf16 on a CPU).
    """
    if session.device.type != "cpu" or not timed:
        return 0.0, 0.0
    masters = session.masters
    numbers = sum(tensor.numel() for tensor in masters.tensors.values())
    left = (2 if masters.split else 4) * numbers
    largest = max(timed, key=lambda shape: shape.area)
    counted = found.of(largest.rows * largest.length / max(worst.length, 1), left)
    grown = cost.resident(session.device) - before - (4 * numbers if masters.split else 0)
    share = found.of(worst.rows, left) / max(counted, 1.0)
    seen = max(0.0, grown - counted)
    return seen * min(share, MORE), seen


def _seconds(
    session: Session, steps: list[list[Shape]], every: list[Shape], known: Known, unknown: dict[str, str]
) -> tuple[float | None, list[Shape]]:
    """Of all steps, and the passes that were timed for it."""
    masters, device = session.masters, session.device
    timed: list[Shape] = []

    def run(shape: Shape) -> None:
        _both_ways(session, shape)
        timed.append(shape)

    try:
        found = pace(every, run)
    except Exception as error:
        if os.environ.get("TUNESMITH_STRICT") and not is_shortage(error):
            raise
        unknown["seconds"] = (
            f"a pass could not be timed ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
        )
        return None, timed
    costs = machine(device.type, masters.split, torch.get_num_threads())
    numbers = sum(tensor.numel() for tensor in masters.tensors.values())
    a_step = costs.seconds(len(masters.tensors), numbers)
    first = (
        costs.byte * (12 if masters.split else 8) * numbers
    )  # moments, and buffers of gradients, appear in the first step
    return known.spent + seconds_of(steps, session.total_steps, found, a_step) + first, timed
