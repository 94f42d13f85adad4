"""A run that is killed, stopped or refused its disk leaves nothing half, and goes on to the same bits. `make crash-test` is the long form."""

from __future__ import annotations

import resource
import shutil
import signal
import sys
from collections.abc import Callable

import pytest

if sys.platform != "linux":
    pytest.skip("kills are counted by Linux's rules", allow_module_level=True)

import engine
import worlds

import crash
from tunesmith import run_folder
from tunesmith.errors import UserError

WORLDS = {world.name: world for world in worlds.WORLDS}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], crash.Reference]:
    made: dict[str, crash.Reference] = {}

    def get(name: str) -> crash.Reference:
        if name not in made:
            made[name] = crash.Reference.make(WORLDS[name], tmp_path_factory.mktemp(name))
        for place in (made[name].run, made[name].folder / "cache"):  # the writes are those of the first run again
            shutil.rmtree(place, ignore_errors=True)
        return made[name]

    return get


def place_of(reference: crash.Reference, words: str, among: int = 0) -> float:
    """Where the write is whose name holds some words, as a share of all."""
    found = [i for i, write in enumerate(reference.ended.writes) if words in write]
    return found[among] / len(reference.ended.writes)


@pytest.mark.parametrize(
    ("name", "kind", "where"),
    [
        ("lora-dropout", "write", "os.rename run/checkpoints/.step-00000004"),
        ("lora-dropout", "write", "os.rename run/.artifact.writing"),
        ("lora-dropout", "step", 0.7),
        ("ewc", "write", "os.rename run/.artifact.writing"),
        ("ewc", "step", 0.9),
        ("ewc", "evaluation", 0.5),
    ],
)
def test_killed_and_gone_on_with(
    name: str, kind: str, where: str | float, reference: Callable[[str], crash.Reference]
) -> None:
    world = reference(name)
    share = where if isinstance(where, float) else place_of(world, where, among=-1) + 1e-9
    found = crash.survive(world, [(kind, share)])
    assert len(found.kills) == 1 and not found.trouble and not found.differences, found
    if isinstance(where, str):
        assert where in found.kills[0]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.55, 0.8, 0.97])
def test_a_full_disk(share: float, reference: Callable[[str], crash.Reference]) -> None:
    """From some write on nothing fits any more: one sentence, nothing half, and with room again the run goes on."""
    world = reference("ewc")
    number = 1 + int(share * world.counts["write"])
    ended = engine.command(world.args, world.folder, fail_at=number)
    failed = ended.writes[number - 1]
    errors = [line for line in ended.said.splitlines() if line.startswith("error")]
    assert (ended.code, len(errors)) == (1, 1), (failed, ended.said)
    assert "No space left on device" in errors[0] and "our fault" not in errors[0], failed
    assert "Traceback" not in ended.said
    assert not list(world.run.rglob(".*"))
    found = crash.survive(world, [])
    assert not found.trouble and not found.differences, (failed, found)


def test_a_limit_of_a_file_s_size(reference: Callable[[str], crash.Reference]) -> None:
    """Here the write itself fails, in the middle, and not the opening: Rust's writers are not seen by Python's hooks."""
    world = reference("lora-dropout")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    ended = engine.command(world.args, world.folder, prepare=limit)
    errors = [line for line in ended.said.splitlines() if line.startswith("error")]
    assert (ended.code, len(errors)) == (1, 1), ended.said
    assert "File too large" in errors[0] and "free some space" in errors[0]
    found = crash.survive(world, [])
    assert not found.trouble and not found.differences, found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["os.rename run/checkpoints/.step-00000004", "os.rename run/.artifact.writing"])
def test_stopped_on_request(number: int, where: str, reference: Callable[[str], crash.Reference]) -> None:
    """In the middle of a fit, and behind it."""
    world = reference("lora-dropout")
    place = next(i for i, write in enumerate(world.ended.writes, 1) if where in write)
    ended = engine.command(world.args, world.folder, kill_at=place, signal_number=number)
    assert ended.code == 130, ended.said
    last = ended.said.strip().splitlines()[-1]
    assert last.startswith("interrupted: ") and last.endswith(f"go on with: tunesmith resume {world.run}")
    assert ("its state is saved" in last) == ("checkpoints" in where)
    found = crash.survive(world, [])
    assert not found.trouble and not found.differences, found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_comparison_stopped_on_request(number: int, reference: Callable[[str], crash.Reference]) -> None:
    """While one of its runs works in a process of its own: that one ends, too, and the same command goes on."""
    world = reference("compare")
    working = world.run / "runs" / "lora" / "1" / "config.yaml"
    ended = engine.command(world.args, world.folder, kill_when=working, signal_number=number)
    assert ended.code == 130, ended.said
    last = ended.said.strip().splitlines()[-1]
    assert last.startswith("interrupted: ") and "Traceback" not in ended.said
    found = crash.survive(world, [])
    assert not found.trouble and not found.differences, found


def test_stopped_before_anything_is_there(reference: Callable[[str], crash.Reference]) -> None:
    world = reference("lora-dropout")
    ended = engine.command(world.args, world.folder, kill_at=1, signal_number=signal.SIGTERM)
    assert ended.code == 130, ended
    assert ended.said.strip().splitlines()[-1] == "interrupted: stopped before anything was saved."
    assert not (world.run / "config.yaml").exists()


def test_a_folder_is_one_process_s_at_a_time(
    reference: Callable[[str], crash.Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = reference("lora-dropout")
    monkeypatch.setattr(run_folder, "GRACE", 0.1)
    monkeypatch.setenv("TUNESMITH_CACHE", str(world.folder / "cache"))
    world.run.mkdir()
    with run_folder.claimed(world.run):
        ended = engine.command(world.args, world.folder, prepare=run_folder._held.clear)
        assert ended.code == 2
        assert f"another process is writing into `{world.run}` right now" in ended.said
        with run_folder.claimed(world.run):  # the process that holds it may go in again
            pass
    assert not world.run.exists() or not list(world.run.iterdir())
    with pytest.raises(UserError, match="holds no run to resume"):
        run_folder.open_folder(world.run, overwrite=False, resume=True)
    found = crash.survive(world, [])
    assert not found.trouble and not found.differences, found
