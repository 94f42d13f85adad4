"""The report is one offline file, safe against hostile names, and a browser draws it."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_comparison import (
    BASELINES,
    TECHNIQUES,
    comparison,
    failed_run,
    fake_baseline,
    fake_run,
    full_comparison,
)

from tunesmith.compare.report import render, write_report
from tunesmith.compare.report.answer import answer
from tunesmith.compare.report.figures import COLOURS, curves, looks, trade_off
from tunesmith.errors import SaveError

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page() -> str:
    return render(full_comparison())


def without_plotly(text: str) -> str:
    return re.sub(r'(<script nonce="\w+" id="plotly-source">).*?</script>', r"\1</script>", text, flags=re.DOTALL)


def figure_data(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figure-data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


class Elements(HTMLParser):
    """Every start tag with its attributes, and whether tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "hr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def test_nothing_is_loaded(page: str) -> None:
    own = without_plotly(page)
    assert len(own) < 200_000 < 1_000_000 < len(page) < 6_000_000, "plotly.js is in the page exactly once"
    assert "http://" not in own and "https://" not in own
    assert "@import" not in own and "url(" not in own
    for tag, attributes in Elements(own).tags:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            assert value is None or value == "data:,", f"<{tag} {name}={value}>"
    assert "default-src 'none'" in own


def test_the_page_is_sound(page: str) -> None:
    elements = Elements(without_plotly(page))
    assert not elements.open, "every element is closed"
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert ("html", {"lang": "en"}) in elements.tags
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">')
    heads = re.search(r'<table id="rows">.*?</thead>', page, re.DOTALL)
    assert heads and heads[0].count("<button") == 9 and heads[0].count('aria-sort="descending"') == 1
    assert "đánh-giá-phim/kiểm-tra.jsonl" in page


def test_rows_are_in_order(page: str) -> None:
    body = re.search(r'<table id="rows">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert body
    names = re.findall(r'<th scope="row" class="word" data-value="([^"]+)"', body[1])
    assert names == [row["technique"] for row in full_comparison()["rows"]]
    assert names[-1] == "qlora"


def test_every_metric_and_every_run_have_their_cells(page: str) -> None:
    tables = re.findall(r'<table class="plain">(.*?)</table>', page, re.DOTALL)
    said, *tables = tables  # what was predicted stands before them
    assert "memory predicted" in said and re.search(r"<td>[+-]\d+ %</td>", said)
    assert len(tables) == 2
    for table in tables:
        columns = table.count('<th scope="col"')
        bodies = re.findall(r"<tr>(.*?)</tr>", table.split("<tbody>")[1], re.DOTALL)
        assert {row.count("<td>") + 1 for row in bodies} == {columns}
    assert "<td>84.5 ± 1.8</td>" in tables[0] and "mcc (×100)" in tables[0]
    assert tables[1].count("<tr>") == 1 + len(full_comparison()["runs"])


def test_what_was_noticed_in_training_stands_in_the_page(page: str) -> None:
    assert "Noticed in training" not in page
    spike = {"guard": "loss-spike", "step": 40, "message": f"the loss jumped to 9 {EVIL}"}
    runs = [fake_run("lora", seed) for seed in range(3)] + [fake_run("full", 0)]
    for run in runs[:2]:
        run["warnings"] = [spike, {"guard": "one-answer", "step": 50, "message": "the same of all", "stage": "spam"}][
            : 2 - run["seed"]
        ]
    found = without_plotly(render(comparison(runs)))
    section = found[found.index("Noticed in training") : found.index('id="the-protocol"')]
    assert section.count("<dt>") == 2 and "full" not in section
    assert "lora <small>seeds 0, 1</small>" in section and "stage spam, seed 0" in section
    assert "jumped to 9" in section and EVIL not in section


def test_the_same_results_give_the_same_page(page: str) -> None:
    assert render(full_comparison()) == page


def test_hostile_text_is_text() -> None:
    runs = [{**fake_run("lora", seed), "technique": EVIL, "folder": EVIL} for seed in range(2)]
    runs += [failed_run(f"x{EVIL}", 0, EVIL), {**fake_baseline("tfidf", 0.7, 0), "technique": f"b{EVIL}"}]
    changes = {
        "command": EVIL,
        "model": EVIL,
        "versions": {EVIL: EVIL},
        "techniques": [EVIL],
        "created": EVIL,
        EVIL: EVIL,
    }
    page = render(comparison(runs, **changes))
    own = without_plotly(page)
    assert "alert(1)" in own, "the text is shown"
    assert "<script>alert" not in own and "<img" not in own
    tags = Elements(own).tags
    assert sum(tag == "script" for tag, _ in tags) == 3
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    trace = figure_data(page)["figure-loss"]["data"][-1]
    assert trace["meta"] == EVIL, "the data keep the name"
    assert "<" not in trace["name"], "plotly reads HTML in names, so there they are escaped"


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [failed_run("lora", seed, "out of memory") for seed in range(3)],
        [failed_run("qlora", 0, "no GPU", "refused")],
        [fake_run("lora", 0)],
        [fake_run(name, seed) for name in ("lora", "full") for seed in range(2)],
        [fake_baseline(name, accuracy, 0) for name, accuracy in BASELINES.items()],
        [{**fake_run("lora", 0), "curve": [], "cost": {}}],
        [{**fake_run("lora", 0), "curve": None, "metrics": {"after": {"loss": float("nan")}}}],
    ],
    ids=["nothing", "failed only", "refused only", "one run", "no baselines", "baselines only", "no cost", "no metric"],
)
def test_small_results_do_not_crash(runs: list[dict[str, Any]]) -> None:
    page = without_plotly(render(comparison(runs)))
    assert not Elements(page).open
    assert "NaN" not in page and ">None<" not in page
    assert answer(comparison(runs)).sentences


