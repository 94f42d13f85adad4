"""The terminal table fits 100 columns and says what its numbers mean."""

from __future__ import annotations

from typing import Any

import pytest
from fake_comparison import comparison, failed_run, fake_run, full_comparison
from rich.console import Console

from tunesmith.compare import format as human
from tunesmith.compare.table import comparison_table, footnotes


def printed(results: dict[str, Any], width: int = 100) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(comparison_table(results))
    return capture.get()


@pytest.mark.parametrize("width", [100, 120])
def test_one_line_a_row(width: int) -> None:
    text = printed(full_comparison(), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    names = [line.split()[0] for line in lines[3:] if line.strip()]
    assert names[:3] == ["full", "dora", "lora"]
    assert names[14] == "qlora", "one line a row: ten techniques, three baselines, the untouched model, the refused one"
    assert "…" not in "".join(lines[3:18]), "no cell is cut"


def test_cells() -> None:
    text = printed(full_comparison())
    lora = next(line for line in text.splitlines() if line.startswith("lora"))
    assert "±" in lora and "0.75 %" in lora and "◆ 620 MiB" in lora and "131 KiB" in lora
    assert "qlora: refused, nf4 needs bitsandbytes" in text
    assert "prompt-tuning: 2 of 3 seeds" in text


def test_one_seed_has_no_interval() -> None:
    results = full_comparison(seeds=1)
    assert "±" not in printed(results)
    assert any("no interval" in note for note in footnotes(results))


def test_footnotes_name_interval_seeds_mark_and_memory() -> None:
    notes = " ".join(footnotes(full_comparison()))
    for words in ("95 % Student t", "3 seeds", "Pareto front", "majority baseline", "run's own process"):
        assert words in notes


@pytest.mark.parametrize("runs", [[], [failed_run("lora", 0, "out [of] memory")], [fake_run("lora", 0)]])
def test_small_results_do_not_crash(runs: list[dict[str, Any]]) -> None:
    results = comparison(runs)
    assert "technique" in printed(results)
    assert footnotes(results)


def test_names_are_not_markup() -> None:
    run = {**fake_run("lora", 0), "technique": "lora[bold]rank=4[/bold]"}
    assert "[bold]rank=4[/bold]" in printed(comparison([run]), 140)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (human.in_bytes(0), "0 B"),
        (human.in_bytes(1023), "0.999 KiB"),
        (human.in_bytes(431 * 1024**2), "431 MiB"),
        (human.in_bytes(1.5 * 1024**3), "1.50 GiB"),
        (human.in_bytes(None), "–"),
        (human.count(820), "820"),
        (human.count(999_600), "1.00 M"),
        (human.count(4_386_178), "4.39 M"),
        (human.seconds(0.0421), "0.0421 s"),
        (human.seconds(59.97), "1 min 00 s"),
        (human.seconds(192), "3 min 12 s"),
        (human.seconds(3840), "1 h 04 min"),
        (human.share(1.0), "100 %"),
        (human.share(0.0675), "6.75 %"),
        (human.share(1e-6), "<0.01 %"),
        (human.rate(3e-4), "3e-4"),
        (human.rate(2.5e-5), "2.5e-5"),
        (human.rate(0.02), "0.02"),
        (human.per_minute(-12.34, 100.0), "−12.3"),
        (human.quality({"mean": 0.793, "low": 0.787, "high": 0.799}, 100.0), "79.3 ± 0.6"),
        (human.quality({"mean": 0.793, "low": None, "high": None}, 100.0), "79.3"),
        (human.quality({"mean": 0.79312, "low": 0.79292, "high": 0.79332}, 100.0), "79.31 ± 0.02"),
        (human.quality({"mean": 1.2345, "low": 1.2, "high": 1.269}, 1.0), "1.234 ± 0.034"),
        (human.shorten("out of memory at step 40", 16), "out of memory…"),
    ],
)
def test_numbers_for_people(shown: str, expected: str) -> None:
    assert shown == expected


def test_forgetting_is_a_column_where_it_was_measured() -> None:
    from tunesmith.compare.report import render

    runs = [
        {**fake_run(name, seed), "forgetting": {"metric": "bits_per_byte", "change": change}}
        for seed in (0, 1)
        for name, change in (("full", 0.25 + seed / 10), ("lora", 0.0))
    ]
    results = comparison([*runs, fake_run("adapter", 0)])
    lines = {line.split()[0]: line.split() for line in printed(results, 120).splitlines() if line.strip()}
    assert (lines["full"][-1], lines["lora"][-1], lines["adapter"][-1]) == ("+0.300", "0", "–")
    assert any("bits_per_byte" in note and "positive is forgotten" in note for note in footnotes(results))
    page = render(results)
    assert ">forgot<" in page and "+0.300" in page
    assert "forgot" not in printed(full_comparison()) and ">forgot<" not in render(full_comparison())
