"""The loop: one page from rows to trained parameters.

Notable:
- the gradient of a step is (sum of losses) / (supervised units of the whole step), so cutting a step into smaller
  forward passes changes nothing but memory;
- the optimiser works on fp32 masters whatever the model computes in;
- the order of rows is a function of seed and step, so resuming needs no state of a data loader;
- the clock of `train_seconds` stands still during evaluation and checkpoints;
- a non-finite loss stops the run before the optimiser step;
- a GPU is waited for where a line is logged, not at every step.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from tunesmith.config import RunConfig
from tunesmith.console import say, warn
from tunesmith.errors import ConfigError, Interrupted, MemoryShortage, UserError, unknown
from tunesmith.evaluation.cost import peak_memory
from tunesmith.evaluation.shortage import is_shortage, let_go
from tunesmith.metrics import higher_is_better
from tunesmith.seeding import derive
from tunesmith.training import checkpoint
from tunesmith.training.attention import attention_kernel
from tunesmith.training.bar import bar
from tunesmith.training.feed import Pass
from tunesmith.training.guards import Watch
from tunesmith.training.head_rate import with_head_rate
from tunesmith.training.optim import factor, make_optimizer, set_rate
from tunesmith.training.precision import OWN
from tunesmith.training.readings import Readings
from tunesmith.training.session import Session
from tunesmith.training.slices import add_up, share
from tunesmith.training.stopping import asked_pause, stop_requests

RANGE_ENDS = 4.0
"""Times the lowest loss: beyond it a range test has seen enough."""


@dataclass
class Fit:
    """What a fit did."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_score: float | None = None
    stopped_early: bool = False
    micro: int | None = None
    """The most rows in a forward pass, which gets less where memory runs out."""
    bad_evaluations: int = field(default=0, repr=False)
    warnings: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """What was noticed on the way (`guards`)."""
    window: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0], repr=False)
    """Since the last logged line: loss x units, units, tokens, and the clock then."""


