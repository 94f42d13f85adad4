"""Flags shared by commands, and how file, `--set` and flags become one mapping (flags win)."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from tunesmith.console import set_verbosity
from tunesmith.errors import UserError
from tunesmith.launch import follows

Config = Annotated[str | None, typer.Option("--config", "-c", help="YAML file with any of these settings; flags win.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="any setting, as a.b=value (lora.rank=8); repeatable")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, help="say more")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="say nothing but errors")]
Model = Annotated[str | None, typer.Option(help="folder, GGUF file, hub id, asset:NAME, new:rnn, new:lstm, new:gru")]
Task = Annotated[str | None, typer.Option(help="what the rows are for (default text-classification)")]
Train = Annotated[str | None, typer.Option(help="training rows: file, hub id (name:split), asset:NAME")]
Validation = Annotated[str | None, typer.Option(help="rows that choices are made on")]
Eval = Annotated[str | None, typer.Option(help="rows that are only measured (default: 10 % of train)")]
Columns = Annotated[str | None, typer.Option(help="the task's columns = yours: text=review,label=stars")]
Technique = Annotated[str | None, typer.Option(help="which parameters learn (default lora; full for new models)")]
Quantization = Annotated[str | None, typer.Option(help="none, nf4, int8")]
Objective = Annotated[str | None, typer.Option(help="what is minimised (default supervised)")]
Teacher = Annotated[
    list[str] | None,
    typer.Option(help="of distillation: an artifact, a model folder, a hub id or asset:NAME; repeatable"),
]
Stream = Annotated[str | None, typer.Option(help="YAML file with stages to learn one after the other")]
Strategy = Annotated[str | None, typer.Option(help="how earlier stages are kept (default none)")]
ContinueFrom = Annotated[str | None, typer.Option(help="a finished run whose stages come before these")]
InitAdapter = Annotated[str | None, typer.Option(help="an artifact or peft folder whose adapter is trained further")]
Retain = Annotated[
    str | None,
    typer.Option(
        help="what must not be forgotten, measured before and after: text file, hub id, asset:NAME, or default"
    ),
]
Seed = Annotated[int | None, typer.Option(help="makes the run repeatable (default 0)")]
Epochs = Annotated[float | None, typer.Option(help="passes over the training rows (default 3; 10 for new models)")]
MaxSteps = Annotated[int | None, typer.Option(help="optimiser steps, instead of epochs")]
BatchSize = Annotated[int | None, typer.Option(help="rows per optimiser step (default 16)")]
LearningRate = Annotated[float | None, typer.Option(help="peak rate (default: the technique's own)")]
MaxLength = Annotated[int | None, typer.Option(help="tokens a row is cut to")]
MaxTrainRows = Annotated[int | None, typer.Option(help="use N training rows")]
MaxEvalRows = Annotated[int | None, typer.Option(help="measure on N rows")]
Dtype = Annotated[str | None, typer.Option(help="what training computes in: auto, float32, bfloat16")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps")]
Output = Annotated[str | None, typer.Option("--output", "-o", help="the folder to write")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace a finished run there")]
ReportTo = Annotated[str | None, typer.Option(help="tensorboard, wandb (comma-separated)")]
Grid = Annotated[
    list[str] | None,
    typer.Option(help="study a setting: lora.rank=1,2,4 runs every value; given again, every pair of values"),
]
Budget = Annotated[
    str | None, typer.Option(help="fit everything into 90s, 20m, 1h30m, or 3x a full fine-tuning; drops the hopeless")
]
Jobs = Annotated[int | None, typer.Option(help="runs at once on this machine, which share its cores (default 1)")]
Ray = Annotated[str | None, typer.Option(help="spread the runs over the Ray cluster at this address, or auto")]
FindLearningRate = Annotated[
    bool,
    typer.Option(
        "--find-learning-rate", help="only try learning rates on these rows: which to take and why, with a plot"
    ),
]
NoDoctor = Annotated[bool, typer.Option("--no-doctor", help="do not look at the rows first")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="run code that the model folder brings along")
]


def talk(verbose: int, quiet: bool) -> None:
    """Apply -v and -q."""
    set_verbosity(-1 if quiet or follows() else verbose)


def pairs(text: str | None) -> dict[str, str] | None:
    """`text=review,label=stars` as a mapping."""
    if text is None:
        return None
    found = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UserError(f"--columns takes task=yours pairs such as text=review,label=stars; `{part}` is none.")
        found[key.strip()] = value.strip()
    return found


def grid(words: list[str] | None) -> dict[str, list[Any]] | None:
    """`lora.rank=1,2,4` of every --grid."""
    from tunesmith.compare.study import parse

    return parse(words) if words else None


def named(data: str | None) -> dict[str, str] | None:
    """A data name as a mapping, which `--set retain.task=...` can add to."""
    return None if data is None else {"data": data}


def words(text: str | None) -> list[str] | None:
    """A comma-separated list."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def words_or_none(text: str | None) -> list[str] | None:
    """A comma-separated list, in which `none` alone is an empty one."""
    return [] if text is not None and text.strip() == "none" else words(text)


def numbers(text: str | None, flag: str) -> list[int] | None:
    """A comma-separated list of whole numbers."""
    try:
        return None if text is None else [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"{flag} takes whole numbers such as 0,1,2, got `{text}`.") from error


def layered(config: str | None, assigned: list[str] | None, flags: dict[str, Any]) -> dict[str, Any]:
    """One mapping from the file, then --set, then flags."""
    from tunesmith import config as configuration

    layers = [configuration.read_file(config)] if config else []
    for key in (word.partition("=")[0].strip() for word in assigned or []):
        if flags.get("stream") and key.startswith("stream."):
            raise UserError(f"--set {key} and --stream both say what the stages are; put it into the file of --stream.")
    layers.append(configuration.assignments(assigned or []))
    layers.append({name: value for name, value in flags.items() if value is not None and value is not False})
    return configuration.merge(*layers)


def emit(content: Any) -> None:
    """The one object of --json."""
    typer.echo(json.dumps(content, ensure_ascii=False, default=str))
