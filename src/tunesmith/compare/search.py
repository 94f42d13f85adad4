"""A learning rate for every technique by the same small search: successive halving on validation rows.

    rates     default x (0.1, 0.3, 1, 3, 10)             of each technique
    rung 1    all 5 for a tenth of a run's tokens        the 2 with the lowest validation loss go on
    rung 2    2 for a quarter of a run's tokens          the better one is taken for all seeds (but see below)

Every rung costs the same, half the tokens of one run, so that a technique's search costs those of one run (Jamieson & Talwalkar 2016, section 3: n
arms, each rung with an equal share of the budget among those that are left; Li et al. 2018, section 3, call it a bracket). Techniques have the same
factors, rungs, rows, order and seeds, so none is searched harder than another. Each rung has a seed of its own (0, 1, ...), so a rate that some seeds cannot bear
has been put to the test twice when it is chosen, at no cost. A rung starts over instead of going on, because the schedule must end
with it; runs of fewer than 200 steps get longer rungs (20 and 50 steps), because fewer say nothing of a rate.

A rung says nothing either where no rate has come off the plateau (plateau.py: the loss of one answer for every row, from which a model of tags may take a hundred
steps). It sorts out only the rates that have not even come down to it, and the next is twice as long, up to a run's length; if no rate is off it then,
the default stands. Such a search costs more than one run, and its table says how much. In the end a rate that stood on it where a lower one had left it is passed over.

What is judged is the loss on validation rows (those of --validation, or 10 % of train by content hash), which tells rates apart long before the accuracy
of a few hundred rows does; eval rows take no part. The runs themselves learn from all training rows again. A rate that diverges or fails loses. What a search
found lies in OUTPUT/search/, so it is not repeated.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith import config as configuration
from tunesmith import processes, registry
from tunesmith.compare.carrying import Call, finished
from tunesmith.compare.jobs import Pool
from tunesmith.compare.models import models_of, place_of, techniques_of
from tunesmith.compare.planning import NEVER_OF_A_RUN, make
from tunesmith.compare.plateau import plateau
from tunesmith.config import CompareConfig, RunConfig
from tunesmith.console import say
from tunesmith.errors import Interrupted, TechniqueError, TunesmithError
from tunesmith.inputs import sha256_of_inputs
from tunesmith.run_folder import write_json
from tunesmith.stage import DEFAULT_EPOCHS
from tunesmith.techniques._rate import usual_rate

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
KEPT = (2, 1)
"""How many rates go on after each rung."""
SHARE = 0.1
LEAST_STEPS = 20
FIRST_SEED = 0
MOST_ROWS = 1000  # validation rows: more would cost more than they tell
FEW_ROWS = 100
ROWS = 3
"""Validation rows for each row that a trial of the first rung learns from, at most: a forward pass is a third of a step (in fp32, where steps are in bf16, two thirds)."""
OFF = 0.97
"""A loss below this much of the plateau's is off it: 3 %, where losses of runs that stay on it differ by 1 or 2."""
ON = 1.1
"""And one above this much of it has not come down to it yet."""
LOWEST = "lowest validation loss"
BORNE = "lowest validation loss of the rates that never stayed at the loss of one answer where a lower one had left it"

Entry = dict[str, Any]


def carry_out(config: CompareConfig, folder: Path, models: Mapping[str, str] | None = None) -> list[Entry]:
    """Search a rate for every technique whose rate is not given.

    Args:
        config: of the comparison, with nothing left to default.
        folder: its own.
        models: hashes of models that are not made from nothing; trials of others are not taken for theirs.

    Returns:
        For each technique (and model) its default, every rate with its scores, the chosen one and what the search cost.
    """
    wanted = [
        (model, name)
        for model in models_of(config)
        for name in techniques_of(config, model)
        if config.learning_rate is None and name not in config.learning_rates
    ]
    if not wanted:
        return []
    rows = Data.cut(config, folder)

    def work(model: str, name: str, call: Call) -> Entry:
        return one(config, folder, model, name, rows, (models or {}).get(model), call)

    if config.jobs == 1:
        return [work(model, name, processes.call) for model, name in wanted]
    pool = Pool(config.jobs)  # techniques beside each other; the rungs of each follow from one another
    return pool.run([lambda m=model, n=name: work(m, n, pool.call) for model, name in wanted])  # type: ignore[misc]