def fit(session: Session) -> Fit:
    """Train until the step budget is used up, early stopping says so, or someone interrupts."""
    from accelerate import Accelerator

    options, masters, config, group = session.config.training, session.masters, session.config, session.group
    if options.best_metric and not options.chooses:
        warn("training.best_metric has no effect without training.keep_best=true or training.early_stopping.")
    accelerator = Accelerator(
        cpu=session.device.type == "cpu", log_with=config.report_to or None, project_dir=str(session.folder)
    )
    if config.report_to:
        try:
            own = {"wandb": {"dir": str(session.folder)}}  # its files stay in the run's folder
            accelerator.init_trackers("tunesmith", config=_flat(config), init_kwargs=own)
        except Exception as error:  # each tracker raises its own
            names, reason = ", ".join(config.report_to), str(error).strip().split("\n")[0]
            raise UserError(
                f"--report-to {names} cannot be used ({type(error).__name__}: {reason}); set it up, or leave it out and add --overwrite."
            ) from error
    groups = session.technique.parameter_groups(session.backbone, session.learning_rate)
    other = [name for name, parameter in session.heads.further() if parameter.requires_grad]
    more = [*other, *(name for name in masters.tensors if name.startswith(OWN))]
    if more:
        groups.append({"names": more, "lr": session.learning_rate})
    in_head = session.backbone.in_head
    heads = {name for group in groups for name in group["names"] if name in other or in_head(name)}
    if options.head_learning_rate not in (None, "auto") and not heads:
        warn("training.head_learning_rate has no effect: no head of a task learns in this run.")
    groups = with_head_rate(groups, session.fresh if options.head_learning_rate == "auto" else heads, session.head_rate)
    optimizer = make_optimizer(groups, masters.tensors, options)
    state = Fit()
    best: dict[str, Any] | None = None
    readings = Readings(session.device, session.learning_rate)
    watch = Watch(warn, on=options.guards)
    units: list[float] = []  # of the steps that are still to be read
    lowest = math.inf

    saved = group.spread(checkpoint.newest(session.checkpoints) if group.first else None) if session.resume else None
    if saved is not None:
        masters.load_state_dict(saved["parameters"])
        masters.load_optimizer_state(optimizer, saved["optimizer"])
        state, best = Fit(**saved["fit"]), saved["best"]
        if state.micro is not None:
            session.feed.limit(state.micro * group.size)
        watch.recall(session.log.kept)
        say(f"Resuming at step {state.steps} of {session.total_steps}.")

    def save() -> None:
        content = {
            "parameters": masters.state_dict(),
            "optimizer": masters.optimizer_state(optimizer),
            "strategy": session.strategy.state_dict(),
            "objective": session.objective.state_dict(),
            "weighting": session.weighting.state_dict(),
            "rng": checkpoint.rng_state(),
            "fit": dict(vars(state)),
            "best": best,
        }
        if not group.first:
            return
        session.log.sync()
        checkpoint.save(session.checkpoints, state.steps, content, options.keep_checkpoints)

    session.objective.before_stage(session)
    inherited = session.strategy.state_dict()
    if inherited:
        session.strategy.load_state_dict(checkpoint.moved(inherited, session.device))
    session.strategy.before_stage(session)
    if saved is not None:
        session.objective.load_state_dict(saved.get("objective", {}))
        session.strategy.load_state_dict(checkpoint.moved(saved["strategy"], session.device))
        session.weighting.load_state_dict(saved["weighting"])
        checkpoint.set_rng_state(saved["rng"])  # after what a strategy drew while it got ready
    session.train_mode()
    with stop_requests() as stop, bar(session) as show:
        passes = session.feed.steps(state.steps, session.total_steps)
        while not state.stopped_early:
            started = time.perf_counter()
            step = next(passes, None)
            if step is None:
                break
            rate = set_rate(optimizer, factor(state.steps, session.total_steps, options))
            session.step = state.steps
            step = _train_step(session, step, optimizer, accelerator, readings, rate)
            state.steps += 1
            state.micro = -(-session.feed.micro // group.size)
            state.tokens += sum(p.tokens for p in step)
            units.append(sum(p.units for p in step))
            state.window[1] += units[-1]
            state.window[2] += sum(p.tokens for p in step)
            logs = state.steps % options.log_every == 0 or state.steps == session.total_steps
            pauses = asked_pause().due(state.steps, session.total_steps)
            measures = bool(session.evaluate_every and session.measure and state.steps % session.evaluate_every == 0)
            measures = measures or bool(pauses and session.measure)
            saves = bool(
                options.checkpoint_every
                and state.steps % options.checkpoint_every == 0
                and state.steps < session.total_steps
            )
            (stops,) = group.any(stop.is_set() or pauses)
            if logs or measures or saves or stops:
                for loss, count in zip(readings.fetch(), units, strict=True):
                    state.window[0] += loss * count
                units = []
            state.seconds += time.perf_counter() - started

            if logs:
                speed = state.window[2] / max(state.seconds - state.window[3], 1e-9)
                line: dict[str, Any] = {
                    "event": "train",
                    "step": state.steps,
                    "epoch": round(state.steps / session.feed.steps_per_epoch, 4),
                    "loss": state.window[0] / state.window[1],
                    "learning_rate": rate,
                    "gradient_norm": readings.norm,
                    "layers": masters.layer_norms(),
                    "tokens": state.tokens,
                    "seconds": round(state.seconds, 4),
                    "tokens_per_second": round(speed, 1),
                    "peak_memory_bytes": peak_memory(session.device),
                }
                session.log.write(**line)
                watch.add(line)
                show(state, line)
                lowest = min(lowest, line["loss"])
                if options.schedule == "range" and line["loss"] > RANGE_ENDS * lowest:
                    state.stopped_early = True
                if config.report_to:
                    accelerator.log(
                        {f"train/{k}": v for k, v in line.items() if isinstance(v, (int, float))}, step=state.steps
                    )
                state.window = [0.0, 0.0, 0.0, state.seconds]
            else:
                show(state, None)

            if measures:
                best = _evaluate(session, state, best, accelerator, watch)
            if saves:
                save()
            if stops:
                save()
                if pauses:
                    asked_pause().reached = {
                        "step": state.steps, "of": session.total_steps, "seconds": state.seconds, "primary": session.primary,
                    }  # fmt: skip
                raise Interrupted(f"interrupted at step {state.steps}; its state is saved")

    if options.chooses and session.measure and (not session.evaluate_every or state.steps % session.evaluate_every):
        best = _evaluate(session, state, best, accelerator, watch)
    moved = group.any(*(_ever_moved(optimizer, tensor) for tensor in masters.tensors.values()))
    still = [name for name, there in zip(masters.tensors, moved, strict=True) if not there]
    watch.add({"event": "end", "step": state.steps, "still": still, "of": len(masters.tensors)})
    state.warnings = watch.warnings
    if options.keep_best and best is not None:
        masters.load_state_dict(best["weights"])
        session.strategy.return_to(checkpoint.moved(best["strategy"], session.device))
    session.weigh()
    session.strategy.after_stage(session)
    session.weigh()
    if config.report_to:
        accelerator.end_training()
    return state


def _train_step(
    session: Session,
    step: list[Pass],
    optimizer: torch.optim.Optimizer,
    accelerator: Any,
    readings: Readings,
    rate: float,
) -> list[Pass]:
    """One optimiser step; its loss (means of the step's parts, by their weights) and gradient norm before clipping are left to be read.

    Returns the passes that it took: smaller ones than it was given where memory ran out.
    """
    if session.group.size > 1:  # dropout of each process its own, and the same when the run is gone on with
        torch.manual_seed(derive(session.config.seed, "dropout", session.stage, session.step, session.group.rank))
    drawn = checkpoint.torch_state()
    while True:
        passes = [*step, *session.strategy.extra_batches(session, step)]
        readings.begin(session.step + 1, rate)
        try:
            _gradients(session, passes, accelerator, readings)
            break
        except Exception as error:
            if not is_shortage(error):
                raise
            failed = error
        step = _smaller(session, step, failed)
        del passes
        let_go(failed)
        session.masters.forget()
        session.weighting.forget()
        readings.drop()
        checkpoint.set_torch_state(drawn)  # the same dropout as if the step had been cut like this from the start
    _update(session, optimizer, readings)
    return passes


def _smaller(session: Session, step: list[Pass], error: Exception) -> list[Pass]:
    """The same step in passes of half as many rows.

    Raises:
        MemoryShortage: one row alone does not fit, or nothing may be changed.
    """
    together = session.group.size
    most = -(-max(len(next(iter(each.batch.values()))) for each in step) // together)
    first = str(error).strip().split("\n")[0]
    if most < 2 or not session.config.training.auto_micro_batch:
        raise MemoryShortage(
            f"memory ran out at step {session.step + 1} in a forward pass of {most} row{'s' if most > 1 else ''} of {step[0].length} tokens ({first}); "
            "lower --max-length, add --set training.gradient_checkpointing=true, or take a technique or model that needs less."
        ) from error
    session.feed.limit(most // 2 * together)
    warn(
        f"memory ran out at step {session.step + 1}: from here on a forward pass has at most {most // 2} rows, and gradients are summed over more of "
        "them; batch size and loss stay the same (training.auto_micro_batch=false stops instead)."
    )
    return next(session.feed.steps(session.step, session.total_steps))


def _gradients(session: Session, step: list[Pass], accelerator: Any, readings: Readings) -> None:
    """Forward and backward passes of a step."""
    masters, weighting, group = session.masters, session.weighting, session.group
    for part, passes in _by_part(step).items():
        units = sum(p.units for p in passes)
        losses = [torch.zeros((), device=session.device) for _ in passes]

        def learn(part: str = part, passes: list[Pass] = passes, units: float = units, losses: Any = losses) -> None:
            for number, whole in enumerate(passes):
                each = share(whole, number, group)
                if each is None:
                    continue
                each.arm()
                # Around both passes: what is recomputed on the way back must run in the kernel that it ran in.
                with attention_kernel(session.device):
                    loss = each.loss(each) if each.loss is not None else session.objective.loss(each)
                    if each.idle:
                        loss = 0.0 * loss
                    losses[number] = loss.detach().float() if group.size > 1 else readings.check(loss.detach(), each)
                    accelerator.backward(loss / (units / (each.weight * weighting.factor(part))))
                masters.gather()

        group.attempt(learn)
        if group.size > 1:
            added = torch.stack(losses)
            group.add([added])
            losses = [readings.check(loss, each) for loss, each in zip(added.unbind(), passes, strict=True)]
        if weighting.apart:
            add_up(masters, group)
        readings.part(losses, passes, units, passes[0].weight)
        weighting.after_part(part, readings.last, masters)
    if not weighting.apart:
        add_up(masters, group)


def _update(session: Session, optimizer: torch.optim.Optimizer, readings: Readings) -> None:
    """What strategy and weighting make of the gradients, clipping, and the optimiser's move."""
    masters = session.masters
    session.weighting.finish(masters, session.step)
    session.strategy.after_backward(session)
    session.strategy.penalty(session)
    norm = masters.norm()
    limit = session.config.training.max_grad_norm
    if limit > 0:
        excess = torch.clamp(norm / limit, min=1.0)
        if optimizer.defaults["fused"]:
            # The fused optimiser divides gradients by `grad_scale` as it reads them: clipping without a pass of its own.
            optimizer.grad_scale = excess  # type: ignore[attr-defined]
        else:
            torch._foreach_div_([t.grad for t in masters.tensors.values() if t.grad is not None], excess)
    readings.hold_back(optimizer, norm)
    optimizer.step()
    masters.clear()
    masters.scatter()
    session.strategy.after_step(session)


def _by_part(step: list[Pass]) -> dict[str, list[Pass]]:
    found: dict[str, list[Pass]] = {}
    for each in step:
        found.setdefault(each.part, []).append(each)
    return found


def _ever_moved(optimizer: torch.optim.Optimizer, tensor: torch.Tensor) -> bool:
    """Whether a parameter ever got a gradient: Adam's second moment remembers."""
    moment = optimizer.state.get(tensor, {}).get("exp_avg_sq")
    return moment is not None and bool(moment.any())


def _evaluate(
    session: Session, state: Fit, best: dict[str, Any] | None, accelerator: Any, watch: Watch
) -> dict[str, Any] | None:
    """Measure, log, and keep the weights if they are the best so far."""
    assert session.measure is not None
    metrics = session.measure()
    session.train_mode()
    line = {
        "event": "evaluate", "step": state.steps, "split": session.measured_on, "seconds": round(state.seconds, 4), "metrics": metrics,
    }  # fmt: skip
    session.log.write(**line)
    watch.add(line)
    if session.config.report_to:
        accelerator.log({f"{session.measured_on}/{name}": value for name, value in metrics.items()}, step=state.steps)
    options = session.config.training
    if not options.chooses:
        return best
    name = options.best_metric or session.primary
    if name not in metrics:
        raise ConfigError([("training.best_metric", unknown("metric", name, metrics))])
    higher = higher_is_better(name.rpartition("/")[2]) if options.best_metric else session.higher_is_better
    score = metrics[name] if higher else -metrics[name]
    if state.best_score is None or score > state.best_score:
        state.best_score, state.best_step, state.bad_evaluations = score, state.steps, 0
        if options.keep_best:
            weights = {name: tensor.cpu().clone() for name, tensor in session.masters.state_dict().items()}
            best = {"weights": weights, "strategy": session.strategy.mark()}
    else:
        state.bad_evaluations += 1
        if options.early_stopping and state.bad_evaluations >= options.early_stopping:
            state.stopped_early = True
            say(f"Stopped early at step {state.steps}: no better {name} since step {state.best_step}.")
    return best


def _flat(config: RunConfig) -> dict[str, Any]:
    plain = config.model_dump(mode="json")
    return {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in plain.items()}
