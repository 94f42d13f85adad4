"""What people ask about fine-tuning, answered with the committed results: python benchmarks/questions.py > docs/questions.md"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
CHANCE = 0.55  # of two labels that are equally frequent
Rows = dict[str, dict[str, Any]]

SUITED = {
    "full": ("many rows, one task, memory for three copies of the model", "the highest ceiling"),
    "feature-based": (
        "few rows, a text read many times, a first answer in seconds",
        "the backbone runs once, however many epochs",
    ),
    "bitfit": ("encoders with few rows", "a tiny artifact that merges"),
    "adapter": ("many tasks on one base that stays as it is", "small, stackable modules"),
    "lora": ("most cases, above all decoders", "merges into the base, opens in peft, served side by side"),
    "dora": ("as lora, where a little more quality pays for more time", "direction and magnitude learn apart"),
    "ia3": ("very many tasks, very small artifacts", "three vectors a layer, merges"),
    "prompt-tuning": ("large models that must not be touched at all", "the input is all that changes"),
    "prefix-tuning": ("generation with a model that must not be touched", "keys and values of every layer, no weight"),
    "qlora": ("a base that does not fit in 16 bits", "LoRA on four bits"),
}
"""By technique: what it is suited for, and its main strength. The rest of the table is measured."""

COMPARED = {
    "reviews": "An encoder that classifies: minilm (22.7 M parameters), 2,000 movie reviews",
    "entities": "An encoder that tags words: minilm, entities in 1,200 tweets",
    "instructions": "A decoder that follows instructions: smollm2-135m, 256 instructions",
}
"""Comparisons of all techniques, and what they are of."""


def read(name: str) -> Any:
    """One file of results; None where it has not been measured yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def techniques(results: dict[str, Any]) -> Rows:
    """Finished rows of a comparison by technique."""
    return {
        row["technique"]: row for row in results["rows"] if row["kind"] == "technique" and row["status"] == "finished"
    }


def score(row: dict[str, Any]) -> str:
    """Mean and half of the interval, in points where it is a share."""
    primary = row.get("primary", row)
    unit = 100 if primary["mean"] <= 1 else 1
    text = f"{unit * primary['mean']:.1f}"
    return text if primary["low"] is None else f"{text} ± {unit * (primary['high'] - primary['mean']):.1f}"


def share(part: float) -> str:
    """Per cent, two digits of small ones."""
    return f"{100 * part:.0f} %" if part >= 0.1 else f"{100 * part:.2g} %"


def points(results: dict[str, Any], technique: str) -> list[dict[str, Any]]:
    """Of a study, the points of one technique."""
    return next(entry["points"] for entry in results["studies"] if entry["technique"] == technique)


