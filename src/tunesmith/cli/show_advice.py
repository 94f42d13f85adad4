"""What `tunesmith plan --advise` prints: the ranking, why, and a config that is ready to train with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import UserError

if TYPE_CHECKING:
    from tunesmith.config import RunConfig
    from tunesmith.dry_run import Advised

EXPLAINED = 3  # techniques whose reasons are printed; --json has all
FOLDER = "runs/advised"


def place(output: str | None, overwrite: bool) -> Path | None:
    """Where the config goes.

    Raises:
        UserError: a file is there already.
    """
    if output is None:
        return None
    found = Path(output)
    if found.is_dir() or (found.exists() and not overwrite):
        raise UserError(f"`{output}` is there already; name another file, or add --overwrite.")
    return found


def config_text(raw: dict[str, Any], built: RunConfig, advised: Advised) -> str | None:
    """The settings given, with the advised technique and rate, as YAML; None where nothing can be advised."""
    import yaml

    from tunesmith import config as configuration
    from tunesmith.config import is_new

    best = advised.advice.best
    if best is None:
        return None
    own = {key: value for key, value in raw.items() if key not in ("technique", "learning_rate")}
    own["technique"] = best.technique
    if raw.get("learning_rate") is not None:
        own["learning_rate"] = raw["learning_rate"]
    elif best.learning_rate is not None and not is_new(built.model):
        own["learning_rate"] = best.learning_rate
    if advised.advice.strategies and not raw.get("strategy"):
        own["strategy"] = advised.advice.strategies[0]["strategy"]
    own.setdefault("output", FOLDER)
    configuration.build(type(built), own)  # what is advised must be something that train takes
    return yaml.safe_dump(own, sort_keys=False, allow_unicode=True)


def say(advised: Advised, text: str | None, written: Path | None) -> None:
    """Print it for people."""
    from rich.table import Table

    from tunesmith.cli.commands_plan import crowded
    from tunesmith.compare.format import count, in_bytes, rate, seconds
    from tunesmith.console import people

    advice = advised.advice
    planned = {each["technique"]: each for each in advised.predictions}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(
        ("", "technique", "behind the best", "rate", "learn", "time", "memory", "fits", "lacks")
    ):
        table.add_column(name, justify="left" if number in (1, 8) else "right", no_wrap=True)
    for number, each in enumerate(advice.ranked, 1):
        found = planned[each.technique]
        if found["status"] != "planned":
            table.add_row("-", each.technique, found["status"])
            continue
        fits = {True: "yes", False: "no", None: "-"}[found["fits"]]
        table.add_row(
            str(number), each.technique, "-" if each.behind is None else f"{each.behind:.1f}", "-" if each.learning_rate is None else rate(each.learning_rate),
            count(found["trainable_parameters"]), "-" if found["seconds"] is None else seconds(found["seconds"]),
            "-" if found["memory_bytes"] is None else in_bytes(found["memory_bytes"]), fits, ", ".join(each.unmet),
        )  # fmt: skip
    console = people(stderr=False)
    case = advice.case
    labels = f" with {case.num_labels} labels" if case.num_labels > 1 else ""
    console.print(
        f"{case.task}, {case.rows:,} rows{labels}, {case.architecture} of {count(case.parameters)} parameters",
        markup=False,
    )
    console.print(table)
    console.print(
        "behind the best: points expected, from comparisons that were measured on other rows; less than 0.5 is a tie, and the cheaper comes first."
    )
    for line in crowded(advised.predictions):
        console.print(line, markup=False)
    for each in advice.ranked[:EXPLAINED]:
        console.print(f"\n{each.technique}:", style="bold")
        for reason in each.reasons:
            console.print(
                f"  {'-' if reason.against else '+'} {reason.rule}: {reason.says} [{reason.evidence}]", markup=False
            )
    if advice.strategies:
        console.print("\nstages, one after the other:", style="bold")
        for entry in advice.strategies[:EXPLAINED]:
            console.print(
                f"  {entry['strategy']}: average {entry['average']:.1f}, forgets {entry['forgetting']:.1f} points [benchmarks/results/streams_tasks.json]",
                markup=False,
            )
    if text is None:
        console.print(
            "\nNothing is advised: no technique fits; take a smaller model, fewer rows a pass, or --quantization nf4."
        )
        return
    console.print(f"\nA config to begin with{'' if written is None else f', written to {written}'}:", style="bold")
    console.print(text.rstrip(), markup=False)
    named = written or "run.yaml"
    kept = "" if written is not None else "Save it as run.yaml (or add --output run.yaml). "
    console.print(f"\n{kept}Train with it: tunesmith train --config {named}", markup=False)
    others = [each.technique for each in advice.ranked if each.possible][:EXPLAINED]
    beside = "--set learning_rate=null --search halving"
    if advice.strategies:  # of stages strategies are compared, at rates that are given
        named_first = [str(each["strategy"]) for each in advice.strategies[:EXPLAINED]]
        beside = f"--set strategy=null --strategies {','.join(dict.fromkeys([*named_first, 'none', 'joint']))}"
    command = f"tunesmith compare --config {named} --set technique=null {beside} --techniques {','.join(others)} --output runs/compared"
    console.print(f"See for yourself: {command}", markup=False)