def test_an_empty_object_still_makes_a_page() -> None:
    assert "No run was recorded" in render({})


def test_the_answer_names_the_best_and_the_cheapest_equal() -> None:
    first, second = answer(full_comparison()).sentences
    assert first.startswith("`full` has the highest mean accuracy: 84.5 ± 1.8 over 3 seeds")
    assert "`lora` trains in the least time" in second and "do not separate" in second
    cautions = " ".join(answer(full_comparison()).cautions)
    assert "`prompt-tuning` 2 of 3" in cautions and "`qlora`" in cautions


def test_the_answer_is_honest_about_one_seed_and_strong_baselines() -> None:
    assert "no interval can be given" in answer(full_comparison(seeds=1)).sentences[1]
    strong = comparison([*(fake_run("lora", seed) for seed in range(3)), fake_baseline("tfidf", 0.9, 0)])
    assert answer(strong).cautions == ["No technique beats the tfidf baseline (accuracy 90.0)."]
    assert "nothing to compare" in answer(comparison([failed_run("lora", 0, "no")])).sentences[0]
    apart = [fake_run("full", seed) for seed in range(3)] + [fake_run("feature-based", seed) for seed in range(3)]
    assert "set it apart" in answer(comparison(apart)).sentences[1]


def test_the_answer_for_a_loss() -> None:
    runs = [fake_run(name, seed) for name in ("full", "ia3") for seed in range(3)]
    results = comparison(runs, primary="loss", higher_is_better=False)
    assert answer(results).sentences[0].startswith("`full` has the lowest mean loss: 0.")
    assert 'aria-sort="ascending"' in render(results)


def test_looks_are_distinct_and_stable() -> None:
    styles = looks([*TECHNIQUES, "lora"])
    assert len({tuple(look.items()) for look in styles.values()}) == len(TECHNIQUES)
    assert styles["full"]["colour"] == COLOURS[0]
    assert looks(["full", "lora"])["full"] == styles["full"]


def test_curves_are_means_over_common_steps() -> None:
    runs = [fake_run("lora", seed) for seed in range(2)]
    runs[0]["curve"] = [{"step": step, "loss": loss} for step, loss in ((10, 1.0), (20, 0.8), (30, float("nan")))]
    runs[1]["curve"] = [{"step": step, "loss": loss} for step, loss in ((10, 2.0), (20, 0.6), (30, 0.5))]
    figure = curves(runs, looks(["lora"]), lambda point: point["loss"], y_title="loss")
    assert figure
    band, line = figure["data"]
    assert line["x"] == [10, 20], "a step that one seed lacks is not drawn"
    assert line["y"] == pytest.approx([1.5, 0.7])
    assert band["y"] == [2.0, 0.8, 0.6, 1.0]


def test_long_curves_are_grouped() -> None:
    run = fake_run("lora", 0)
    run["curve"] = [{"step": step, "loss": 1.0 / step} for step in range(1, 5001)]
    figure = curves([run], looks(["lora"]), lambda point: point["loss"], y_title="loss")
    assert figure and figure["grouped"] and len(figure["data"][0]["x"]) == 250


