"""doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import flags as f

if TYPE_CHECKING:
    from tunesmith.doctor.report import Report

DOCTOR_HELP = """Look at rows before any training: what is wrong, in which rows, and what to do.

\b
Examples:
  tunesmith doctor --task text-classification --model asset:bert-tiny --train reviews.csv --eval new_reviews.csv
  tunesmith doctor --task chat --model ./llama --train chats.jsonl --show 2
Errors (exit 2) would stop a run, warnings would not. No weights are loaded. --show N marks every token: trained, context, cut.
"""


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("doctor", help=DOCTOR_HELP)(doctor)


def doctor(
    model: f.Model = None, task: f.Task = None, train: f.Train = None, validation: f.Validation = None, eval: f.Eval = None,
    columns: f.Columns = None, technique: f.Technique = None, max_length: f.MaxLength = None, max_train_rows: f.MaxTrainRows = None,
    max_eval_rows: f.MaxEvalRows = None, trust_remote_code: f.TrustRemoteCode = False,
    show: Annotated[int, typer.Option(min=0, metavar="N", help="show N training rows with every token marked")] = 0,
    config: f.Config = None, set_: f.Set = None, json: f.Json = False, verbose: f.Verbose = 0, quiet: f.Quiet = False,
) -> None:  # fmt: skip
    """Look at rows before any training."""
    f.talk(verbose, quiet)
    given = {
        "model": model, "task": task, "train": train, "validation": validation, "eval": eval, "columns": f.pairs(columns),
        "technique": technique, "max_length": max_length, "max_train_rows": max_train_rows, "max_eval_rows": max_eval_rows,
        "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    from tunesmith import config as configuration
    from tunesmith.config import RunConfig
    from tunesmith.console import quiet_libraries
    from tunesmith.doctor.examination import examine

    resolved = configuration.build(RunConfig, f.layered(config, set_, given))
    quiet_libraries()
    report = examine(resolved, show)
    if json:
        f.emit(report.as_json())
    elif not quiet:
        _print(report)
    raise typer.Exit(2 if report.errors else 0)


def _print(report: Report) -> None:
    """Rows with their marks, findings, numbers, and the verdict."""
    from rich.markup import escape
    from rich.table import Table

    from tunesmith.console import people

    console = people(stderr=False)
    if report.shown:
        _print_rows(report.shown)
    if report.findings:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("", no_wrap=True)
        table.add_column("code", no_wrap=True)
        table.add_column("what, where, and what to do", overflow="fold")
        for finding in report.findings:
            style = "red" if finding.level == "error" else "yellow"
            table.add_row(f"[{style}]{finding.level}[/]", finding.code, escape(finding.sentence))
        console.print(table)
        console.print()
    numbers = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rows of", "count", "tokens: half have up to", "90 %", "99 %", "longest", "rows cut"):
        numbers.add_column(name, justify="left" if name == "rows of" else "right")
    for role, found in report.statistics.items():
        tokens = found.get("tokens", {})
        cells = [f"{tokens[name]:,}" if name in tokens else "-" for name in ("p50", "p90", "p99", "max")]
        numbers.add_row(role, f"{found['rows']:,}", *cells, f"{found['rows_cut']:.1%}" if "rows_cut" in found else "-")
    console.print(numbers)
    style = {"ok": "green", "warnings": "yellow", "errors": "red"}[report.verdict]
    console.print(f"\ndoctor: {report.line}.", style=style, markup=False)


def _print_rows(shown: list[dict[str, Any]]) -> None:
    from rich.text import Text

    from tunesmith.console import people
    from tunesmith.doctor.marking import LEGEND, plain

    console = people(stderr=False)
    styles = {"trained": "bold green", "context": "", "cut": "red strike"}
    legend = Text("marks: ")
    for word, style in (("[trained]", "bold green"), ("  context  ", ""), ("{cut}", "red strike")):
        legend.append(word, style)
    console.print(legend.append(LEGEND.rpartition("}")[2]))
    for row in shown:
        label = f", label {row['label']!r} for the whole row" if "label" in row else ""
        console.print(f"\nrow {row['row']}{label}", style="bold", markup=False)
        for line in row["lines"]:
            text = Text(f"  {line['name']}: ", "dim")
            for number, segment in enumerate(line["segments"]):
                text.append("·" if number else "")
                text.append(plain({"segments": [segment]}), styles[segment["mark"]])
            console.print(text)
    console.print()