def _word(value: Any) -> str:
    """As a setting is written."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def needed() -> Iterator[str]:
    """What it is, and when it is needed."""
    rows = read("instruction_or_head")["rows"]
    mean = {name: statistics.mean(100 * each["accuracy"] for each in seeds.values()) for name, seeds in rows.items()}
    learn = {name: max(each["parameters"] for each in seeds.values()) for name, seeds in rows.items()}
    yield "## What is fine-tuning, and when is it needed?\n"
    yield (
        "A pretrained model has learned a language from much text. Fine-tuning goes on with that training on a few rows of yours, so that the model does one thing well. "
        "It is needed where asking in words is not enough, which a baseline tells: the same model on the same rows, asked, shown examples, and trained.\n"
    )
    yield "| smollm2-135m on 400 reviews | accuracy (%) | parameters that learn |"
    yield "|---|---|---|"
    for name, value in mean.items():
        yield f"| {name} | {value:.1f} | {learn[name]:,} |"
    yield ""
    asked = max(value for name, value in mean.items() if "shot" in name)
    best = max(mean, key=lambda name: mean[name])
    yield (
        f"Here asking comes to {asked:.1f} at best, next to chance for a model of this size, and {best} to {mean[best]:.1f}. A larger model is asked with more success; "
        "`--baselines zero-shot,few-shot` measures yours before anything is trained. `python benchmarks/instruction_or_head.py`\n"
    )


def side_by_side() -> Iterator[str]:
    """The classic table, with numbers: of each comparison one."""
    yield "## How do the techniques compare?\n"
    yield (
        "Every technique on the same rows, three seeds, a searched rate for each, two runs at once. `tie`: the paired bootstrap cannot tell it from the best "
        "([comparing.md](comparing.md)); the reports with curves, intervals and costs are in `benchmarks/results/`.\n"
    )
    for name, what in COMPARED.items():
        results = read(f"comparison_{name}")
        if results is not None:
            yield f"### {what}\n"
            yield f"`{results['protocol']['command']}`, [report](../benchmarks/results/comparison_{name}.html)\n"
            yield from one_table(results)
    yield (
        "The last two columns are judgement, the others measured. What the numbers do not say: memory here is mostly the libraries and the activations, because the models "
        "are small; with a model of billions the gradients and moments of `full` are what decides, and `tunesmith plan` says how much they are for yours.\n"
    )


def one_table(results: dict[str, Any]) -> Iterator[str]:
    """Weights tuned, score, memory, speed, size and what it is for, the best first."""
    rows = techniques(results)
    full = rows["full"]
    higher = better(results)
    yield f"| technique | weights tuned | {unit(results)} | to the best | peak memory, MiB | time, of full | artifact, MiB | suited for | main strength |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, row in sorted(rows.items(), key=lambda pair: pair[1]["primary"]["mean"] * (-1 if higher else 1)):
        against = row["against_best"]
        scale = 100 if higher else 1
        behind = "-" if against is None else f"{'tie, ' if against['tie'] else ''}{scale * against['difference']:+.1f}"
        suited, strength = SUITED[name]
        yield (
            f"| `{name}` | {row['trainable_parameters']:,.0f} ({share(row['trainable_share'])}) | {score(row)} | {behind} | {row['peak_memory_bytes'] / 2**20:,.0f} "
            f"| {100 * row['train_seconds'] / full['train_seconds']:.0f} % | {row['artifact_bytes'] / 2**20:,.1f} | {suited} | {strength} |"
        )
    yield ""
    rest = [row for row in results["rows"] if row["kind"] != "technique" and row["primary"]]
    named = (
        f"{row['technique']} {score(row)}{' (tie)' if (row['against_best'] or {}).get('tie') else ''}" for row in rest
    )
    yield f"For comparison: {', '.join(named)}.\n"
    refused = {
        run["technique"]: run["reason"]
        for run in results["runs"]
        if run["kind"] == "technique" and run["status"] == "refused"
    }
    yield from (f"Refused: {reason}\n" for reason in refused.values())
    lost = [
        f"{run['technique']} with seed {run['seed']} ({number(results, run['metrics']['after'][results['protocol']['primary']])})"
        for run in results["runs"]
        if run["kind"] == "technique"
        and run["status"] == "finished"
        and (came_to_nothing(run) or run["metrics"]["after"].get("accuracy", 1) < CHANCE)
    ]
    if lost:
        yield (
            f"Wide intervals are runs that came to nothing: {', '.join(lost)}. Their rate was found with two seeds in short trials, and was too high for another; a "
            "comparison with one seed would not have shown it. Such a run says so itself (`one-answer` of [reliability.md](reliability.md)).\n"
        )


def came_to_nothing(run: dict[str, Any]) -> bool:
    """Whether it answers every row alike."""
    return any(each["guard"] == "one-answer" for each in run["warnings"])


def better(results: dict[str, Any]) -> bool:
    """Whether more of the primary metric is better."""
    return bool(results["protocol"]["higher_is_better"])


def unit(results: dict[str, Any]) -> str:
    """The primary metric's name, as a column's head."""
    primary = str(results["protocol"]["primary"])
    return f"{primary} (%)" if better(results) else primary


def number(results: dict[str, Any], value: float) -> str:
    """A value of the primary metric."""
    return f"{100 * value:.0f} %" if better(results) else f"{value:.2f}"


def losses() -> Iterator[str]:
    """Language modelling against classification."""
    yield "## How does the loss differ between language modelling and classification?\n"
    yield (
        "Both are cross-entropies, in nats. A classifier makes one choice a row among its labels; a language model makes one at every position among all tokens of its "
        "vocabulary. So "
        "their values do not compare: what a blind guess costs is the logarithm of the number of choices, and a pretrained language model begins far below it, a fresh "
        "head exactly at it.\n"
    )
    yield "| what is learned | choices | a blind guess | untouched | after training |"
    yield "|---|---|---|---|---|"
    epochs = read("comparison_epochs")
    if epochs is not None:
        runs = [run for run in epochs["runs"] if run["technique"] == "feature-based" and run["setting"] == "epochs=8"]
        before, after = (statistics.mean(run["metrics"][when]["loss"] for run in runs) for when in ("before", "after"))
        yield f"| sentiment of reviews, bert-tiny, a head | 2 labels a row | {math.log(2):.2f} | {before:.2f} | {after:.2f} |"
    for file, what, vocabulary in (
        ("language-modeling-causal", "novels by Jane Austen, smollm2-135m", 49_152),
        ("chat", "answers in conversations, smollm2-135m", 49_152),
        ("language-modeling-vi", "Vietnamese help texts, smollm2-135m", 49_152),
    ):
        run = read(f"tasks/{file}")
        yield (
            f"| {what} | {vocabulary:,} tokens a position | {math.log(vocabulary):.2f} | {math.log(run['untouched']['perplexity']):.2f} | "
            f"{math.log(run['after']['perplexity']):.2f} |"
        )
    yield ""
    yield (
        "Perplexity is `exp(loss)`: how many tokens the model hesitates between. It depends on the tokenizer; bits per byte does not. A classifier's accuracy may rise "
        "while its loss does, too "
        "(next question), since being wrong with more confidence costs more.\n"
    )


def overfitting() -> Iterator[str]:
    """Few rows, many epochs."""
    results = read("comparison_epochs")
    if results is None:
        return
    yield "## How is overfitting on small data avoided?\n"
    yield f"bert-tiny on 200 reviews, three seeds: `{results['protocol']['command']}`\n"
    yield "| technique | epochs | accuracy (%) | loss on eval rows | runs of three that were warned |"
    yield "|---|---|---|---|---|"
    shown: dict[tuple[str, str], float] = {}
    for entry in results["studies"]:
        for point in entry["points"]:
            setting = f"{entry['key']}={point['value']}"
            runs = [
                run for run in results["runs"] if run["technique"] == entry["technique"] and run["setting"] == setting
            ]
            loss = statistics.mean(run["metrics"]["after"]["loss"] for run in runs)
            shown[entry["technique"], str(point["value"])] = loss
            warned = sum(any(each["guard"] == "overfitting" for each in run["warnings"]) for run in runs)
            yield f"| {entry['technique']} | {point['value']} | {score(point)} | {loss:.2f} | {warned} |"
    yield ""
    yield (
        f"The loss says it first: of full fine-tuning it goes from {shown['full', '2']:.2f} to {shown['full', '32']:.2f}, far beyond a blind guess ({math.log(2):.2f}), "
        "while the accuracy hardly moves. "
        f"A frozen backbone has little to overfit with ({shown['feature-based', '32']:.2f} after 32 epochs). What helps: more rows (next question), fewer "
        "epochs, fewer parameters "
        "that learn (`feature-based`, then `lora` and its kin), and choosing on rows that are not learned from, with `training.keep_best=true` or "
        "`training.early_stopping=2`, by the score that matters to you. A run that is measured twice or more between its steps says when it happens "
        "([reliability.md](reliability.md)); here evaluations may take half the time of training, and a thousand eval rows beside 200 to learn from leave two of them "
        "in 8 epochs and none in 2.\n"
    )
    kept = read("comparison_kept")
    if kept is not None:
        (entry,) = kept["studies"]
        found = {}
        for point in entry["points"]:
            runs = [run for run in kept["runs"] if run.get("setting") == f"{entry['key']}={_word(point['value'])}"]
            loss = statistics.mean(run["metrics"]["after"]["loss"] for run in runs)
            found[bool(point["value"])] = f"a loss of {loss:.2f} and {score(point)} % accuracy"
        yield (
            f"Full fine-tuning for 32 epochs again, some of the rows kept for choosing: the last weights have {found[False]}, the best ones by the loss on those rows "
            f"(`training.keep_best=true`, `training.best_metric=loss`) {found[True]}. "
            "What is chosen by is what one gets: probabilities that can be trusted, or the last points of accuracy.\n"
        )


def frozen() -> Iterator[str]:
    """When to keep the backbone as it is."""
    results = read("comparison_rows")
    if results is None:
        return
    yield "## When should the model stay frozen?\n"
    yield f"bert-tiny on so many reviews, three epochs, three seeds: `{results['protocol']['command']}`\n"
    values = [point["value"] for point in results["studies"][0]["points"]]
    yield "| technique | " + " | ".join(f"{value:,} rows" for value in values) + f" | seconds at {values[-1]:,} |"
    yield "|---|" + "---|" * (len(values) + 1)
    for entry in results["studies"]:
        cells = [score(point) for point in entry["points"]]
        yield f"| {entry['technique']} | {' | '.join(cells)} | {entry['points'][-1]['train_seconds']:.1f} |"
    yield ""
    words = next(row for row in results["rows"] if row["technique"] == "tfidf")
    gaps = [
        100 * (points(results, "full")[place]["mean"] - points(results, "feature-based")[place]["mean"])
        for place in range(len(values))
    ]
    yield (
        f"With {values[0]} rows it makes no difference which parameters learn (full is {gaps[0]:+.1f} points from the frozen backbone, within the noise of seeds); with "
        f"{values[-1]:,} it does ({gaps[-1]:+.1f}). "
        f"(Counts of words and a logistic regression on all rows: {100 * words['primary']['mean']:.1f}; a model of this size is no match for it.) "
        "So: stay frozen while rows are few, when a first answer is wanted in seconds, or when one pass over the texts has to serve many heads; let the model learn when "
        "rows are in the thousands.\n"
    )


def nothing_learned() -> Iterator[str]:
    """A head's rate against the plateau of one answer."""
    results = read("comparison_head")
    if results is None:
        return
    outside = next(run["metrics"]["after"]["accuracy"] for run in results["runs"] if came_to_nothing(run))
    yield "## Why does a technique learn nothing?\n"
    yield (
        "Mostly its learning rate. A fresh head is random, and the quickest way down is to say how frequent each label is. At one rate for all, the pretrained layers bend to "
        "that as well, until every word has the same state: the loss stays at that of one answer, and the gradient of the lower layers vanishes. minilm on 1,200 tweets, where "
        f"{100 * outside:.0f} words of 100 are outside of any entity: `{results['protocol']['command']}`\n"
    )
    values = [point["value"] for point in results["studies"][0]["points"]]
    heads = [f"head at {value:g}" if value > 1e-5 else "head at the technique's rate" for value in values]
    yield f"| technique | rate | {' | '.join(heads)} | runs that end with one answer |"
    yield "|---|---|" + "---|" * (len(values) + 1)
    for entry in results["studies"]:
        runs = [run for run in results["runs"] if run["kind"] == "technique" and run["technique"] == entry["technique"]]
        lost = [
            sum(came_to_nothing(run) for run in runs if run["setting"] == f"{entry['key']}={value}") for value in values
        ]
        cells = [
            f"{100 * point['mean']:.1f} ± {100 * (point['high'] - point['mean']):.1f}" for point in entry["points"]
        ]
        yield f"| {entry['technique']} | {runs[0]['learning_rate']:g} | {' | '.join(cells)} | {', '.join(map(str, lost))} of {len(runs) // len(values)} |"
    yield ""
    yield (
        "Entity F1 in per cent, three seeds. So heads that begin at random learn at 5e-3 at least, unless `training.head_learning_rate` says otherwise (less where what they "
        "read is large: a step of Adam moves an answer by the rate times its sum). A lower rate for everything helps, too, and takes longer. "
        "Techniques whose rates are high anyway (`bitfit`, `ia3`, prompts and prefixes) do not fall into it here. Where the rate of the technique itself is too high, "
        "the head's does not help: adapters at 3e-3 end with `O` for every word with one of these seeds.\n"
    )


