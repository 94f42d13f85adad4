"""plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import flags as f

if TYPE_CHECKING:
    from rich.table import Table

PLAN_HELP = """Say what training would take, for each technique, before any step: parameters, memory, time, artifact, the largest batch.

\b
Examples:
  tunesmith plan --model asset:bert-tiny --train asset:movie-reviews
  tunesmith plan --model ./llama --task instruction --train rows.jsonl --techniques lora,qlora,full --batch-size 8
  tunesmith plan --config run.yaml --set training.gradient_checkpointing=true
  tunesmith plan --model asset:minilm --train reviews.csv --advise
  tunesmith plan --model asset:minilm --train reviews.csv --advise --needs merge,latency --output run.yaml
Each technique is prepared as `train` would, in a process of its own; no step is taken and no folder is left.
"""


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("plan", help=PLAN_HELP)(plan)


def plan(
    model: f.Model = None, task: f.Task = None, train: f.Train = None, validation: f.Validation = None, eval: f.Eval = None,
    columns: f.Columns = None, technique: f.Technique = None,
    techniques: Annotated[str | None, typer.Option(help="comma-separated (default: --technique, or all)")] = None,
    quantization: f.Quantization = None, objective: f.Objective = None, teacher: f.Teacher = None, stream: f.Stream = None,
    strategy: f.Strategy = None, continue_from: f.ContinueFrom = None, init_adapter: f.InitAdapter = None,
    seed: f.Seed = None, epochs: f.Epochs = None, max_steps: f.MaxSteps = None, batch_size: f.BatchSize = None,
    max_length: f.MaxLength = None, max_train_rows: f.MaxTrainRows = None, max_eval_rows: f.MaxEvalRows = None,
    dtype: f.Dtype = None, device: f.Device = None, trust_remote_code: f.TrustRemoteCode = False, no_doctor: f.NoDoctor = False,
    advise: Annotated[bool, typer.Option("--advise", help="rank the techniques for this case, with reasons and a config to train with")] = False,
    needs: Annotated[str | None, typer.Option(help="of --advise: what must be given, some of merge,switch,latency,keep")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="of --advise: write the config to this file")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file of --output")] = False,
    config: f.Config = None, set_: f.Set = None, json: f.Json = False, verbose: f.Verbose = 0, quiet: f.Quiet = False,
) -> None:  # fmt: skip
    """Say what training would take."""
    f.talk(verbose, quiet)
    given = {
        "model": model, "task": task, "train": train, "validation": validation, "eval": eval, "columns": f.pairs(columns),
        "technique": technique, "quantization": quantization, "objective": objective, "teacher": teacher or None, "stream": stream,
        "strategy": strategy, "continue_from": continue_from, "init_adapter": init_adapter, "seed": seed, "epochs": epochs,
        "max_steps": max_steps, "batch_size": batch_size, "max_length": max_length, "max_train_rows": max_train_rows,
        "max_eval_rows": max_eval_rows, "dtype": dtype, "device": device, "trust_remote_code": trust_remote_code,
        "doctor": "off" if no_doctor else None,
    }  # fmt: skip
    from tunesmith import config as configuration
    from tunesmith import dry_run, durable
    from tunesmith.config import RunConfig
    from tunesmith.errors import UserError

    if not advise and (needs or output):
        raise UserError(f"{'--needs' if needs else '--output'} belongs to --advise; add it.")
    raw = f.layered(config, set_, given)
    listed = f.words(techniques) or ([str(raw["technique"])] if raw.get("technique") and not advise else [])
    built = configuration.build(RunConfig, raw)
    if advise:
        from tunesmith.cli import show_advice

        place = show_advice.place(output, overwrite)
        advised = dry_run.advise_on(built, listed, f.words(needs) or ())
        text = show_advice.config_text(raw, built, advised)
        if place is not None and text is not None:
            durable.write(place, text.encode("utf-8"))
        if json:
            f.emit({"techniques": list(advised.predictions), "advice": {**advised.advice.as_json(), "config": text}})
        else:
            show_advice.say(advised, text, place)
        return
    found = dry_run.predict_all(built, listed)
    if json:
        f.emit({"techniques": found})
        return
    from tunesmith.console import people

    console = people(stderr=False)
    console.print(table(found))
    for line in notes(found):
        console.print(line, markup=False)


def table(found: list[dict[str, Any]]) -> Table:
    """One row a technique."""
    from rich.table import Table

    from tunesmith.compare.format import count, in_bytes, seconds

    made = Table(box=None, pad_edge=False, header_style="bold")
    heads = ("technique", "learn", "time", "memory", *SHOWN, "artifact", "fits", "rows a pass")
    for number, name in enumerate(heads):
        made.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    for each in found:
        if each["status"] != "planned":
            made.add_row(each["technique"], each["status"])
            continue
        memory = each["memory"] or {}
        parts = [in_bytes(sum(memory.get(part, 0) for part in names)) if memory else "-" for names in SHOWN.values()]
        fits = {True: "yes", False: "no", None: "-"}[each["fits"]]
        most = each["largest_batch"]
        made.add_row(
            each["technique"], count(each["trainable_parameters"]), "-" if each["seconds"] is None else seconds(each["seconds"]),
            "-" if each["memory_bytes"] is None else in_bytes(each["memory_bytes"]), *parts, in_bytes(each["artifact_bytes"]),
            fits, "-" if most is None else f"{most:,}",
        )  # fmt: skip
    return made


SHOWN = {
    "libraries": ("libraries",),
    "weights": ("weights",),
    "learning": ("gradients", "optimizer"),
    "pass": ("activations", "head", "cache"),
    "measuring": ("evaluation",),
}
"""Columns of the table, and the parts that each adds up."""


def notes(found: list[dict[str, Any]]) -> list[str]:
    """What the table's words mean, and why something is missing."""
    lines = [
        "memory is the peak: what libraries and weights hold, gradients and optimiser (learning), the largest pass with its head, and what measuring the "
        "artifact adds. fits: with a quarter to spare. rows a pass: the most rows of the longest kind in one forward pass."
    ]
    lines += [f"{each['technique']}: {each['reason']}" for each in found if each["reason"]]
    lines += [
        f"{each['technique']}: no {name}: {why}." for each in found for name, why in each.get("unknown", {}).items()
    ]
    return [*lines, *crowded(found)]


def crowded(found: Sequence[dict[str, Any]]) -> list[str]:
    """That times hold for a busy machine, if they do."""
    from tunesmith.plan.prediction import busy

    shares = [each["waited"] for each in found if each.get("seconds") is not None and each.get("waited") is not None]
    why = busy(max(shares, default=None))
    return [f"time: {why}."] if why else []
