"""One stage of a stream, prepared: the technique attached, one fit, one artifact."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith import config as configuration
from tunesmith import frozen
from tunesmith.console import say, warn
from tunesmith.preparation import Model, Part
from tunesmith.stream import Stage, file_name

if TYPE_CHECKING:
    from tunesmith.objectives._base import Lesson

DEFAULT_EPOCHS = 3.0
MEAN = "mean_score"
"""The mean of the primary metrics of a stage with several tasks, each so that higher is better."""


@dataclass
class Turn:
    """A stage's place in its stream.

    Attributes:
        stage: what is learned.
        number: from 0.
        of: how many there are.
        parts: its tasks.
        earlier: the tasks of the stages before.
        strategy: how those are kept.
        alone: the stream is this one stage, with one task.
        snapshot: opens the model as the stage before left it.
        nested: carries out a run of its own, for strategies that train a model beside.
        known: what learns and was there before the stage, with its shape.
        only_plan: stop (`plan.prediction.Planned`) where the first step would be taken.
        held: bytes of tensors that measuring its rows takes beside the model.
        keep: called with the session and what was learned before the artifact is written: what the next stage must know is on disk first.
    """

    stage: Stage
    number: int
    of: int
    parts: dict[str, Part]
    earlier: dict[str, Part]
    strategy: Any
    alone: bool
    snapshot: Callable[[], Any] | None = None
    keep: Callable[[Any, Mapping[str, Any]], None] = lambda session, learned: None
    nested: Callable[[Mapping[str, Any], str], str] | None = None
    known: Mapping[str, Sequence[int]] = field(default_factory=dict)
    only_plan: bool = False
    held: int = 0

    @property
    def title(self) -> str:
        """Which stage of how many, for people; nothing for a plain run."""
        return "" if self.alone else f"stage {self.number + 1} of {self.of}, {self.stage.name}: "


def shapes(heads: Any) -> dict[str, tuple[int, ...]]:
    """What learns, with its shape."""
    return {name: tuple(p.shape) for name, p in heads.named_parameters() if p.requires_grad}


def _there_from_the_start(heads: Any) -> dict[str, tuple[int, ...]]:
    """What learns in the first stage but for its heads, which may be new."""
    of_heads = {id(p) for loaded in heads.loaded.values() for _, p in loaded.backbone.head_parameters()}
    return {name: tuple(p.shape) for name, p in heads.named_parameters() if p.requires_grad and id(p) not in of_heads}


def learn(model: Model, turn: Turn, *, resume: bool, before_fit: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Attach the technique (in the first stage), train, and save the artifact.

    Args:
        model: with the heads of the stage.
        turn: which stage.
        resume: go on from the stage's newest checkpoint.
        before_fit: called once everything that can be refused has been.
    """
    import torch

    from tunesmith import seeding
    from tunesmith.artifacts import store as artifacts
    from tunesmith.artifacts.use import load
    from tunesmith.data.task_inference import TaskInference, text_of
    from tunesmith.evaluation import cost
    from tunesmith.evaluation.shortage import give_back
    from tunesmith.models import new
    from tunesmith.models.recorder import Recorder
    from tunesmith.plan.forecast import Known, foretell, lower_layers_unknown, stored_bytes
    from tunesmith.run_folder import decide, decided, resume_step
    from tunesmith.techniques._rate import usual_rate
    from tunesmith.training import dropout, fused_lora, group, memory, norms, shards
    from tunesmith.training.compiled import compiled
    from tunesmith.training.diverged import Diverged, with_rows
    from tunesmith.training.head_rate import head_rate
    from tunesmith.training.log import MetricsLog
    from tunesmith.training.loop import fit
    from tunesmith.training.precision import Masters, pick_dtype
    from tunesmith.training.session import Session
    from tunesmith.training.weighting import KINDS

    config, technique, heads, options = model.config, model.technique, model.heads, model.config.training
    stage, several = turn.stage, group.current()
    several.meet()
    resting = attach(model, turn)
    known = turn.known if turn.number else _there_from_the_start(heads)
    if not turn.alone:  # what a strategy draws must not depend on what this process has drawn before
        seeding.seed_everything(seeding.derive(config.seed, "strategy", stage.name))
    turn.strategy.before_model(heads, turn.number, turn.parts)
    objective = model.objective
    place = "" if turn.alone else f"{turn.number:02d}-{file_name(stage.name)}"
    checkpoints = model.folder / "checkpoints" / place if place else model.folder / "checkpoints"
    before = several.same(lambda: decided(checkpoints) if resume else {})
    objective.prepare(ground_of(model, turn.parts, place))
    own = {**turn.strategy.modules(), **objective.modules()}
    learning, total = (n + sum(p.numel() for p in own.values()) for n in cost.parameters(heads))
    rows, stand_in, spent = None, None, 0.0
    only = next(iter(turn.parts.values()))
    inside = objective.required_outputs()
    dtype, why = pick_dtype(before.get("dtype", config.dtype), model.device, total)
    dtype = getattr(torch, several.same(lambda: str(dtype).removeprefix("torch.")))
    if several.shards:
        shards.refuse(config, technique, len(turn.parts))
        dtype, why = torch.float32, "its blocks are shared out"
    elif options.shard:
        warn("training.shard=true has no effect in one process; start several, for example with torchrun.")
    chosen: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch.")}
    tasks = [part.task for part in turn.parts.values()]
    rate = stage.learning_rate or config.learning_rate or usual_rate(config, technique, tasks)
    begun = frozenset() if turn.only_plan else model.fresh_heads(known)
    readers = [(p.task, heads[p.head], p.encoded["train"]) for p in turn.parts.values() if heads.fresh(p.head) & begun]
    asked = options.head_learning_rate
    quicker = several.same(
        lambda: before.get("head_rate") if before and asked == "auto" else head_rate(asked, readers, rate)
    )
    chosen["head_rate"] = quicker
    if (
        turn.alone
        and technique.cache_boundary == "base"
        and technique.options.cache
        and not only.task.redraws
        and not inside
    ):
        rows, stand_in, spent = frozen.features_of(
            model, only, lesson_of(objective, only), dtype, only_plan=turn.only_plan
        )
        dtype, why = torch.float32, ""  # where nothing below the head runs, half precision has nothing to speed up
    for loaded in heads.loaded.values():
        dropout.install(loaded.model)
        norms.install(loaded.model, model.device)
        if options.fused_lora:
            fused_lora.install(loaded.model)
    recorder = Recorder(heads.backbone, inside) if inside else None  # all heads stand on one backbone
    fresh = configuration.is_new(config.model)
    usual_epochs = config.epochs or (new.EPOCHS if fresh else DEFAULT_EPOCHS)
    planned = turn.strategy.steps_by_task(lengths_of(model, turn), usual_epochs, config.batch_size)
    feed, packed = make_feed(model, turn, rows, stand_in, recorder, planned)
    cut = shards.Shards(heads.backbone, several) if several.shards else None
    whole = technique.saves == "model"
    masters = cut.masters(heads) if cut else Masters(heads, dtype, own, keep_frozen=whole)
    if masters.split:
        give_back()  # the exact weights that copies stand for now
    if "micro" in before:
        feed.limit(before["micro"] * several.size)
    if options.gradient_checkpointing is None and cut is None:
        memory.make_room(heads, feed, learning, model.device, halve=options.auto_micro_batch)
    feed.limit(several.same(lambda: feed.micro))
    steps = stage.max_steps or (None if stage.epochs else config.max_steps)
    steps = steps or math.ceil(feed.steps_per_epoch * (stage.epochs or usual_epochs))
    if planned:
        steps = math.ceil(sum(planned.values()))
    kind = str(dtype).removeprefix("torch.")
    count = sum(lesson_rows(objective, part) for part in turn.parts.values())
    amount = f"{count:,} rows" + (f" in {packed:,} packed sequences" if packed else "")
    has_head = any(loaded.backbone.head_names for loaded in heads.loaded.values())
    higher = quicker if has_head and (quicker or 0.0) > rate else None
    say(
        f"{turn.title}{technique.name} on {config.model}: {learning:,} of {total:,} parameters learn, {amount}, "
        f"{steps:,} steps of {config.batch_size} at {rate:g}{f' (heads {higher:g})' if higher else ''}, {kind} on {model.device}{f' ({why})' if why else ''}"
        f"{f', in {several.size} processes' if several.size > 1 else ''}."
    )
    if stand_in is None and turn.alone and cut is None:
        wanted = before.get("cached_layers", False if turn.only_plan else options.cache_frozen_layers)
        stand_in, spent = frozen.lower_layers(model, only, lesson_of(objective, only), feed, dtype, steps, wanted)
    left_out = lower_layers_unknown(technique, options) if turn.only_plan and turn.alone else {}
    before_fit()
    chosen |= {"micro": -(-feed.micro // several.size), "cached_layers": bool(getattr(feed, "lower", None))}
    decide(checkpoints, {**chosen, "plan": before.get("plan")})
    measured_on = "validation" if all("validation" in part.encoded for part in turn.parts.values()) else "eval"
    held = sum(len(part.encoded[measured_on]) for part in turn.parts.values())
    work = count if stand_in is not None else 3.0 * steps * config.batch_size  # in forward passes of a row
    every = options.every(steps, feed.steps_per_epoch, work / max(held, 1))

    def measure() -> dict[str, float]:
        if stand_in is not None:
            stand_in.remove()
        found = several.measured(
            lambda: {name: model.measure(part, measured_on, measured_on).metrics for name, part in turn.parts.items()}
        )
        if stand_in is not None:
            stand_in.install()
        return together(found, turn.parts)

    seeding.seed_everything(
        seeding.derive(config.seed, "fit") if turn.alone else seeding.derive(config.seed, "fit", stage.name)
    )
    log = MetricsLog(
        model.folder / "metrics.jsonl",
        resume_after=resume_step(checkpoints) if resume else None,
        stage=None if turn.alone else stage.name,
    )
    session = Session(
        config=config, folder=model.folder, heads=heads, technique=technique,
        objective=objective, strategy=turn.strategy, weighting=KINDS[stage.weighting](list(turn.parts), config.seed), feed=feed, masters=masters,
        device=model.device, learning_rate=rate, total_steps=steps, log=log, measure=measure, measured_on=measured_on,
        primary=only.task.primary if len(turn.parts) == 1 else MEAN, higher_is_better=only.task.higher_is_better if len(turn.parts) == 1 else True,
        evaluate_every=every, resume=resume, title=f"{turn.title}{technique.name}", stage=place, stage_number=turn.number, parts=turn.parts, earlier=turn.earlier, known=known,
        fresh=begun, head_rate=quicker, snapshot=turn.snapshot, nested=turn.nested, open=lambda path: load(path, device=str(model.device)),
    )  # fmt: skip
    if stand_in is not None:
        stand_in.install()
    if recorder is not None:
        recorder.install()
    try:
        facts = Known(learning, total, spent, stored_bytes(feed), turn.held, left_out)
        predicted = before.get("plan")
        if predicted is None and several.size == 1:  # what others take and spare is not known here
            predicted = foretell(session, facts, only_plan=turn.only_plan)
        decide(checkpoints, {**chosen, "plan": predicted})
        with compiled(heads.backbone.layers if options.compile else ()):
            fitted = fit(session)
    except Diverged as error:
        raise with_rows(error, session) from error
    finally:
        log.close()
        if recorder is not None:
            recorder.remove()
        if stand_in is not None:
            stand_in.remove()
    masters.finish()
    if cut is not None:
        cut.undo()
    for parameter in resting:
        parameter.requires_grad_(True)
    if not several.first:
        return {}
    for part in turn.parts.values():
        if part.task.chooses(part.roles.train):
            part.task.tune(model.measure(part, "validation", "validation").answers, part.roles.validation.table)
    notes: dict[str, Any] = {"dtype": kind, "learning_rate": rate}
    learned = {
        "cost": {
            "trainable_parameters": learning,
            "total_parameters": total,
            "train_seconds": fitted.seconds + spent,
            "tokens_per_second": fitted.tokens / max(fitted.seconds + spent, 1e-9),
        },
        "training": {
            "dtype": kind,
            "learning_rate": rate,
            **({"head_learning_rate": higher} if higher else {}),
            "steps": fitted.steps,
            "tokens": fitted.tokens,
            "max_length": only.max_length,
            "best_step": fitted.best_step,
            "stopped_early": fitted.stopped_early,
            "warnings": fitted.warnings,
            **({"processes": several.size} if several.size > 1 else {}),
        },
        "objective": objective.notes(),
        "plan": predicted,
    }
    turn.keep(session, learned)
    known_parts = {**turn.earlier, **turn.parts}
    places = {name: part.head for name, part in known_parts.items()}
    if getattr(technique, "given", None) is not None:
        notes["as_saved"] = True
    notes = {**notes, "stages": [*stage_names(turn.earlier), stage.name], "parts": places}

    def texts(part: Part) -> Iterator[str]:
        return (text_of(row, part.task) or "" for row in part.roles.train.table)

    read = {name: texts(part) for name, part in known_parts.items()}
    inference = TaskInference.of(read, heads.first.tokenizer, model.inference) if len(known_parts) > 1 else None
    artifacts.save(model.folder / "artifact", heads, model.readings, technique, config, notes, inference)
    return learned


def attach(model: Model, turn: Turn) -> list[Any]:
    """Attach the technique if this is the first stage; returns the parameters of heads that rest in this one."""
    from tunesmith import seeding
    from tunesmith.models.quantization import is_quantized
    from tunesmith.training import memory

    config, technique, heads = model.config, model.technique, model.heads
    if not model.attached:
        seeding.seed_everything(seeding.derive(config.seed, "attach"))
        technique.attach(heads.backbone)
        if model.start is not None:
            model.head_came = model.start.fill(technique, heads.first, next(iter(turn.parts.values())).task)
        for loaded in heads.loaded.values():
            if loaded is not heads.first:
                technique.join(loaded.backbone)
        model.attached = True
    wanted = config.training.gradient_checkpointing
    if wanted is None:
        wanted = is_quantized(heads.model) and memory.can_recompute(heads)
    if wanted:
        memory.recompute(heads)
    return [] if turn.strategy.trains_earlier_heads else heads.rest(part.head for part in turn.parts.values())


def ground_of(model: Model, parts: Mapping[str, Part], stage: str) -> Any:
    """What an objective reaches of the run."""
    from tunesmith.artifacts.use import load
    from tunesmith.training.session import Ground

    return Ground(
        model.config, model.folder, model.heads, model.technique, parts, model.device, lambda path: load(path, device=str(model.device)),
        stage,
    )  # fmt: skip


def lesson_of(objective: Any, part: Part) -> Lesson:
    """What a task learns from: its own features, unless the objective puts others in their place."""
    from tunesmith.objectives._base import Lesson

    found: Lesson | None = objective.lesson(part.name)
    return found or Lesson(part.encoded["train"], part.roles.train.sha256)


def lesson_rows(objective: Any, part: Part) -> int:
    """Rows that a task learns from."""
    found = objective.lesson(part.name)
    if found is None or found.features is part.encoded["train"]:
        return len(part.roles.train)
    return int(found.features.columns["row"][len(found.features) - 1]) + 1


def lengths_of(model: Model, turn: Turn) -> dict[str, int]:
    """How many features each task of a stage learns from."""
    return {name: len(lesson_of(model.objective, part).features) for name, part in turn.parts.items()}


def make_feed(
    model: Model, turn: Turn, rows: Any, stand_in: Any, recorder: Any, planned: Mapping[str, float] | None = None
) -> tuple[Any, int]:
    """What every step is made of, and into how many packed sequences the rows went (0: none).

    Args:
        model: with the technique attached.
        turn: the stage.
        rows: features of the frozen backbone in place of the encoded rows, if there are any.
        stand_in: what serves them.
        recorder: of what the objective wants beside logits, if it wants anything.
        planned: how often each task is drawn, if the strategy says so.
    """
    from tunesmith.seeding import derive
    from tunesmith.training.feed import Feed, MixedFeed
    from tunesmith.training.group import current
    from tunesmith.training.trials import lean_loss_works, packing_works

    config, options, stage = model.config, model.config.training, turn.stage
    feeds: dict[str, Feed] = {}
    several = len(turn.parts) > 1
    size = MixedFeed.slot(config.batch_size, len(turn.parts)) if several else config.batch_size
    for name, part in turn.parts.items():
        lesson = lesson_of(model.objective, part)
        used = lesson.features if rows is None else rows
        network = model.heads[part.head].model
        packed = (
            stand_in is None and not several and recorder is None and part.task.packs
            and packing_works(part.task, network, used, model.pad_id, model.device)
        )  # fmt: skip
        lean = options.chunked_loss and lean_loss_works(part.task, network, used, model.pad_id, model.device)
        feeds[name] = Feed(
            part.task, network, used, batch_size=size, micro_batch_size=(options.micro_batch_size or size) * current().size,
            seed=config.seed if turn.alone else derive(config.seed, "rows", stage.name, name), buckets=options.length_buckets,
            device=model.device, pad_id=model.pad_id, stand_in=stand_in, capacity=part.max_length if packed else None,
            labelled=lesson.labelled, recorder=recorder, lean=lean,
        )  # fmt: skip
    if not several:
        feed = next(iter(feeds.values()))
        return feed, len(feed.bins or ())
    counts = lengths_of(model, turn)
    shares = planned or stage.shares(counts)
    weights = {name: part.spec.weight for name, part in turn.parts.items()}
    return MixedFeed(feeds, shares, weights, sum(counts.values())), 0


def together(found: Mapping[str, Mapping[str, float]], parts: Mapping[str, Part]) -> dict[str, float]:
    """The metrics of a stage: those of its only task, or each task's under `task/metric` with the mean of their scores."""
    if len(found) == 1:
        return dict(next(iter(found.values())))
    flat = {f"{name}/{metric}": value for name, metrics in found.items() for metric, value in metrics.items()}
    losses = [metrics["loss"] for metrics in found.values() if "loss" in metrics]
    scores = [score(parts[name].task, metrics) for name, metrics in found.items()]
    return {MEAN: sum(scores) / len(scores), **flat, "loss": sum(losses) / max(len(losses), 1)}


def score(task: Any, metrics: Mapping[str, float]) -> float:
    """The primary metric so that higher is better (a perplexity counts with a minus)."""
    value = float(metrics[task.primary])
    return value if task.higher_is_better else -value


def stage_names(parts: Mapping[str, Part]) -> list[str]:
    """Names of the stages that tasks belong to, in order."""
    return list(dict.fromkeys(part.stage for part in parts.values()))