def share_and_time() -> Iterator[str]:
    """T_peft = r T_full?"""
    found = {name: results for name in COMPARED if (results := read(f"comparison_{name}")) is not None}
    if not found:
        return
    rows = {name: techniques(results) for name, results in found.items()}
    first = next(iter(rows.values()))
    yield "## Does training time fall with the share of trained parameters?\n"
    yield "It is sometimes written `T_peft = r T_full`, with r the share of parameters that learn. Measured, in per cent of full fine-tuning of the same comparison:\n"
    yield f"| technique | r, and r T_full, of {next(iter(rows))} | {' | '.join(f'measured, {name}' for name in rows)} |"
    yield "|---|---|" + "---|" * len(rows)
    for technique, row in sorted(first.items(), key=lambda pair: pair[1]["train_seconds"]):
        cells = [
            f"{100 * each[technique]['train_seconds'] / each['full']['train_seconds']:.0f} %"
            if technique in each
            else "-"
            for each in rows.values()
        ]
        yield f"| {technique} | {share(row['trainable_share'])} | {' | '.join(cells)} |"
    yield ""
    lora = first["lora"]
    yield (
        f"It is false. LoRA trains {share(lora['trainable_share'])} of the parameters in {100 * lora['train_seconds'] / first['full']['train_seconds']:.0f} % of the time. "
        "The forward pass is the same (longer, with modules added), and the backward pass still goes through every layer down to the lowest one that learns; what "
        "falls away is the gradient of the frozen weights, one of "
        "three products of "
        "equal size, and the optimiser's step. Time falls when *layers* need no backward pass or no pass at all: `feature-based` keeps the frozen backbone's answers, "
        "`full.layers=2` and "
        "`lora.layers=2` keep those of the layers below ([techniques.md](techniques.md)). What does fall with r is the memory of gradients and moments, and the artifact.\n"
    )


