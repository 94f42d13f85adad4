"""The package as people install it: a wheel that imports, light start-up, pinned torch, documented techniques."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tunesmith import registry

ROOT = Path(__file__).parent.parent


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        cwd="/",
    )


def test_wheel_installs_and_imports(tmp_path: Path) -> None:
    """Fails if a data file (py.typed, the report's template) is left out of the wheel."""
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    place = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    found = python(
        "import tunesmith, sys; from tunesmith import assets; from tunesmith.compare.report import render;"
        "print(tunesmith.__file__, len(assets.catalogue()), 'torch' in sys.modules)",
        PYTHONPATH=str(place),
    )
    assert found.returncode == 0, found.stderr
    assert str(place) in found.stdout
    assert (place / "tunesmith" / "py.typed").is_file()
    assert list((place / "tunesmith" / "compare" / "report").glob("*.j2"))


def test_importing_is_light() -> None:
    done = python(
        "import sys, tunesmith, tunesmith.cli.main as m; m.register();"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'numpy', 'sklearn', 'pandas'} & set(sys.modules); print(heavy or 'light')"
    )
    assert done.stdout.strip() == "light", done.stdout + done.stderr


def test_listing_imports_no_technique() -> None:
    done = python(
        "import sys; from tunesmith.cli.main import run; run(['list', 'techniques']); print('torch' in sys.modules)",
        COLUMNS="120",
    )
    assert done.stdout.strip().endswith("False"), done.stdout + done.stderr


def test_torch_is_pinned_in_the_constraints_and_loose_in_the_package() -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    assert "torch==2.13.0" in constraints.splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    assert not [d for d in listed if "==" in d]
    pinned = {
        re.split(r"[=@ ]", line)[0].lower().replace("_", "-") for line in constraints.splitlines() if "==" in line
    }
    names = {re.split(r"[<>=\[ ]", d)[0].lower().replace("_", "-") for d in listed} - {"ray"}
    assert names <= pinned, names - pinned


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        ("technique", "techniques.md"),
        ("task", "tasks.md"),
        ("baseline", "techniques.md"),
        ("objective", "distillation.md"),
    ],
)
def test_every_entry_has_a_docs_row(kind: str, page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name in registry.names(kind):
        row = next((line for line in text.splitlines() if line.startswith(f"| `{name}")), None)
        assert row, f"docs/{page} has no row for `{name}`"
        options = registry.load(kind, name).Options.model_fields
        missing = [o for o in options if f"`{o}`" not in text]
        assert not missing, f"docs/{page} does not mention {missing} of `{name}`"


def test_every_registered_file_says_what_it_is() -> None:
    for kind in registry.FAMILIES:
        for name in registry.names(kind):
            assert len(registry.resolve(kind, name).summary) > 20, name


def test_repository_names_no_registry_host() -> None:
    hosts = ("pypi" + ".org", "python" + "hosted", "registry.npm" + "js", "deb.debian" + ".org")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in files:
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".txt", ".yaml", ".j2", ".js", ""):
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not [h for h in hosts if h in text], name
