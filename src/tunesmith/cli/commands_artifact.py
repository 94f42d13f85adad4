"""evaluate, predict, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import flags as f

Folder = Annotated[str, typer.Argument(metavar="ARTIFACT", help="artifact folder, or the folder of a finished run")]
Head = Annotated[
    str | None, typer.Option(help="of a stream: the task whose head reads the rows; auto: find out each row's task")
]
Base = Annotated[
    str | None, typer.Option("--model", help="of a plain peft folder: its base, where the one it names is not here")
]
For = Annotated[
    str | None, typer.Option("--task", help="of a plain peft folder: what it is for, where it does not say so")
]
Data = Annotated[str, typer.Option(help="rows: file, hub id (name:split), asset:NAME")]


def add(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("evaluate")(evaluate)
    app.command("predict")(predict)
    app.command("merge")(merge)


def evaluate(
    artifact: Folder,
    data: Data,
    columns: f.Columns = None,
    head: Head = None,
    model: Base = None,
    task: For = None,
    batch_size: Annotated[int, typer.Option(min=1, help="rows per forward pass")] = 64,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="run programs that the model writes (asset:human-eval)")
    ] = False,
    json: f.Json = False,
    verbose: f.Verbose = 0,
    quiet: f.Quiet = False,
) -> None:
    """Score an artifact on labelled rows: tunesmith evaluate runs/lora/artifact --data more.csv."""
    f.talk(verbose, quiet)
    from tunesmith.artifacts.use import load
    from tunesmith.console import quiet_libraries

    quiet_libraries()
    opened = load(artifact, device=device, dtype=dtype, batch_size=batch_size, task=task, base=model)
    opened = opened.choose(head) if head else opened
    metrics = opened.evaluate(data, f.pairs(columns), allow_code_execution=allow_code_execution)
    content = {
        "artifact": artifact,
        "data": data,
        "metrics": {
            **metrics,
            "primary": opened.task.primary if opened.task.primary in metrics else next(iter(metrics)),
        },
        "dtype": dtype,
    }
    if json:
        f.emit(content)
        return
    for name, value in metrics.items():
        typer.echo(f"{name:<12} {value:.4f}")


def predict(
    artifact: Folder,
    data: Data,
    output: Annotated[str, typer.Option("--output", "-o", help="JSONL file to write")],
    columns: f.Columns = None,
    head: Head = None,
    model: Base = None,
    task: For = None,
    batch_size: Annotated[int, typer.Option(min=1, help="rows per forward pass")] = 64,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    json: f.Json = False,
    verbose: f.Verbose = 0,
    quiet: f.Quiet = False,
) -> None:
    """Add a prediction and a score to every row: tunesmith predict runs/lora/artifact --data rows.jsonl -o out.jsonl."""
    f.talk(verbose, quiet)
    from tunesmith.artifacts.use import load, predict_file, write_predictions
    from tunesmith.console import quiet_libraries, say

    quiet_libraries()
    opened = load(artifact, device=device, dtype=dtype, batch_size=batch_size, task=task, base=model)
    opened = opened.choose(head) if head else opened
    count = write_predictions(predict_file(opened, data, f.pairs(columns) or {}), Path(output))
    if json:
        f.emit({"artifact": artifact, "data": data, "output": output, "rows": count})
    else:
        say(f"{count:,} rows with predictions: {output}")


def merge(
    artifacts: Annotated[list[str], typer.Argument(metavar="ARTIFACT...", help="one adapter, or several of one base")],
    output: Annotated[str, typer.Option("--output", "-o", help="folder of the new artifact")],
    method: Annotated[
        str, typer.Option(help="of several: cat, svd, linear, ties, dare_ties, dare_linear, magnitude_prune, ..._svd")
    ] = "cat",
    weights: Annotated[
        str | None, typer.Option(help="of several, comma-separated (default: all alike, in sum 1)")
    ] = None,
    density: Annotated[
        float, typer.Option(min=0, max=1, help="of pruning methods: the share of entries that stays")
    ] = 0.5,
    rank: Annotated[
        int | None, typer.Option(min=1, help="of svd methods: of the new adapter (default: the largest)")
    ] = None,
    bound: Annotated[float, typer.Option(min=0, help="how far a logit may move, as a share of the largest")] = 1e-3,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is in --output")] = False,
    json: f.Json = False,
    verbose: f.Verbose = 0,
    quiet: f.Quiet = False,
) -> None:
    """Fold an adapter into its base, or several LoRA adapters into one.

    Examples:
      tunesmith merge runs/lora/artifact --output merged
      tunesmith merge runs/a/artifact runs/b/artifact --method ties --weights 0.7,0.3 --density 0.3 --output both
    What was written is opened again and compared; beyond --bound nothing is kept.
    """
    f.talk(verbose, quiet)
    from tunesmith.artifacts.merge import merge as run
    from tunesmith.console import quiet_libraries, say
    from tunesmith.errors import UserError

    quiet_libraries()
    try:
        factors = [float(part) for part in weights.split(",")] if weights else None
    except ValueError as error:
        raise UserError(f"--weights takes numbers such as 0.7,0.3, got `{weights}`.") from error
    found = run(
        artifacts, output, method=method, weights=factors, density=density, rank=rank, bound=bound, overwrite=overwrite
    )
    if json:
        f.emit(found)
    else:
        say(
            f"Merged ({found['method']}): {found['output']}; the largest logit moved by {found['drift']:.1e} of its size."
        )
