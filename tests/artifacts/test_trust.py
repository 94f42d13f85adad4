"""Who made an artifact is not who opens it: what it asks to run is refused unless the user says otherwise, and what it claims is checked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith import trust
from tunesmith.artifacts.store import NEEDED
from tunesmith.errors import ArtifactError
from tunesmith.testing import tiny_model
from tunesmith.testing.artifacts import reseal
from tunesmith.testing.rows import toy_rows


@pytest.fixture(scope="module")
def trained(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trust") / "run"
    tunesmith.train(
        str(tiny_model("bert", models / "bert")), train=toy_rows(16), eval=toy_rows(8), technique="lora", max_steps=1, output=place, doctor=False,
        device="cpu",
    )  # fmt: skip
    return place


@pytest.fixture
def hostile(trained: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the run whose artifact says something else, and whose hashes are right."""

    def make(**changes: Any) -> Path:
        run = shutil.copytree(trained, tmp_path / "run")
        reseal(run / "artifact", changes)
        return run

    return make


@pytest.fixture(autouse=True)
def nobody_trusts() -> Any:
    trust.allow(False)
    yield
    trust.allow(False)


def test_code_is_not_run_because_an_artifact_asks_for_it(hostile: Any, tmp_path: Path, cli: Any) -> None:
    run = hostile(trust_remote_code=True)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in toy_rows(4)), encoding="utf-8")
    commands = {
        "predict": ["predict", run, "--data", rows, "--output", tmp_path / "out.jsonl"],
        "evaluate": ["evaluate", run, "--data", rows],
        "verify": ["verify", run],
        "merge": ["merge", run, "--output", tmp_path / "merged"],
        "export": ["export", run, "--to", "peft", "--output", tmp_path / "peft"],
        "chat": ["chat", run],
    }
    for name, words in commands.items():
        answer = cli(*words)
        assert answer.code == 2, name
        assert "--trust-remote-code" in answer.err, (name, answer.err)
    assert cli(*commands["predict"], "--trust-remote-code").code == 0
    assert cli(*commands["verify"], "--trust-remote-code").code == 0


def test_in_python(hostile: Any) -> None:
    run = hostile(trust_remote_code=True)
    with pytest.raises(ArtifactError, match="asks to run code that its base model brings along"):
        tunesmith.load(run)
    assert tunesmith.load(run, trust_remote_code=True).predict([{"text": "a good film"}])
    assert not trust.allowed()
    with pytest.raises(ArtifactError, match="asks to run code"):
        tunesmith.load(run)


def test_trust_ends_with_the_block_that_gave_it() -> None:
    seen: list[bool] = []
    with trust.remote_code(True):
        seen.append(trust.allowed())
        with trust.remote_code(False):
            seen.append(trust.allowed())
    assert seen == [True, True] and not trust.allowed()


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("value", [None, "gone"])
def test_a_description_that_lacks_something(name: str, value: Any, trained: Path, tmp_path: Path) -> None:
    if isinstance(value, NEEDED[name]):
        value = 3
    if name == "files":
        pytest.skip("its hashes are made from it")
    run = shutil.copytree(trained, tmp_path / "run")
    reseal(run / "artifact", {name: value})
    with pytest.raises(ArtifactError, match=rf"`{name}` is"):
        tunesmith.load(run)


@pytest.mark.parametrize("path", ["../../../etc/hostname", "/etc/hostname", "a/../../x"])
def test_files_outside_are_not_looked_at(path: str, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    description = run / "artifact" / "tunesmith.json"
    info = json.loads(description.read_text(encoding="utf-8"))
    info["files"][path] = "0" * 64
    from tunesmith.artifacts.store import description_sha256

    info["sha256"] = description_sha256(info)
    description.write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(ArtifactError, match="lies outside of the artifact"):
        tunesmith.load(run)
