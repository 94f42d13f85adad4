"""chat: scripted sessions in a terminal and through a pipe, and each of its commands."""

from __future__ import annotations

import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import tunesmith
from command_line import Answer, call
from tunesmith.artifacts.writing import Sampling, Writer
from tunesmith.cli.chat import COMMANDS, named_adapters
from tunesmith.errors import UserError
from tunesmith.testing import tiny_model
from tunesmith.testing.rows import rows_for

LONG = 20_000  # tokens that the terminal's model holds


def run_of(task: str, kind: str, technique: str, models: Path, cache: Path, output: Path, **settings: Any) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(cache))
        patch.setattr("tunesmith.artifacts.verify.verify_run", lambda folder: {})
        rows = rows_for(task, 8)
        tunesmith.train(
            str(models / kind), task=task, train=rows, eval=rows, technique=technique, max_steps=2, batch_size=4, learning_rate=0.1,
            device="cpu", output=output, doctor="off", **settings,
        )  # fmt: skip
    return output / "artifact"


@pytest.fixture(scope="module")
def talkers(models: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two chat adapters on one llama, one for single prompts, one that goes on with a text, one that classifies."""
    folder, quiet = tmp_path_factory.mktemp("talkers"), {"generate_rows": 0}
    for kind in ("llama", "gpt2", "bert"):
        tiny_model(kind, models / kind)
    kinds = {
        "plain": ("chat", "llama", "lora", {"chat": {**quiet, "system": "we love film"}}),
        "other": ("chat", "llama", "ia3", {"chat": quiet}),
        "prompts": ("instruction", "gpt2", "lora", {"instruction": {**quiet, "template": "alpaca"}}),
        "text": ("language-modeling", "llama", "lora", {}),
        "labels": ("text-classification", "bert", "lora", {}),
    }
    return {name: run_of(*spec[:3], models, cache, folder / name, **spec[3]) for name, spec in kinds.items()}


class Typed(io.StringIO):
    """Lines that somebody types at a terminal."""

    def isatty(self) -> bool:
        return True


def session(lines: list[str], *args: object, typed: bool = False, monkeypatch: Any) -> Answer:
    """A chat over these lines, greedy unless it says otherwise."""
    from tunesmith.console import people

    people.cache_clear()
    monkeypatch.setattr("sys.stdin", (Typed if typed else io.StringIO)("".join(f"{line}\n" for line in lines)))
    answer = call("chat", *args, "--device", "cpu", *(["--temperature", 0] if "--temperature" not in args else []))
    people.cache_clear()
    return answer


@pytest.fixture
def chat(monkeypatch: Any, talkers: dict[str, Path]) -> Any:
    """A session with one of the artifacts by name."""

    def of(lines: list[str], name: str = "plain", *args: object, typed: bool = False) -> Answer:
        return session(lines, talkers[name], "--max-new-tokens", 8, *args, typed=typed, monkeypatch=monkeypatch)

    return of


def greedy(folder: Path, messages: list[dict[str, str]]) -> str:
    writer = Writer(tunesmith.load(folder, device="cpu"))
    writing = writer.write(writer.fit(messages, 8)[0], Sampling(max_new_tokens=8, temperature=0))
    list(writing)
    return writing.text


def said(*texts: str, system: str | None = "we love film") -> list[dict[str, str]]:
    roles = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *roles] if system else roles


# ---- through a pipe


def test_answers_alone_go_to_stdout(chat: Any, talkers: dict[str, Path]) -> None:
    answer = chat(["the film was good", "", "a red book"])
    first = greedy(talkers["plain"], said("the film was good"))
    second = greedy(talkers["plain"], said("the film was good", first, "a red book"))
    assert (answer.code, answer.out, answer.err) == (0, f"{first}\n{second}\n", "")


def test_the_seed_decides(chat: Any) -> None:
    outs = [chat(["the film was good"] * 2, "plain", "--temperature", 1.5, "--seed", seed).out for seed in (0, 0, 1)]
    assert outs[0] == outs[1] != outs[2]
    first, second = chat(
        ["the film was good", "/reset", "the film was good"], "plain", "--temperature", 1.5
    ).out.splitlines()
    assert first != second, "every answer is drawn anew"


@pytest.mark.parametrize(
    "flag", [["--top-p", 0.05], ["--max-new-tokens", 2], ["--system", "bad book"], ["--temperature", 5]]
)
def test_each_flag_changes_the_answer(flag: list[object], chat: Any) -> None:
    base = ["--temperature", 1.0, "--top-p", 1.0, "--max-new-tokens", 40]
    assert chat(["the film was good"], "plain", *base, *flag).out != chat(["the film was good"], "plain", *base).out


def test_answers_as_json(chat: Any, talkers: dict[str, Path]) -> None:
    lines = chat(["the film was good", "a red book"], "plain", "--json").out.splitlines()
    first = json.loads(lines[0])
    assert first.keys() == {"answer", "adapter", "tokens", "ended"} and len(lines) == 2
    assert first["answer"] == greedy(talkers["plain"], said("the film was good")) and first["adapter"] == "plain"
    assert (first["ended"] == "length") == (first["tokens"] == 8)


def test_a_script_ends_at_its_first_mistake(chat: Any) -> None:
    for line, words in (("/sistem x", "did you mean `/system`?"), ("/undo", "nothing was said yet"), ("/save", "needs a file"),
                        ("/save t.jsonl", "nothing to save"), ("/adapter nobody", "nobody"), ("/x" * 9, "/help lists them"),
                        ("film " * 200, "shorten it")):  # fmt: skip
        answer = chat([line, "the film was good"])
        assert answer.code == 2 and answer.out == "" and words in answer.err, (line, answer.err)


def test_bytes_that_are_no_text(talkers: dict[str, Path], monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    answer = call("chat", talkers["plain"])
    assert answer.code == 2 and "not UTF-8" in answer.err


def test_a_real_pipe(talkers: dict[str, Path], tmp_path: Path) -> None:
    """No prompt, no notes; the conversation is written as training reads it; a message may have several lines."""
    lines = f"the film was good\nthe plot \\\nwas bad\n//red book\n/save {tmp_path / 'talk.jsonl'}\n"
    command = [sys.executable, "-m", "tunesmith", "chat", str(talkers["plain"]), "--max-new-tokens", "4", "-q"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    saved = [json.loads(line)["messages"] for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    assert [m["content"] for m in saved[0] if m["role"] == "user"] == [
        "the film was good",
        "the plot \nwas bad",
        "/red book",
    ]
    assert "".join(f"{m['content']}\n" for m in saved[0] if m["role"] == "assistant") == done.stdout


# ---- commands


def test_help_lists_every_command(chat: Any) -> None:
    answer = chat(["/help"], typed=True)
    assert all(f"  {word} " in answer.err for word in COMMANDS)
    assert all(method.__doc__ for method, _ in COMMANDS.values())


def test_switching_adapters(chat: Any, talkers: dict[str, Path]) -> None:
    """Another one answers, with its own system prompt, and reads what was said."""
    answer = chat(
        ["the film was good", "/adapter other", "a red book", "/adapter", "/adapter plain", "/undo", "/undo", "the film was good"],
        "plain", "--adapter", f"other={talkers['other']}",
    )  # fmt: skip
    first = greedy(talkers["plain"], said("the film was good"))
    second = greedy(talkers["other"], said("the film was good", first, "a red book", system=None))
    assert answer.out.splitlines() == [first, second, first], answer.err
    assert second != greedy(talkers["plain"], said("the film was good", first, "a red book", system=None))
    assert "other answers now" in answer.err and "  plain\n* other\n" in answer.err


def test_an_adapter_that_cannot_talk_is_named_at_once(chat: Any, talkers: dict[str, Path]) -> None:
    answer = chat(["the film"], "plain", "--adapter", f"labels={talkers['labels']}")
    assert answer.code == 2 and answer.out == ""


def test_the_system_prompt(chat: Any, talkers: dict[str, Path]) -> None:
    answer = chat(
        [
            "/system",
            "/system bad book",
            "/system",
            "the film was good",
            "/undo",
            "/system -",
            "/system",
            "the film was good",
        ]
    )
    assert answer.out.splitlines() == [
        greedy(talkers["plain"], said("the film was good", system=system)) for system in ("bad book", None)
    ]
    assert (
        "system: we love film\n" in answer.err
        and "system: bad book\n" in answer.err
        and "no system prompt; set one" in answer.err
    )


def test_a_conversation_is_saved_once(chat: Any, tmp_path: Path, models: Path, monkeypatch: Any) -> None:
    """Saved again it takes the place of its earlier form; another one follows it; and all of it can be trained on."""
    file = tmp_path / "deep" / "talks.jsonl"
    answer = chat(
        ["the film was good", f"/save {file}", "a red book", f"/save {file}", "/reset", "the plot", f"/save {file}", "/save /proc/x"], typed=True
    )  # fmt: skip
    talks = [json.loads(line)["messages"] for line in file.read_text().splitlines()]
    assert [[m["role"] for m in talk] for talk in talks] == [
        ["system", *["user", "assistant"] * 2],
        ["system", "user", "assistant"],
    ]
    assert "4 turns saved" in answer.err and "holds 2 conversations" in answer.err
    assert answer.code == 0 and "error: cannot write `/proc/x`" in answer.err
    for talk in talks:  # a model of random weights may have nothing to say, and there is nothing to learn from that
        for message in talk:
            message["content"] = message["content"].strip() or "fine"
    file.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks), encoding="utf-8")
    monkeypatch.setattr("tunesmith.artifacts.verify.verify_run", lambda folder: {})
    kind = str(models / "llama")
    train = [
        "train",
        "-q",
        "--task",
        "chat",
        "--model",
        kind,
        "--train",
        file,
        "--eval",
        file,
        "--max-steps",
        1,
        "-o",
        tmp_path / "run",
    ]
    assert call(*train, "--set", "chat.generate_rows=0", "--no-doctor").code == 0


def test_reset_and_undo(chat: Any) -> None:
    line = "the film was good"
    first = chat([line]).out
    assert chat([line, "/reset", line]).out == first * 2
    three = chat([line, "a red book", "/undo", "a red book"]).out.splitlines()
    assert three[1] == three[2] and three[0] + "\n" == first


def test_exit_ends_it(chat: Any) -> None:
    answer = chat(["/exit", "the film was good"])
    assert (answer.code, answer.out) == (0, "")


def test_a_mistake_does_not_end_a_terminal_session(chat: Any) -> None:
    answer = chat(["/sistem", "the film was good", "/undo", "/undo"], typed=True)
    assert answer.code == 0 and answer.err.count("error: ") == 2
    assert "plain: chat, lora on" in answer.err and "/help lists the commands" in answer.err


def test_a_full_context_is_said_once(chat: Any, tmp_path: Path) -> None:
    line = "the film was good and we like it very much indeed"
    answer = chat([line] * 8 + [f"/save {tmp_path / 't.jsonl'}"], typed=True)
    notes = [each for each in answer.err.splitlines() if each.startswith("the context is full")]
    assert answer.code == 0 and notes and len(set(notes)) == len(notes)
    assert notes[0].startswith("the context is full: the oldest 2 of ") and "/save" in notes[0]
    assert len(json.loads((tmp_path / "t.jsonl").read_text())["messages"]) == 17


def test_single_prompts(chat: Any) -> None:
    answer = chat(["the film", "a red book", "the film"], "prompts", typed=True)
    outs = answer.out.replace("> ", "").splitlines()
    assert outs[0] == outs[2], "earlier turns are not read"
    assert "does not read earlier turns" in answer.err


def test_a_text_goes_on(chat: Any, talkers: dict[str, Path]) -> None:
    answer = chat(["the film", "a red book"], "text")
    writer = Writer(tunesmith.load(talkers["text"], device="cpu"))
    ids = writer.artifact.tokenizer("[CLS] the film", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        found = writer.artifact.model.generate(
            input_ids=torch.tensor([ids]), max_new_tokens=8, do_sample=False, eos_token_id=3, pad_token_id=0
        )
    first = writer.artifact.tokenizer.decode(found[0, len(ids) :], skip_special_tokens=True)
    second = greedy(talkers["text"], said("the film", first, "a red book", system=None))
    assert answer.out == f"{first}\n{second}\n"
    refused = chat(["/system x"], "text")
    assert refused.code == 2 and "has no system prompt" in refused.err


def test_what_does_not_talk_is_sent_to_predict(chat: Any) -> None:
    answer = chat(["the film"], "labels")
    assert answer.code == 2 and "made for text-classification" in answer.err and "tunesmith predict" in answer.err


@pytest.mark.parametrize(
    "flag", [["--top-p", 0], ["--temperature", -1], ["--max-new-tokens", 0], ["--adapter", "x"], ["--seed", -1]]
)
def test_flags_that_make_no_sense(flag: list[object], chat: Any) -> None:
    answer = chat(["the film"], "plain", *flag)
    assert answer.code == 2 and str(flag[0]).removeprefix("--") in answer.err and len(answer.err.splitlines()) == 1


def test_names_of_adapters() -> None:
    assert named_adapters(["a=runs/a", "b = c=d"]) == {"a": "runs/a", "b": "c=d"}
    with pytest.raises(UserError, match="twice"):
        named_adapters(["a=x", "a=y"])


# ---- at a terminal


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no pseudo-terminals here")
def test_a_terminal(talkers: dict[str, Path], models: Path, cache: Path, tmp_path: Path) -> None:
    """Prompts, text as it comes, Ctrl-C for the answer and at the prompt, Ctrl-D to leave."""
    import pty

    from transformers import AutoConfig

    shutil.copytree(models / "llama", tmp_path / "long")
    config = AutoConfig.from_pretrained(tmp_path / "long")
    config.max_position_embeddings = LONG
    config.save_pretrained(tmp_path / "long")
    settings = json.loads((tmp_path / "long" / "tokenizer_config.json").read_text())
    (tmp_path / "long" / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": LONG}))
    folder = run_of("chat", "long", "lora", tmp_path, cache, tmp_path / "run", max_length=64, chat={"generate_rows": 0})
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells start what runs in the background without it
        command = [
            "-m",
            "tunesmith",
            "chat",
            str(folder),
            "--max-new-tokens",
            str(LONG // 4),
            "--seed",
            "2",
            "--temperature",
            "0",
        ]
        os.execv(sys.executable, [sys.executable, *command])

    def until(text: str, seconds: float = 60) -> str:
        seen, end = b"", time.monotonic() + seconds
        while text.encode() not in seen and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    seen += os.read(terminal, 4096)
                except OSError:  # it has left
                    break
        return seen.decode()

    try:
        assert "/help lists the commands" in until("> ")
        said = ""
        for _ in range(10):  # a signal between the prompt and the wait for a key is seen with the next key only
            os.write(terminal, b"\x03")
            said = until("> ", 3)
            if "/exit" in said:
                break
        assert "/exit or Ctrl-D leaves" in said
        os.write(terminal, b"the film was good\n")
        assert "the film was good\r\n" in until(
            "good\r\n"
        )  # the terminal's echo, behind what a second signal may have said
        until(" ")  # words come while more are written
        os.write(terminal, b"\x03")
        answered = until("\n> ")
        assert "(stopped)" in answered, answered
        os.write(terminal, f"/save {tmp_path / 'talk.jsonl'}\n".encode())
        assert "2 turns saved" in until("\n> ")
        os.write(terminal, b"\x04")
        until("never")  # until it has left
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    kept = json.loads((tmp_path / "talk.jsonl").read_text())["messages"]
    assert 0 < len(kept[1]["content"].split()) < LONG // 4
