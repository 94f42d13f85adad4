"""merge, verify, export."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith import trust
from tunesmith.cli import flags as f

Folder = Annotated[str, typer.Argument(metavar="ARTIFACT", help="artifact, finished run, or plain peft folder")]
MERGE_HELP = """Fold an adapter into its base, or several LoRA adapters into one.

\b
Examples:
  tunesmith merge runs/lora --output merged
  tunesmith merge runs/a runs/b --method ties --weights 0.7,0.3 --density 0.3 --output both
What was written is opened again and compared; beyond --bound nothing is kept.
"""
VERIFY_HELP = """Open an artifact in a fresh process, compare every hash, score the run's eval rows again.

\b
Example:
  tunesmith verify runs/lora
"""
EXPORT_HELP = """Write an artifact for other programs, open it there, and compare.

\b
Examples:
  tunesmith export runs/lora --to peft --output adapter      peft, vLLM
  tunesmith export runs/lora --to merged --output model      transformers pipelines
  tunesmith export runs/lora --to onnx --output onnx         onnxruntime: classification, tags, answers
"""


def add(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("merge", help=MERGE_HELP)(merge)
    app.command("verify", help=VERIFY_HELP)(verify)
    app.command("export", help=EXPORT_HELP)(export)


def merge(
    artifacts: Annotated[list[str], typer.Argument(metavar="ARTIFACT...", help="one adapter, or several of one base")],
    output: Annotated[str, typer.Option("--output", "-o", help="folder of the new artifact")],
    method: Annotated[
        str | None,
        typer.Option(
            help="of several: cat (default), svd, linear, ties, dare_ties, dare_linear, magnitude_prune, ..._svd"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="of several, comma-separated (default: all alike, in sum 1; of ties and dare_ties 1 each)"),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="of pruning methods: the share of entries that stays (default 0.5)"),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="of svd methods: of the new adapter (default: the largest)")
    ] = None,
    bound: Annotated[float, typer.Option(min=0, help="how far a logit may move, as a share of the largest")] = 1e-3,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is in --output")] = False,
    trust_remote_code: f.TrustRemoteCode = False,
    json: f.Json = False,
    verbose: f.Verbose = 0,
    quiet: f.Quiet = False,
) -> None:
    """Fold an adapter into its base, or several into one."""
    f.talk(verbose, quiet)
    trust.allow(trust_remote_code)
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


def verify(
    artifact: Folder,
    trust_remote_code: f.TrustRemoteCode = False,
    json: f.Json = False,
    verbose: f.Verbose = 0,
    quiet: f.Quiet = False,
) -> None:
    """Check an artifact."""
    f.talk(verbose, quiet)
    trust.allow(trust_remote_code)
    from tunesmith.artifacts.verify import verify as run
    from tunesmith.console import quiet_libraries, say

    quiet_libraries()
    found = run(artifact)
    if json:
        f.emit({**found, "status": "verified"})
        return
    say(f"{found['artifact']}: {found['files']} files are what was saved, and so is the base.")
    if found["rows"] is None:
        say("No result.json stands beside it, so there are no scores to compare.")
    else:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in found["metrics"].items())
        say(
            f"{found['rows']:,} eval rows score as measured (largest difference {found['largest_difference']:.1e}): {scores}"
        )


def export(
    artifact: Folder,
    to: Annotated[str, typer.Option(help="peft, merged or onnx")],
    output: Annotated[str, typer.Option("--output", "-o", help="folder to write")],
    bound: Annotated[float, typer.Option(min=0, help="how far a logit may move, as a share of the largest")] = 1e-3,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is in --output")] = False,
    trust_remote_code: f.TrustRemoteCode = False,
    json: f.Json = False,
    verbose: f.Verbose = 0,
    quiet: f.Quiet = False,
) -> None:
    """Write an artifact for other programs."""
    f.talk(verbose, quiet)
    trust.allow(trust_remote_code)
    from tunesmith.artifacts.export import export as run
    from tunesmith.console import quiet_libraries, say

    quiet_libraries()
    found = run(artifact, to, output, bound=bound, overwrite=overwrite)
    if json:
        f.emit(found)
        return
    rows = f", {found['rows']} eval rows score as measured" if found["rows"] else ""
    say(
        f"Exported for {found['opened_with']}: {found['output']} (the largest logit moved by {found['drift']:.1e} of its size{rows})."
    )
