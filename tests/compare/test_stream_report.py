"""The report and the terminal tables of a stream: sound pages, heat maps, hostile names, a browser that draws them."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fake_stream import STAGES, STRATEGIES, stream_comparison, stream_run
from rich.console import Console
from test_report import BROWSER, EVIL, Elements, browse, figure_data, without_plotly

from tunesmith.compare.models import labelled
from tunesmith.compare.report import render, write_report
from tunesmith.compare.report.stream_answer import stream_answer
from tunesmith.compare.statistics import mean_interval
from tunesmith.compare.stream_table import alone_table, footnotes, matrix_table, sentence, stream_table


@pytest.fixture(scope="module")
def page() -> str:
    return render(labelled(stream_comparison()))


def printed(table: Any, width: int = 120) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_the_page_is_sound(page: str) -> None:
    own = without_plotly(page)
    elements = Elements(own)
    assert not elements.open and "http://" not in own and "https://" not in own
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "NaN" not in own and ">None<" not in own
    assert "A stream of 4 stages with bert-tiny" in own and "1,500 rows to learn" in own
    assert own.count('class="map"') == 3 * len(STRATEGIES) - 1, "one matrix a strategy and technique that finished"
    assert render(labelled(stream_comparison())) == page


def test_heat_runs_from_the_lowest_to_the_highest_score_of_a_stage(page: str) -> None:
    shares = [int(value) for value in re.findall(r'style="--heat:(\d+)%"', page)]
    assert min(shares) == 0 and max(shares) == 100
    column = [
        value
        for row in stream_comparison()["rows"]
        if row.get("stream")
        for line in row["stream"]["matrix"]
        for value in line[:1]
    ]
    assert f">{100 * max(column):.1f}</td>" in page


def test_every_figure_has_its_lines(page: str) -> None:
    data = figure_data(page)
    assert len(data) == 3 * (4 + 2)
    films = {trace["meta"]: trace for trace in data["figure-time-2-0"]["data"]}
    assert set(films) == set(STRATEGIES)
    assert films["none"]["x"] == [0, 1, 2, 3, 4] and films["joint"]["x"] == [1, 4]
    assert films["none"]["y"][-1] < films["none"]["y"][1], "what was forgotten shows"
    assert [trace["x"][0] for trace in data["figure-time-2-3"]["data"] if trace["meta"] == "progressive"] == [4]
    cost = data["figure-cost-2-state"]
    assert [line["text"] for line in cost["lines"]] == ["none 11.9"], "what keeps nothing has no place on a log axis"
    assert "joint" not in {trace.get("meta") for trace in cost["data"]}


def test_the_answer() -> None:
    found = stream_answer(labelled(stream_comparison()))
    assert found.sentences[0].startswith(
        "`full + experience-replay` has the highest mean of average accuracy after the last stage, 76.9 ± 0.8 over 3 seeds"
    )
    assert "against `none`" in found.sentences[0] and "of what learning all stages at once gains" in found.sentences[0]
    assert found.sentences[1] == "No other one ties with it over the same seeds."
    notes = " ".join(found.cautions)
    assert (
        "(`full + none`) forgets 12.9" in notes
        and "`lora + ewc` 2 of 3" in notes
        and "`full + generative-replay`" in notes
    )
    assert "no interval can be given" in stream_answer(labelled(stream_comparison(1))).sentences[1]
    assert "nothing to compare" in stream_answer({"rows": []}).sentences[0]


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ([0.01, -0.02, 0.01], "whose interval holds 0: this stream leaves little to keep"),
        ([0.02, 0.4, 0.3], "whose interval holds 0: with more seeds it may say more"),
        ([0.3, 0.31, 0.29], "`full + experience-replay`"),
    ],
)
def test_what_it_says_of_forgetting_without_a_strategy(lost: list[float], said: str) -> None:
    results = stream_comparison()
    row = next(r for r in results["rows"] if (r["technique"], r["strategy"]) == ("full", "none"))
    row["stream"]["forgetting"] = asdict(mean_interval(lost)) | {"values": lost}
    assert said in " ".join(stream_answer(labelled(results)).cautions)


def test_hostile_names_are_text() -> None:
    results = stream_comparison(2, ("lora",))
    text = repr(results["rows"]).replace("tweets", EVIL.replace("'", ""))
    results["rows"] = eval(text)
    results["protocol"]["stream"][1]["name"] = EVIL
    own = without_plotly(render(labelled(results)))
    assert "alert(1)" in own and "<script>alert" not in own and "<img" not in own
    assert not any(name.startswith("on") for _, attributes in Elements(own).tags for name in attributes)


@pytest.mark.parametrize("lost", ["all", "one seed", "none finished"])
def test_small_results_do_not_crash(lost: str) -> None:
    results = stream_comparison(1, ("lora",), alone=lost == "all")
    if lost == "none finished":
        results["rows"] = [row for row in results["rows"] if row["status"] != "finished"]
    page = without_plotly(render(labelled(results)))
    assert not Elements(page).open and ">None<" not in page
    assert "technique" in printed(stream_table(results)) and footnotes(results)


def test_tables_fit_the_terminal() -> None:
    results = stream_comparison()
    text = printed(stream_table(results))
    assert max(map(len, text.splitlines())) <= 120
    line = next(line for line in text.splitlines() if line.startswith("lora + experience-replay"))
    assert line.split()[3:6] == ["76.0", "±", "0.1"] and "+7.3 ± 0.4" in line and "205 KiB" in line
    assert "+3.9 ± 4.9 tie" in text and "full + generative-replay: refused" in text
    alone = printed(alone_table(results))
    assert "▼ −16.9 ± 0.4" in alone
    assert any("62 of 104" in note for note in footnotes(results))
    assert alone_table(stream_comparison(alone=False)) is None


def test_the_matrix_of_a_run() -> None:
    stream = stream_run("lora", "progressive", 0)["stream"]
    text = printed(matrix_table(stream, "4 stages")).splitlines()
    assert text[1].split() == ["score", "(×100)", "after", *STAGES]
    assert text[2].split() == ["(untouched)", "50.0", "–", "–", "–"]
    assert text[-1].split()[0] == "nyt-editorials"
    assert "forgetting 0.0" in sentence(stream) and "70.0 MiB" in sentence(stream)
    assert "all stages" in printed(matrix_table(stream_run("lora", "joint", 0)["stream"]))


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_a_browser_draws_it(tmp_path: Path) -> None:
    results = stream_comparison(2, ("lora",))
    dom, log = browse(write_report(results, tmp_path / "report.html"))
    assert 'data-drawn="6"' in dom, f"the script did not finish: {log[-2000:]}"
    assert not [line for line in log.splitlines() if "CONSOLE" in line]