def rates(found: Iterable[Entry]) -> dict[tuple[str, str], float]:
    """The rates that differ from the technique's own, by model and technique."""
    return {(each["model"], each["technique"]): each["chosen"] for each in found if each["chosen"] != each["default"]}


class Data:
    """Training rows without those of validation, and those, as files.

    Attributes:
        train: its file.
        validation: its file.
        counts: rows of each.
        plateau: loss of one answer for all validation rows, if the task has such.
    """

    def __init__(self, train: Path, validation: Path, counts: Mapping[str, int], plateau: float | None = None) -> None:
        self.train, self.validation, self.counts, self.plateau = train, validation, dict(counts), plateau

    @classmethod
    def cut(cls, config: CompareConfig, folder: Path) -> Data:
        """Cut as any run that chooses something does; the eval rows are the same as ever and in neither file."""
        import pyarrow.parquet as pq

        from tunesmith.data.sources import subset
        from tunesmith.data.splits import load_roles

        choosing = config.model_copy(update={"training": config.training.model_copy(update={"keep_best": True})})
        task = registry.load("task", config.task)(configuration.options_of(config, "task", config.task))
        roles = load_roles(choosing, task)
        assert roles.validation is not None
        roles = replace(roles, validation=subset(roles.validation, most_rows(config, len(roles.train)), "validation"))
        parts = {"train": roles.train, "validation": roles["validation"]}
        files = {}
        for role, rows in parts.items():
            files[role] = folder / "search" / "rows" / f"{role}-{rows.sha256[:12]}.parquet"
            if not files[role].is_file():
                files[role].parent.mkdir(parents=True, exist_ok=True)
                half = files[role].with_suffix(".part")
                pq.write_table(_with_features(rows.table), half)
                half.replace(files[role])
        counts = {role: len(rows) for role, rows in parts.items()}
        return cls(files["train"], files["validation"], counts, plateau(task, roles, choosing))


def _with_features(table: Any) -> Any:
    """An Arrow table that knows the columns' kinds as the data set does (names of labels)."""
    return table.with_format("arrow")[:].replace_schema_metadata(table.features.arrow_schema.metadata)


def first_share(config: CompareConfig, rows: int) -> float:
    """The part of a run's tokens that the first rung gives to a rate.

    Args:
        config: says how long a run is.
        rows: that it learns from.
    """
    steps = config.max_steps or math.ceil(rows / config.batch_size) * (config.epochs or DEFAULT_EPOCHS)
    return min(1.0, max(SHARE, LEAST_STEPS / steps))


def most_rows(config: CompareConfig, rows: int) -> int:
    """How many validation rows a trial is measured on at most.

    Args:
        config: says how long a run is.
        rows: that it learns from.
    """
    seen = config.max_steps * config.batch_size if config.max_steps else rows * (config.epochs or DEFAULT_EPOCHS)
    return min(MOST_ROWS, max(FEW_ROWS, round(ROWS * first_share(config, rows) * seen)))