def quality_per_cost() -> Iterator[str]:
    """What a point costs."""
    yield "## What does quality cost?\n"
    for comparison, what in COMPARED.items():
        results = read(f"comparison_{comparison}")
        if results is None:
            continue
        yield f"{what}:\n"
        yield f"| technique | {unit(results)} | training seconds | better than the reference, a minute | best for its memory | best for its time |"
        yield "|---|---|---|---|---|---|"
        for name, row in sorted(techniques(results).items(), key=lambda pair: -(pair[1]["quality_per_cost"] or 0)):
            gain = row["quality_per_cost"]  # in hundredths
            gain = gain if gain is None or better(results) else gain / 100
            yield (
                f"| {name} | {score(row)} | {row['train_seconds']:.1f} | {'-' if gain is None else f'{gain:.0f}'} | {'yes' if row['pareto_memory'] else ''} | "
                f"{'yes' if row['pareto_time'] else ''} |"
            )
        yield ""
    yield "Those with a yes stand on the Pareto front: nothing else is as good for less on these rows.\n"


def rank() -> Iterator[str]:
    """How large an adapter."""
    results = read("comparison_rank")
    if results is None:
        return
    (entry,) = results["studies"]
    yield "## Which rank does LoRA need?\n"
    yield f"`{results['protocol']['command']}`\n"
    yield "| rank | accuracy (%) | parameters that learn | training seconds |"
    yield "|---|---|---|---|"
    for point in entry["points"]:
        yield f"| {point['value']} | {score(point)} | {point['trainable_parameters']:,.0f} | {point['train_seconds']:.1f} |"
    yield ""
    means = [100 * point["mean"] for point in entry["points"]]
    yield (
        f"The means lie within {max(means) - min(means):.1f} points, about what seeds differ by. Rank changes size, not time. "
        "Hu et al. 2021 (table 6) found the same for "
        "GPT-3. `--grid lora.rank=1,2,4,8` draws this curve for your rows and marks its knee ([studies.md](studies.md)).\n"
    )


