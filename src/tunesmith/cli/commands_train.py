"""train, resume, compare."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tunesmith import launch
from tunesmith.cli import flags as f
from tunesmith.errors import UserError

TRAIN_HELP = """Train one model with one technique, measure it, and keep a verified artifact.

\b
Examples:
  tunesmith train --model asset:minilm --train reviews.csv --technique lora --output runs/lora
  tunesmith train --model ./bert --train a.jsonl --eval b.jsonl --columns text=review,label=stars
  tunesmith train --config run.yaml --set lora.rank=8 --set training.evaluate_every=50
  tunesmith train --model asset:bert-tiny --train reviews.csv --technique adapter --find-learning-rate
  tunesmith train --model asset:bert-tiny --stream stages.yaml --strategy ewc --output runs/stream
  tunesmith train --model asset:bert-tiny --train reviews.csv --objective distillation --teacher runs/lora --output runs/student
"""
COMPARE_HELP = """Train several techniques on the same rows and budget; one table and one report.

\b
Examples:
  tunesmith compare --model asset:bert-tiny --train asset:movie-reviews --output runs/comparison
  tunesmith compare --model ./bert --train a.csv --techniques full,lora,adapter --seeds 0,1,2 --epochs 2
  tunesmith compare --model asset:bert-tiny --train a.csv --grid lora.rank=1,2,4,8
  tunesmith compare --model asset:bert-tiny --stream stages.yaml --strategies none,ewc,joint --techniques lora,full
  tunesmith compare --models new:rnn,new:lstm,asset:smollm2-135m --task language-modeling --train a.txt --techniques lora