def one(
    config: CompareConfig,
    folder: Path,
    model: str,
    name: str,
    rows: Data,
    sha256: str | None,
    call: Call,
) -> Entry:
    """The search of one technique on one model, each trial through `call`."""
    from tunesmith.techniques._base import create

    options = config.options.get(registry.resolve("technique", name).name)
    default = usual_rate(config.model_copy(update={"model": model}), create(name, options))
    tried: list[Entry] = [{"rate": rounded(factor * default), "factor": factor, "rungs": []} for factor in FACTORS]
    alive, share, number = list(tried), first_share(config, rows.counts["train"]), 0
    chosen, why = default, ""
    while not why:
        number += 1
        for each in alive:
            run = trial(config, folder, model, name, each["rate"], share, number, rows)
            title = f"Learning rate of {name}: {each['rate']:g}, rung {number}"
            each["rungs"].append({"share": share, **measure(run, title, sha256, call)})
            if each["rungs"][-1]["status"] == "refused":
                why = each["rungs"][-1]["reason"]
                break
        whole, scored = share >= 1, best(alive, len(alive))
        if why:
            break
        if not scored:
            why = f"no rate learned, so the default stands{of_all(alive)}"
        elif rows.plateau is None or last_loss(scored[0]) <= OFF * rows.plateau:
            count = 1 if whole else next((each for each in KEPT if each < len(alive)), 1)
            if count == 1:
                taken = picked(scored, rows.plateau)
                chosen, why = taken["rate"], LOWEST if taken is scored[0] else BORNE
            alive, share = scored[:count], min(1.0, share * len(alive) / count)
        elif whole:
            why = f"after a whole run no rate is better than one answer for every row ({rows.plateau:.3f}), so the default stands: train longer"
        else:
            alive, share = waiting(scored, rows.plateau), min(1.0, 2 * share)
    spent = [rung for each in tried for rung in each["rungs"]]
    entry = {
        "technique": name, "model": model, "default": default, "chosen": chosen, "why": why, "rates": tried, "runs": len(spent),
        "tokens": sum(rung["tokens"] for rung in spent), "seconds": sum(rung["seconds"] for rung in spent), "rows": rows.counts,
    }  # fmt: skip
    if not any(rung["status"] == "refused" for rung in spent):
        say(
            f"Learning rate of {name}: {chosen:g} (its default is {default:g}), {entry['runs']} trials in {entry['seconds']:.1f} s"
            f"{'' if why == LOWEST else f'; {why}'}."
        )
    return entry


def best(alive: Sequence[Entry], count: int) -> list[Entry]:
    """The rates with the lowest loss in their last rung, those nearest to the default first where it is the same; none that has no loss."""
    scored = [each for each in alive if each["rungs"] and each["rungs"][-1]["loss"] is not None]
    return sorted(scored, key=lambda each: (last_loss(each), abs(math.log(each["factor"]))))[:count]


def picked(scored: Sequence[Entry], plateau: float | None) -> Entry:
    """The first that is off the plateau and never stood on it in a rung in which a lower one of them had left it.

    Each rung has a seed of its own: such a rate is too high for some seeds, and may be for those of the runs.
    """
    off = OFF * plateau if plateau is not None else math.inf

    def too_high(each: Entry) -> bool:
        lower = [one["rungs"] for one in scored if one["rate"] < each["rate"]]
        return any(
            rung["loss"] > off and any(rungs[number]["loss"] <= off for rungs in lower)
            for number, rung in enumerate(each["rungs"])
        )

    return next((each for each in scored if last_loss(each) <= off and not too_high(each)), scored[0])


def of_all(alive: Sequence[Entry]) -> str:
    """Why the trials failed, where they all did for one reason."""
    reasons = {each["rungs"][-1]["reason"] for each in alive}
    reason = reasons.pop() if len(reasons) == 1 else None
    return f" (every trial: {reason})" if reason else ""


def waiting(scored: Sequence[Entry], plateau: float) -> list[Entry]:
    """Of rates of which none has left the plateau, those that are given a rung twice as long: all that have come down to it, and the next lower one.

    Too high a rate comes down first and may stay there for good, every row having become the same; the one that is still on its way down may be
    the first to leave.
    """
    down = [each for each in scored if last_loss(each) <= ON * plateau]
    slower = [each for each in scored if down and each["rate"] < min(one["rate"] for one in down)]
    next_lower = max((each["rate"] for each in slower), default=None)
    return [each for each in scored if each in down or each["rate"] == next_lower] if down else list(scored)


