"""What reads something that somebody else wrote: each takes bytes, and may do its work or refuse it in a sentence, and nothing else."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunesmith import config as configuration
from tunesmith.artifacts.store import read_info
from tunesmith.assets.archive import tar_members, zip_bytes
from tunesmith.config import RunConfig
from tunesmith.data.columns import to_arrow
from tunesmith.data.formats import records
from tunesmith.errors import TunesmithError
from tunesmith.serve import openapi, wire
from tunesmith.serve.refusals import Refused
from tunesmith.tasks import _answers as answers
from tunesmith.tasks import _template as template
from tunesmith.tasks import _words as words
from tunesmith.training import state_file

FOLDER = Path(tempfile.mkdtemp(prefix="tunesmith-fuzz-"))
LONGEST = 1 << 16


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: in the table.
        read: takes bytes.
        seeds: what it reads well, to begin with.
    """

    name: str
    read: Callable[[bytes], None]
    seeds: tuple[bytes, ...]

    def __call__(self, data: bytes) -> bool:
        """Whether it was read; a refusal must be one of ours, with a sentence that says something.

        Raises:
            Exception: anything that nobody thought of.
        """
        try:
            self.read(data[:LONGEST])
        except TunesmithError as error:
            text = str(error)
            if not 10 <= len(text) <= 4000 or "Traceback" in text:
                raise AssertionError(f"no sentence for people: {text[:200]!r}") from error
            return False
        return True


def _file(data: bytes, name: str) -> Path:
    path = FOLDER / f"{os.getpid()}-{name}"
    path.write_bytes(data)
    return path


def _rows(kind: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        path = _file(data, f"rows.{kind}")
        to_arrow(records(path, kind, "rows"), "rows")

    return read


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    into = io.BytesIO()
    pq.write_table(pa.table({"text": ["a film", "phim hay"], "label": ["x", "y"]}), into)
    return into.getvalue()


def _yaml(data: bytes) -> None:
    raw = configuration.read_file(_file(data, "run.yaml"))
    configuration.build(RunConfig, {"model": "m", "train": "t", **raw})


def _assignment(data: bytes) -> None:
    words = data.decode("utf-8", "replace").split("\n")
    configuration.build(RunConfig, configuration.merge({"model": "m", "train": "t"}, configuration.assignments(words)))


def _state(data: bytes) -> None:
    state_file.read(_file(data, "state.safetensors"))


def _state_seed() -> bytes:
    import torch

    path = FOLDER / "seed.safetensors"
    state_file.write(path, {"weights": torch.arange(3.0), "step": 3, "names": ["a", ("b", None)]})
    return path.read_bytes()


def _artifact(data: bytes) -> None:
    folder = FOLDER / f"{os.getpid()}-artifact"
    folder.mkdir(exist_ok=True)
    (folder / "tunesmith.json").write_bytes(data)
    read_info(folder)


def _peft(data: bytes) -> None:
    folder = FOLDER / f"{os.getpid()}-peft"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_bytes(data)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    read_info(folder)


def _messages(data: bytes) -> None:
    template.normalise(data.decode("utf-8", "replace"), "row 1")


def _tokens(data: bytes) -> None:
    words.listed(data.decode("utf-8", "replace"), "tokens")


def _answers(data: bytes) -> None:
    answers.parse(data.decode("utf-8", "replace"), None)


def _wire(data: bytes) -> None:
    for body in openapi.BODIES:
        try:
            wire.parse(body, data)
        except Refused as error:
            last = error
        else:
            return
    raise TunesmithError(str(last))


def _tar(data: bytes) -> None:
    for _ in tar_members(io.BytesIO(data), lambda name: True, limit=1 << 20):
        pass


def _tar_seed() -> bytes:
    import tarfile

    into = io.BytesIO()
    with tarfile.open(mode="w:gz", fileobj=into) as file:
        info = tarfile.TarInfo("a/rows.csv")
        info.size = 5
        file.addfile(info, io.BytesIO(b"a,b\n1"))
    return into.getvalue()


def _zip(data: bytes) -> None:
    zip_bytes(_file(data, "wheel.whl"), "a/rows.csv", limit=1 << 20)


def _zip_seed() -> bytes:
    import zipfile

    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/rows.csv", "a,b\n1,2\n")
    return into.getvalue()


ROWS = b'{"text": "a film", "label": "good"}\n{"text": "phim d\xe1\xbb\x9f", "label": "bad"}\n'
SQUAD = json.dumps(
    {"data": [{"paragraphs": [{"context": "a b c", "qas": [{"question": "what?", "answers": [{"text": "b", "answer_start": 2}]}]}]}]}
).encode()  # fmt: skip
CHAT = json.dumps(
    [{"role": "user", "content": "Hi"}, {"from": "gpt", "value": "Xin chào"}], ensure_ascii=False
).encode()
INFO = json.dumps({"schema_version": 1, "task": "chat", "files": {"a": "0"}, "base_model": {"name": "m"}}).encode()
PEFT = json.dumps({"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "m", "r": 8}).encode()

TARGETS = {
    target.name: target
    for target in (
        Target("jsonl", _rows("jsonl"), (ROWS, b'{"messages": ' + CHAT + b"}\n")),
        Target("json", _rows("json"), (b"[" + ROWS.replace(b"\n", b",", 1) + b"]", SQUAD)),
        Target("csv", _rows("csv"), (b'text,label\n"a, film",good\nb,bad\n', "\ufefftext,nhãn\nphở,tốt\n".encode())),
        Target("tsv", _rows("tsv"), (b"text\tlabel\na film\tgood\n",)),
        Target("conll", _rows("conll"), (b"-DOCSTART- O\n\nJohn B-PER\nis O\n\n", b"H\xc3\xa0\tB-LOC\nN\xe1\xbb\x99i\tI-LOC\n")),
        Target("text", _rows("lines"), (b"one passage\n\nanother\n",)),
        Target("parquet", _rows("parquet"), (_parquet(),)),
        Target("yaml", _yaml, (b"technique: lora\nlora: {rank: 8}\ntraining:\n  warmup: 0.1\n", b"seed: 3\nretain: {data: general.txt}\n")),
        Target("assignments", _assignment, (b"lora.rank=8\ntraining.schedule=cosine", b"text-classification.threshold=0.4")),
        Target("state", _state, (_state_seed(),)),
        Target("artifact", _artifact, (INFO,)),
        Target("peft", _peft, (PEFT,)),
        Target("messages", _messages, (CHAT, b"[{'role': 'user', 'content': 'x'}]")),
        Target("tokens", _tokens, (b'["New", "York"]', b"['H\xc3\xa0', 'N\xe1\xbb\x99i']")),
        Target("answers", _answers, (b'{"text": ["b"], "answer_start": [2]}', b"[{'text': 'b', 'answer_start': 2}]")),
        Target("tar", _tar, (_tar_seed(),)),
        Target("wire", _wire, (b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}', b'{"model": "m", "prompt": [[1, 2]], "stop": ["a"]}')),
        Target("zip", _zip, (_zip_seed(),)),
    )
}  # fmt: skip
