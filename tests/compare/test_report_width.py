"""The page of a judged and searched comparison is as wide as its window, on a phone too: only tables scroll, inside their frames."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fake_comparison import full_comparison
from test_report import BROWSER, Elements, browse, without_plotly

from tunesmith.compare.report import render


def judged() -> dict[str, Any]:
    """The made-up comparison with everything that judging and a search add."""
    found = full_comparison()
    for place, row in enumerate(found["rows"]):
        if place and row["primary"]:
            row["against_best"] = {
                "difference": -0.01 * place,
                "low": -0.1,
                "high": 0.05 - 0.02 * place,
                "p": 0.5 / place,
                "tie": place < 3,
            }
    answers = [
        {"technique": name, "answer": "Donaudampfschifffahrtsgesellschaft" * 3, "right": right}
        for name, right in (("full", True), ("peft:VERA", None))
    ]
    found["examples"] = [
        {"row": 7, "input": {"question": "w" * 300, "context": "a b " * 60}, "target": "x" * 100, "answers": answers}
    ] * 4
    rungs = [
        {
            "share": share,
            "loss": 0.5,
            "score": 0.5,
            "tokens": 10_000,
            "seconds": 200.0,
            "status": "finished",
            "reason": None,
        }
        for share in (0.1, 0.25)
    ]
    rates = [{"rate": factor * 1e-3, "factor": factor, "rungs": rungs} for factor in (0.1, 0.3, 1.0, 3.0, 10.0)]
    found["search"] = [
        {"technique": "peft:VERA", "model": "m", "default": 1e-3, "chosen": 3e-3, "why": "lowest validation loss", "rates": rates, "runs": 7, "tokens": 1,
         "seconds": 200.0, "rows": {"train": 10, "validation": 10}}
    ]  # fmt: skip
    tests = {"what": "w" * 200, "expected": 0.0, "found": 0.0, "tolerance": 0.0, "passed": True}
    found["protocol"] |= {"self_tests": [{"name": "identity forgets nothing", **tests}],
                          "judging": {"best": "full", "method": "paired bootstrap", "resamples": 2000, "rows": 1000, "seeds": 3, "confidence": 0.95, "seed": 1}}  # fmt: skip
    return found


def test_the_page_is_sound() -> None:
    page = without_plotly(render(judged()))
    assert not Elements(page).open
    heads = re.search(r'<table id="rows">.*?</thead>', page, re.S)
    assert heads and heads[0].count("<button") == 10
    body = re.search(r'<table id="rows">.*?<tbody>(.*?)</tbody>', page, re.S)
    assert body and {
        row.count("<td") for row in re.findall(r"<tr(.*?)</tr>", body[1], re.S) if "colspan" not in row
    } == {9}
    assert 'colspan="9"' in body[1]


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_the_page_does_not_scroll_sideways(tmp_path: Path) -> None:
    page = render(judged())
    nonce = re.search(r'<script nonce="(\w+)"', page)
    assert nonce
    tell = 'setTimeout(() => parent.postMessage(`${document.documentElement.scrollWidth}/${innerWidth}`, "*"), 2000)'
    (tmp_path / "report.html").write_text(
        page.replace("</body>", f'<script nonce="{nonce[1]}">{tell}</script></body>'), encoding="utf-8"
    )
    frames = "".join(
        f'<iframe src="report.html" style="width:{width}px;height:900px"></iframe>' for width in (360, 1200)
    )
    hear = 'onmessage = (event) => { document.getElementById("seen").textContent += event.data + " "; }'
    (tmp_path / "frames.html").write_text(
        f'<body><pre id="seen"></pre>{frames}<script>{hear}</script></body>', encoding="utf-8"
    )
    dom, log = browse(tmp_path / "frames.html")
    seen = re.search(r'<pre id="seen">(.*?)</pre>', dom)
    assert seen and len(seen[1].split()) == 2, log[-2000:]
    for each in seen[1].split():
        content, window = map(int, each.split("/"))
        assert content <= window, seen[1]


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_it_prints_on_two_pages(tmp_path: Path) -> None:
    """With a search for every technique and all self-tests; rows that techniques disagree on and what is folded away stay on the screen."""
    assert BROWSER
    found = judged()
    named = [row["technique"] for row in found["rows"] if row["kind"] == "technique"]
    assert len(named) >= 10
    found["search"] = [{**found["search"][0], "technique": name} for name in named]
    found["protocol"]["self_tests"] = found["protocol"]["self_tests"] * 5
    page = render(found)
    assert "<details>" in page and "Where techniques disagree" in page
    pages = {}
    for name, text in (("folded", page), ("unfolded", page.replace("<details>", "<details open>"))):
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
        subprocess.run(
            [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000",
             f"--print-to-pdf={tmp_path / name}.pdf", "--no-pdf-header-footer", (tmp_path / f"{name}.html").as_uri()],
            capture_output=True, timeout=120, check=True,
        )  # fmt: skip
        pages[name] = len(re.findall(rb"/Type\s*/Page\b(?!s)", (tmp_path / f"{name}.pdf").read_bytes()))
    assert pages["folded"] == 2
    assert pages["unfolded"] > 2  # so that pages are really counted