Finished runs are kept: the same command again goes on where it stopped.
"""


def add(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("train", help=TRAIN_HELP)(train)
    app.command("compare", help=COMPARE_HELP)(compare)
    app.command("resume")(resume)


def train(
    model: f.Model = None, task: f.Task = None, train: f.Train = None, validation: f.Validation = None, eval: f.Eval = None,
    columns: f.Columns = None, technique: f.Technique = None, quantization: f.Quantization = None, objective: f.Objective = None,
    teacher: f.Teacher = None, stream: f.Stream = None, strategy: f.Strategy = None, continue_from: f.ContinueFrom = None,
    init_adapter: f.InitAdapter = None,
    retain: f.Retain = None,
    seed: f.Seed = None, epochs: f.Epochs = None, max_steps: f.MaxSteps = None, batch_size: f.BatchSize = None,
    learning_rate: f.LearningRate = None, max_length: f.MaxLength = None, max_train_rows: f.MaxTrainRows = None,
    max_eval_rows: f.MaxEvalRows = None, dtype: f.Dtype = None, device: f.Device = None, output: f.Output = None,
    overwrite: f.Overwrite = False, report_to: f.ReportTo = None, trust_remote_code: f.TrustRemoteCode = False,
    no_doctor: f.NoDoctor = False, find_learning_rate: f.FindLearningRate = False,
    config: f.Config = None, set_: f.Set = None, json: f.Json = False, verbose: f.Verbose = 0, quiet: f.Quiet = False,
) -> None:  # fmt: skip
    """Train one model with one technique."""
    f.talk(verbose, quiet)
    given = {
        "model": model, "task": task, "train": train, "validation": validation, "eval": eval, "columns": f.pairs(columns),
        "technique": technique, "quantization": quantization, "objective": objective, "teacher": teacher or None,
        "stream": stream, "strategy": strategy,
        "continue_from": continue_from, "init_adapter": init_adapter, "retain": f.named(retain), "seed": seed, "epochs": epochs,
        "max_steps": max_steps, "batch_size": batch_size, "learning_rate": learning_rate, "max_length": max_length,
        "max_train_rows": max_train_rows, "max_eval_rows": max_eval_rows, "dtype": dtype, "device": device, "output": output,
        "report_to": f.words(report_to), "trust_remote_code": trust_remote_code,
        "doctor": "off" if no_doctor else None,
    }  # fmt: skip
    from tunesmith import config as configuration
    from tunesmith import processes
    from tunesmith import run as runs
    from tunesmith.config import RunConfig

    resolved = configuration.build(RunConfig, f.layered(config, set_, given))
    if not launch.follows():
        processes.open_nursery(idle=True)
    if find_learning_rate:
        if launch.launched() is not None:
            raise UserError("--find-learning-rate works in one process; start it without a launcher.")
        _find_learning_rate(resolved, json)
        return
    result = runs.execute(resolved, overwrite=overwrite)
    if not launch.follows():
        _finish(result, resolved.output or "", json)


def resume(
    run: Annotated[str, typer.Argument(help="the folder of an unfinished run")],
    json: f.Json = False,
    verbose: f.Verbose = 0,
    quiet: f.Quiet = False,
) -> None:
    """Go on with an interrupted run from its newest checkpoint."""
    f.talk(verbose, quiet)
    from tunesmith import processes
    from tunesmith import run as runs

    if not launch.follows():
        processes.open_nursery(idle=True)
    result = runs.resume(run)
    if not launch.follows():
        _finish(result, run, json)


def _find_learning_rate(config: Any, as_json: bool) -> None:
    from tunesmith import range_test

    found, plot = range_test.find(config)
    if as_json:
        f.emit({**vars(found), "plot": str(plot)})
        return
    typer.echo(found.sentence())
    typer.echo(f"Plot: {plot}")


def _finish(result: dict[str, Any], output: str, as_json: bool) -> None:
    if as_json:
        f.emit(result)
        return
    from tunesmith.cli.show import print_result
    from tunesmith.console import say, verbosity

    if verbosity() >= 0:
        print_result(result, stderr=True)
    say(f"Artifact: {output}/artifact    Result: {output}/result.json")
    say(f"Use it:   tunesmith predict {output}/artifact --data rows.jsonl --output predictions.jsonl")


def compare(
    model: f.Model = None, task: f.Task = None, train: f.Train = None, validation: f.Validation = None, eval: f.Eval = None,
    columns: f.Columns = None, retain: f.Retain = None,
    models: Annotated[str | None, typer.Option(help="several models, comma-separated, in place of --model")] = None,
    stream: f.Stream = None,
    techniques: Annotated[str | None, typer.Option(help="comma-separated (default: all; of a stream lora)")] = None,
    strategies: Annotated[str | None, typer.Option(help="of a stream, comma-separated (default: every one that can keep its tasks)")] = None,
    alone: Annotated[bool | None, typer.Option("--alone/--no-alone", help="of a stream: also train each task alone (default: if a stage has several)")] = None,
    baselines: Annotated[str | None, typer.Option(help="comma-separated, or none (default: every one that knows the task)")] = None,
    seeds: Annotated[str | None, typer.Option(help="comma-separated (default 0,1,2)")] = None,
    search: Annotated[str | None, typer.Option(help="rates that are not given: none (defaults) or halving (the same search on validation rows for all)")] = None,
    grid: f.Grid = None, budget: f.Budget = None, jobs: f.Jobs = None, ray: f.Ray = None,
    epochs: f.Epochs = None, max_steps: f.MaxSteps = None, batch_size: f.BatchSize = None, learning_rate: f.LearningRate = None,
    max_length: f.MaxLength = None, max_train_rows: f.MaxTrainRows = None, max_eval_rows: f.MaxEvalRows = None,
    dtype: f.Dtype = None, device: f.Device = None, output: f.Output = None, overwrite: f.Overwrite = False, trust_remote_code: f.TrustRemoteCode = False,
    config: f.Config = None, set_: f.Set = None, json: f.Json = False, verbose: f.Verbose = 0, quiet: f.Quiet = False,
) -> None:  # fmt: skip
    """Train several techniques on the same rows and budget."""
    f.talk(verbose, quiet)
    given = {
        "model": model, "task": task, "train": train, "validation": validation, "eval": eval, "columns": f.pairs(columns),
        "retain": f.named(retain),
        "models": f.words(models), "stream": stream, "techniques": f.words(techniques), "strategies": f.words(strategies),
        "baselines": f.words_or_none(baselines), "seeds": f.numbers(seeds, "--seeds"), "grid": f.grid(grid),
        "budget": budget, "jobs": jobs, "ray": ray, "search": search, "epochs": epochs,
        "max_steps": max_steps, "batch_size": batch_size, "learning_rate": learning_rate, "max_length": max_length,
        "max_train_rows": max_train_rows, "max_eval_rows": max_eval_rows, "dtype": dtype, "device": device, "output": output,
        "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    switched = [] if alone is None else [f"alone={str(alone).lower()}"]  # a flag that says no would be taken for none
    from tunesmith import config as configuration
    from tunesmith.compare import runner
    from tunesmith.config import CompareConfig

    resolved = configuration.build(CompareConfig, f.layered(config, [*(set_ or []), *switched], given))
    comparison = runner.execute(resolved, runner.command_line(), overwrite=overwrite)
    failed = not any(run["kind"] == "technique" and run["status"] == "finished" for run in comparison.results["runs"])
    if json:
        f.emit(comparison.results)
        raise typer.Exit(1 if failed else 0)
    from tunesmith.cli.show import print_comparison
    from tunesmith.console import say, verbosity

    if verbosity() >= 0:
        print_comparison(comparison.results, stderr=True)
    say(f"Report:  {comparison.report}\nResults: {comparison.folder / 'results.json'}")
    if failed:
        from tunesmith.errors import TunesmithError

        raise TunesmithError(f"no technique finished; {comparison.report} says why each of them stopped.")