def last_loss(each: Entry) -> float:
    """Validation loss of a rate in its last rung, which it finished."""
    return float(each["rungs"][-1]["loss"])


def rounded(rate: float) -> float:
    """Three digits: 0.1 times 5e-05 is 5e-06, not 5.000000000000001e-06."""
    return float(f"{rate:.3g}")


def trial(
    config: CompareConfig, folder: Path, model: str, name: str, rate: float, share: float, rung: int, rows: Data
) -> RunConfig:
    """A short run of one rate: measured on validation rows as a run is on its eval rows, which it never sees."""
    shared = config.model_dump(mode="json", exclude=NEVER_OF_A_RUN)
    place, seed = place_of(config, folder, model, name, FIRST_SEED).parent, FIRST_SEED + rung - 1
    place = folder / "search" / place.relative_to(folder / "runs") / f"{rate:g}" / str(rung)
    length: dict[str, Any] = {"max_steps": None, "epochs": (config.epochs or DEFAULT_EPOCHS) * share}
    if config.max_steps:
        length = {"max_steps": max(1, round(config.max_steps * share)), "epochs": None}
    run = make(
        config,
        {
            **shared, **length, "model": model, "technique": name, "seed": seed, "learning_rate": rate, "output": str(place), "train": str(rows.train),
            "validation": None, "eval": str(rows.validation), "columns": {}, "max_train_rows": None, "max_eval_rows": None, "retain": None,
            "report_to": [], "doctor": False,
        },
    )  # fmt: skip
    changes = {
        "evaluations": None,
        "evaluate_every": None,
        "early_stopping": None,
        "keep_best": False,
        "checkpoint_every": None,
        "plan": False,
    }
    return run.model_copy(update={"training": run.training.model_copy(update=changes)})


def measure(run: RunConfig, title: str, sha256: str | None, call: Call) -> Entry:
    """Carry a trial out, unless it is there: loss and score on validation rows, tokens and seconds.

    Raises:
        Interrupted: Ctrl-C; what was found is kept.
    """
    place, started = Path(str(run.output)), time.perf_counter()
    inputs = sha256_of_inputs(run)
    identity = {"model_sha256": sha256, "inputs_sha256": inputs}
    result = finished(place, run, {name: value for name, value in identity.items() if value})
    if result is None:
        say(f"{title} ...")
        payload = {"config": configuration.dump(run), "verbosity": -1, "overwrite": True, "verified": False}
        try:
            result = call("tunesmith.run:execute_payload", payload)
        except (KeyboardInterrupt, TunesmithError) as error:
            if isinstance(error, KeyboardInterrupt) or error.exit_code == Interrupted.exit_code:
                raise Interrupted(
                    f"interrupted in the search, at {title}; the same command goes on from there."
                ) from error
            refused = getattr(error, "kind", "") == TechniqueError.__name__
            return {"status": "refused" if refused else "failed", "reason": str(error), "loss": None, "score": None, "tokens": 0,
                    "seconds": time.perf_counter() - started}  # fmt: skip
        for name in ("artifact", "checkpoints"):  # only the numbers are needed
            shutil.rmtree(place / name, ignore_errors=True)
        write_json(place / "trial.json", {"seconds": time.perf_counter() - started})
    metrics = result["metrics"]
    loss, after = metrics["after"].get("loss"), metrics["after"].get(metrics["primary"])
    finite = loss is not None and math.isfinite(loss)
    return {"status": "finished" if finite else "diverged", "reason": None, "loss": loss if finite else None, "score": after if finite else None,
            "tokens": result["training"]["tokens"], "seconds": seconds_of(place, result)}  # fmt: skip


def seconds_of(place: Path, result: Mapping[str, Any]) -> float:
    """What a trial took, with loading and measuring; its training alone where that was not written."""
    try:
        return float(json.loads((place / "trial.json").read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError):
        return float(result["cost"]["train_seconds"])
