"""evaluate, predict."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith import trust
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
Labels = Annotated[
    str | None, typer.Option("--labels", help="of a plain peft folder: its labels in their order, comma-separated")
]
Data = Annotated[str, typer.Option(help="rows: file, hub id (name:split), asset:NAME")]
PREDICT_HELP = """Add a prediction and a score to every row of a file, or a vector.

\b
Examples:
  tunesmith predict runs/lora/artifact --data rows.jsonl --output out.jsonl
  tunesmith predict runs/lora/artifact --data rows.csv --columns text=review --output out.jsonl
  tunesmith predict runs/lora/artifact --data rows.jsonl --output vectors.jsonl --embeddings
Rows stream through in their order. The same command again goes on where a stopped one was.
"""


def add(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("evaluate")(evaluate)
    app.command("predict", help=PREDICT_HELP)(predict)


def evaluate(
    artifact: Folder,
    data: Data,
    columns: f.Columns = None,
    head: Head = None,
    model: Base = None,
    task: For = None,
    labels: Labels = None,
    batch_size: Annotated[int, typer.Option(min=1, help="rows per forward pass")] = 64,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="run programs that the model writes (asset:human-eval)")
    ] = False,
    trust_remote_code: f.TrustRemoteCode = False,
    json: f.Json = False,
    verbose: f.Verbose = 0,
    quiet: f.Quiet = False,
) -> None:
    """Score an artifact on labelled rows: tunesmith evaluate runs/lora/artifact --data more.csv."""
    f.talk(verbose, quiet)
    trust.allow(trust_remote_code)
    from tunesmith.artifacts.use import load
    from tunesmith.console import quiet_libraries

    quiet_libraries()
    opened = load(
        artifact, device=device, dtype=dtype, batch_size=batch_size, task=task, base=model, labels=f.words(labels)
    )
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
    labels: Labels = None,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="add `embedding`, what the head reads, in place of predictions")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="rows per forward pass")] = 64,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="start over where an unfinished file of another run is in the way")
    ] = False,
    trust_remote_code: f.TrustRemoteCode = False,
    json: f.Json = False,
    verbose: f.Verbose = 0,
    quiet: f.Quiet = False,
) -> None:
    """Add a prediction and a score to every row of a file, or a vector."""
    f.talk(verbose, quiet)
    trust.allow(trust_remote_code)
    from tunesmith.artifacts.predict import predict_file
    from tunesmith.artifacts.use import load
    from tunesmith.console import quiet_libraries, say

    quiet_libraries()
    opened = load(
        artifact, device=device, dtype=dtype, batch_size=batch_size, task=task, base=model, labels=f.words(labels)
    )
    opened = opened.choose(head) if head else opened
    done = predict_file(opened, data, output, f.pairs(columns), embeddings=embeddings, overwrite=overwrite)
    speed = (done.rows - done.resumed) / max(done.seconds, 1e-9)
    if json:
        seconds = round(done.seconds, 3)
        f.emit(
            {"artifact": artifact, "data": data, "output": output, "rows": done.rows, "resumed": done.resumed, "seconds": seconds}
        )  # fmt: skip
    else:
        what = "embeddings" if embeddings else "predictions"
        say(f"{done.rows:,} rows with {what} ({speed:,.0f} rows/s): {output}")
