"""list, show, init, clear."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli import flags as f
from tunesmith.errors import SaveError, UserError, unknown

CLEAR_HELP = """Free the disk of what can be made or fetched again.

\b
Examples:
  tunesmith clear
  tunesmith clear --older-than 30
  tunesmith clear features assets
`tunesmith list cache` says what is there. What is used by a run that goes on right now is made again when it is asked for.
"""
KINDS = ("tasks", "techniques", "strategies", "objectives", "baselines", "assets", "cache", "runs")


def add(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("show")(show)
    app.command("list")(list_)
    app.command("clear", help=CLEAR_HELP)(clear)
    app.command("init")(init)


def list_(
    what: Annotated[str, typer.Argument(metavar="WHAT", help=", ".join(KINDS))],
    folder: Annotated[str, typer.Option(help="where to look for runs")] = "runs",
    json: f.Json = False,
) -> None:
    """List what is there: tunesmith list techniques."""
    if what not in KINDS:
        raise UserError(unknown("list", what, KINDS))
    if what == "assets":
        rows = _assets()
    elif what == "cache":
        rows = _cache()
    elif what == "runs":
        rows = _runs(Path(folder))
    else:
        from tunesmith import registry

        kind = {"strategies": "strategy"}.get(what, what.removesuffix("s"))
        rows = [
            {"name": f"{n}:METHOD" if n == "peft" else n, "summary": registry.resolve(kind, n).summary}
            for n in registry.names(kind)
        ]
    if json:
        f.emit(rows)
        return
    if not rows:
        typer.echo(f"no {what} here.")
        return
    from rich.table import Table

    from tunesmith.console import people

    table = Table(box=None, pad_edge=False, header_style="bold")
    last = len(rows[0]) - 1
    for number, name in enumerate(rows[0]):  # the last column is prose: it gets the room that the others leave
        table.add_column(name, no_wrap=number < last, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    people(stderr=False).print(table)


def _assets() -> list[dict[str, Any]]:
    from tunesmith import assets

    return [
        {
            "name": a.name,
            "kind": a.kind,
            "download": _size(a.download_size),
            "on disk": _size(assets.size_on_disk(a)) if assets.is_fetched(a) else "-",
            "licence": a.licence.split(",")[0],
            "what": f"{a.task}: {a.description}",
        }
        for a in assets.catalogue()
    ]


def _cache() -> list[dict[str, Any]]:
    from tunesmith.cache import room
    from tunesmith.location import cache_root

    root = cache_root()
    found: dict[str, list[room.Entry]] = {}
    for each in room.entries(root):
        found.setdefault(each.kind, []).append(each)
    rows = [
        {"kind": kind, "entries": len(each), "on disk": _size(sum(e.bytes for e in each)), "where": str(root / kind)}
        for kind, each in sorted(found.items())
    ]
    computed = [e for kind, each in found.items() if kind != room.ASSETS for e in each]
    total = {"kind": "computed", "entries": len(computed), "on disk": _size(sum(e.bytes for e in computed))}
    return [*rows, {**total, "where": f"of at most {_size(room.limit(root))} ({room.LIMIT})"}]


def clear(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KIND]...", help="kinds that `list cache` names (default: all that was computed, no assets)"
        ),
    ] = None,
    older_than: Annotated[float, typer.Option(help="only what was not used for so many days")] = 0.0,
    json: f.Json = False,
) -> None:
    """Free the disk of what can be made or fetched again."""
    from tunesmith.cache import room
    from tunesmith.location import cache_root

    root = cache_root()
    known = {each.kind for each in room.entries(root)}
    for kind in what or ():
        if kind not in known:
            raise UserError(
                unknown("kind of cache entry", kind, known) if known else f"the cache in `{root}` is empty."
            )
    gone = room.clear(root, what or (), older_than * 24 * 3600)
    freed = sum(each.bytes for each in gone)
    if json:
        f.emit({"entries": len(gone), "bytes": freed, "root": str(root)})
    else:
        typer.echo(f"{len(gone)} entries of {_size(freed)} are gone from {root}.")


def _size(count: float) -> str:
    from tunesmith.compare.format import in_bytes

    return in_bytes(count)


def _runs(folder: Path) -> list[dict[str, Any]]:
    import json

    rows = []
    for path in sorted(folder.rglob("config.yaml")):
        result = path.parent / "result.json"
        if not result.is_file():
            rows.append({"run": str(path.parent), "status": "unfinished", "technique": "", "score": ""})
            continue
        try:
            content = json.loads(result.read_text(encoding="utf-8"))
        except ValueError:
            rows.append({"run": str(path.parent), "status": "damaged", "technique": "", "score": ""})
            continue
        primary = content["metrics"]["primary"]
        score = f"{primary} {content['metrics']['after'].get(primary, float('nan')):.4f}"
        rows.append(
            {"run": str(path.parent), "status": content["status"], "technique": content["technique"], "score": score}
        )
    return rows


def show(
    run: Annotated[str, typer.Argument(help="a run's or comparison's folder, or an artifact")],
    json: f.Json = False,
) -> None:
    """Show what a run found: tunesmith show runs/lora."""
    from tunesmith.cli.show import show as render

    render(Path(run), json)


def init(
    output: Annotated[str, typer.Option("--output", "-o", help="file to write; - prints")] = "tunesmith.yaml",
    technique: f.Technique = None,
    task: f.Task = None,
    overwrite: f.Overwrite = False,
) -> None:
    """Write a commented configuration to start from: tunesmith init, then tunesmith train --config tunesmith.yaml."""
    from tunesmith.cli.template import template

    text = template(technique or "lora", task or "text-classification")
    if output == "-":
        typer.echo(text, nl=False)
        return
    path = Path(output)
    if path.exists() and not overwrite:
        raise UserError(f"`{output}` is there already; add --overwrite to replace it, or give another --output.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SaveError(f"cannot write `{output}`: {error.strerror or error}; give another --output.") from error
    typer.echo(f"Wrote {output}. Fill in model and train, then: tunesmith train --config {output}", err=True)