SIZES = (
    ("prompt", "tokens of the prompt", "How long a prompt"),
    ("width", "width of the hidden states over that of the adapter", "How wide an adapter"),
    ("layers", "uppermost layers with LoRA", "How many layers"),
)


def sizes() -> Iterator[str]:
    """How long a prompt, how wide an adapter, how many layers."""
    found = {name: read(f"comparison_{name}") for name, _, _ in SIZES}
    if None in found.values():
        return
    yield "## How long a prompt, how wide an adapter, how many layers?\n"
    yield "minilm on 2,000 movie reviews, three seeds, two runs at once; the knee is the cheapest value within noise of the best ([studies.md](studies.md)).\n"
    for name, setting, question in SIZES:
        results = found[name]
        assert results is not None
        (entry,) = results["studies"]
        yield f"{question}? `{results['protocol']['command']}`\n"
        yield f"| {setting} | accuracy (%) | parameters that learn | training seconds | |"
        yield "|---|---|---|---|---|"
        for point in entry["points"]:
            mark = "knee" if point["value"] == entry["knee"] else ""
            yield (
                f"| {point['value']} | {score(point)} | {point['trainable_parameters']:,.0f} | {point['train_seconds']:.1f} | {mark} |"
            )
        yield ""
        least, most = sorted((entry["points"][0], entry["points"][-1]), key=lambda point: point["trainable_parameters"])
        yield (
            f"From {least['value']} to {most['value']}: {most['trainable_parameters'] / least['trainable_parameters']:.0f} times the parameters, "
            f"{100 * (most['mean'] - least['mean']):+.1f} points, {most['train_seconds'] / least['train_seconds']:.1f} times the training time.\n"
        )
    yield (
        "One learning rate serves all values of a curve. The longest prompt is trained at that of the shortest, and every token of it is one more for attention to spread over: "
        "search a rate for the length you want (`--search halving`). LoRA on the uppermost layers keeps the states of the layers below, so here time does fall.\n"
    )


def page() -> str:
    """All of it."""
    head = [
        "# Questions people ask, answered with measurements\n",
        "Generated by `python benchmarks/questions.py > docs/questions.md` from `benchmarks/results/`. Small models on two cores of a server processor: read the "
        "relations, and measure "
        "yours with `tunesmith compare`.\n",
    ]
    parts = (
        needed,
        side_by_side,
        losses,
        overfitting,
        frozen,
        nothing_learned,
        share_and_time,
        quality_per_cost,
        rank,
        sizes,
    )
    return "\n".join([*head, *(line for part in parts for line in part())]).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