def test_trade_off_draws_front_intervals_and_near_baselines() -> None:
    rows = full_comparison()["rows"]
    figure = trade_off(
        rows, looks(list(TECHNIQUES)), cost="train_seconds", front="pareto_time", x_title="x", y_title="y", scale=100.0
    )
    assert figure
    assert figure["data"][0]["role"] == "front"
    assert figure["data"][0]["x"] == sorted(figure["data"][0]["x"])
    points = {trace["meta"]: trace for trace in figure["data"] if "meta" in trace}
    assert set(points) == set(TECHNIQUES)
    assert all(trace["error_y"]["array"][0] > 0 for trace in points.values())
    assert [line["text"] for line in figure["lines"]] == ["tfidf 81.5", "linear-probe 69.9"]
    assert figure["outside"] == ["majority 50.2", "untouched model 49.7"]
    assert figure["cut"] == ["prompt-tuning"], "two seeds: its interval would flatten the figure"
    assert 3 <= len(figure["layout"]["xaxis"]["tickvals"]) <= 5


def test_writing_is_atomic(tmp_path: Path) -> None:
    path = write_report(full_comparison(), tmp_path / "new" / "report.html")
    assert path == tmp_path / "new" / "report.html"
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    before = path.read_bytes()
    blocked = tmp_path / "folder.html"
    (blocked / "inside").mkdir(parents=True)
    with pytest.raises(SaveError, match=r"folder\.html"):
        write_report(full_comparison(), blocked)
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder.html", "new"], "nothing half-written is left"


def browse(path: Path) -> tuple[str, str]:
    """The page after its scripts ran, without plotly's source, and what the browser wrote to its log."""
    assert BROWSER
    quiet = "--no-first-run --disable-background-networking --disable-component-update --disable-sync --disable-quic"
    ended = subprocess.run(
        [
            BROWSER,
            *("--headless", "--no-sandbox", "--disable-gpu", *quiet.split()),
            "--proxy-server=127.0.0.1:9",  # nothing listens there: a request would fail, and be logged
            "--enable-logging=stderr",
            f"--user-data-dir={path.parent / 'profile'}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return without_plotly(ended.stdout), ended.stderr


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_a_browser_draws_it(tmp_path: Path) -> None:
    dom, log = browse(write_report(full_comparison(), tmp_path / "report.html"))
    assert 'data-drawn="4"' in dom, f"the script did not finish: {log[-2000:]}"
    assert dom.count('class="main-svg"') >= 4
    assert dom.count("scatterlayer") >= 4
    assert 'class="annotation"' in dom, "points are labelled"
    assert '<table id="rows">' in dom and ">prefix-tuning" in dom
    assert "Share chart" not in dom and "Edit in Chart Studio" not in dom, "plotly's upload buttons are off"
    console = [line for line in log.splitlines() if "CONSOLE" in line]
    assert not console, "no error, and nothing that the content policy had to block"


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_a_browser_sorts_and_hides(tmp_path: Path) -> None:
    page = render(full_comparison())
    nonce = re.search(r'nonce="(\w+)"', page)
    assert nonce
    # Activates headers and a chip as a person would, and leaves what it saw in the document.
    script = """
      const order = () => [...document.querySelectorAll("#rows tbody th")].map((cell) => cell.dataset.value).join(" ");
      const head = (n) => document.querySelectorAll("#rows thead button")[n];
      const seen = {};
      head(4).click(); seen.time = order(); seen.sort = head(4).parentElement.getAttribute("aria-sort");
      head(4).click(); seen.slow = order();
      head(0).click(); seen.name = order();
      const wait = setInterval(() => {
        if (!document.documentElement.dataset.drawn) return;
        clearInterval(wait);
        const chip = document.querySelector("[data-technique=lora]");
        chip.click();
        setTimeout(() => {
          seen.pressed = chip.getAttribute("aria-pressed");
          seen.labels = [...document.querySelectorAll("#figure-train-seconds .annotation")].map((e) => e.textContent);
          const out = document.createElement("pre");
          out.id = "seen";
          out.textContent = JSON.stringify(seen);
          document.body.append(out);
        }, 1000);
      }, 50);
      const evil = document.createElement("div");
      evil.innerHTML = "<img src=x onerror='document.documentElement.dataset.evil = 1'>";
      document.body.append(evil);
    """
    path = tmp_path / "report.html"
    path.write_text(page.replace("</body>", f'<script nonce="{nonce[1]}">{script}</script></body>'), encoding="utf-8")
    dom, log = browse(path)
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom)
    assert found, log[-2000:]
    seen = json.loads(found[1])
    assert seen["time"].split()[:2] == ["feature-based", "ia3"] and seen["sort"] == "ascending"
    assert seen["slow"].split()[:2] == ["full", "dora"]
    assert all(seen[key].endswith("qlora") for key in ("time", "slow", "name")), "a row without a result stays last"
    assert seen["name"].split()[:3] == ["adapter", "bitfit", "dora"]
    assert seen["pressed"] == "false" and "full" in seen["labels"] and "lora" not in seen["labels"]
    assert "data-evil" not in dom, "the content policy stops a handler even if it got into the page"
