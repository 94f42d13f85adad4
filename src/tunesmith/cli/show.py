"""What a finished run, comparison or artifact looks like in a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tunesmith.cli.flags import emit
from tunesmith.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table


def result_table(result: dict[str, Any]) -> Table:
    """Metrics before and after, and what they cost."""
    from rich.table import Table

    from tunesmith.compare.format import count, in_bytes, seconds

    cost, metrics, stream = result["cost"], result["metrics"], result.get("stream")
    title = f"{result['technique']} on {result['model']} ({result['task']}, seed {result['seed']})"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column("metric")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    shown = metrics["after"].items()
    if stream and len(stream["stages"]) > 1:  # the matrix stands above, and result.json has every metric
        shown = [(name, value) for name, value in shown if name == metrics["primary"] or name == "loss"]
    for name, value in shown:
        before = metrics["before"].get(name)
        style = "bold" if name == metrics["primary"] else None
        table.add_row(name, "-" if before is None else f"{before:.4f}", f"{value:.4f}", style=style)
    kept = result.get("forgetting")
    if kept:
        table.add_section()
        before, after = f"{kept['before']:.4f}", f"{kept['after']:.4f}"
        table.add_row(f"retained, {kept['source']}: {kept['metric']}", before, after)
        what = "moved (a distance, not a loss)" if kept["kind"] == "representation" else "forgotten (below 0: better)"
        table.add_row(what, "", f"{kept['change']:+.4f}")
    table.add_section()
    rows = (
        ("parameters that learn", f"{count(cost['trainable_parameters'])}"),
        ("time of training", seconds(cost["train_seconds"]) if cost["train_seconds"] is not None else "-"),
        ("tokens per second", f"{cost['tokens_per_second']:,.0f}" if cost["tokens_per_second"] else "-"),
        ("peak memory", in_bytes(cost["peak_memory_bytes"])),
        ("artifact", in_bytes(cost["artifact_bytes"])),
    )
    for name, text in rows:
        table.add_row(name, "", text)
    return table


def print_result(result: dict[str, Any], *, stderr: bool) -> None:
    """A run for people: of a stream its matrix and what that amounts to, then metrics and costs."""
    from tunesmith.compare.stream_table import matrix_table, sentence
    from tunesmith.console import people

    stream, console = result.get("stream"), people(stderr=stderr)
    if stream:
        console.print(
            matrix_table(stream, f"{len(stream['stages'])} stages, strategy {stream.get('strategy', 'none')}")
        )
        console.print(sentence(stream), markup=False)
        console.print()
    console.print(result_table(result))
    for each in [] if stderr else result.get("training", {}).get("warnings", []):  # while it trained they were said
        console.print(f"Noticed at step {each['step']}: {each['message']}", markup=False)


def print_comparison(results: dict[str, Any], *, stderr: bool) -> None:
    """A comparison for people: its table, and what the numbers mean."""
    from tunesmith.compare import stream_table, study_table, table
    from tunesmith.console import people

    console = people(stderr=stderr)
    if not (results.get("protocol") or {}).get("stream"):
        console.print(table.comparison_table(results))
        for each in study_table.study_tables(results):
            console.print()
            console.print(each)
        notes = table.footnotes(results)
    else:
        console.print(stream_table.stream_table(results))
        alone, notes = stream_table.alone_table(results), stream_table.footnotes(results)
        if alone is not None:
            console.print(alone)
            console.print()
    for note in notes:
        console.print(note, markup=False)


def show(path: Path, as_json: bool) -> None:
    """Print a run, a comparison or an artifact."""
    if (path / "results.json").is_file():
        content = _read(path / "results.json")
        if as_json:
            emit(content)
            return
        print_comparison(content, stderr=False)
        return
    run = path.parent if path.name == "artifact" and (path.parent / "result.json").is_file() else path
    if (run / "result.json").is_file():
        content = _read(run / "result.json")
        if as_json:
            emit(content)
        else:
            print_result(content, stderr=False)
        return
    if (path / "tunesmith.json").is_file():
        content = _read(path / "tunesmith.json")
        if as_json:
            emit(content)
        else:
            typer.echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    if (path / "config.yaml").is_file():
        raise UserError(f"the run in `{path}` is not finished; go on with `tunesmith resume {path}`.")
    raise UserError(f"`{path}` holds no run, comparison or artifact; see `tunesmith list runs`.")


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise UserError(f"`{path}` is damaged ({error}); run again with --overwrite.") from error
