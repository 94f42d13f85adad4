"""An artifact for other programs: a peft folder, a whole transformers model, or ONNX. Each is opened there and compared.

    peft      adapter_config.json + adapter_model.safetensors     PeftModel.from_pretrained; of language models also vLLM
    merged    a plain model folder                                pipeline(...), AutoModelFor...; of language models also vLLM
    onnx      model.onnx, tokenizer, config                       onnxruntime: classification, tags, answers

What is written is opened as its readers would open it, without this library, and asked the same texts; beside its run the first eval
rows are scored again too. Beyond the bound nothing is kept.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith import durable
from tunesmith.artifacts import probes
from tunesmith.artifacts.merge import BOUND, merge
from tunesmith.artifacts.store import Opened, open_artifact
from tunesmith.errors import ArtifactError, UserError, unknown

FORMATS = {"peft": "peft", "merged": "transformers", "onnx": "onnxruntime"}
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
ONNX_FILE = "model.onnx"
OPSET = 18


def export(
    artifact: str | Path, to: str, output: str | Path, *, bound: float = BOUND, overwrite: bool = False
) -> dict[str, Any]:
    """Write an artifact in another format and check it.

    Args:
        artifact: its folder, or that of a finished run.
        to: `peft`, `merged` or `onnx`.
        output: the folder to write.
        bound: how far a logit may move, as a share of the largest.
        overwrite: replace what is in `output`.

    Returns:
        `drift`, `rows` (eval rows that were scored again; 0 without a run), `opened_with`, `output`.

    Raises:
        UserError: the format cannot hold it, or it answers otherwise there; nothing is written then.
    """
    if to not in FORMATS:
        raise UserError(unknown("format", to, list(FORMATS)))
    place = Path(output)
    if place.exists() and not overwrite:
        raise UserError(f"`{place}` is there already; add --overwrite or give another --output.")
    opened = open_artifact(artifact)
    if len(opened.heads.loaded) > 1 and to != "peft":
        raise UserError(
            f"`{opened.folder}` has several heads ({', '.join(opened.readings)}), and {to} holds one; keep the artifact."
        )
    wanted = probes.answers(opened.loaded.model, opened.loaded.tokenizer)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".exporting-", dir=place.parent))
    try:
        write, read = {
            "peft": (_write_peft, _open_peft),
            "merged": (_write_merged, _open_merged),
            "onnx": (_write_onnx, _open_onnx),
        }[to]
        folder = temporary / "export"
        write(opened, folder, bound)
        model = read(opened, folder)
        drift = probes.drift(wanted, probes.answers(model, opened.loaded.tokenizer))
        if not drift <= bound:
            raise ArtifactError(
                f"opened with {FORMATS[to]}, the largest logit moves by {drift:.2e} of its size (bound {bound:g}), so nothing was written; keep the "
                "artifact, or give a larger --bound if that is close enough for you."
            )
        rows = 0 if isinstance(model, _Peft) else _rescore(opened, model)
        durable.sync_tree(folder)
        durable.replace(folder, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {
        "artifact": str(opened.folder),
        "to": to,
        "output": str(place),
        "opened_with": FORMATS[to],
        "drift": drift,
        "rows": rows,
    }


def _rescore(opened: Opened, model: Any) -> int:
    """Eval rows of the run beside the artifact, with another model in its place; how many there were.

    Raises:
        VerificationError: a prediction or score is not the run's.
    """
    run = opened.folder.parent
    if opened.folder.name != "artifact" or not (run / "result.json").is_file() or len(opened.heads.loaded) > 1:
        return 0
    from tunesmith.artifacts.use import Artifact
    from tunesmith.artifacts.verify import compare, spread, tasks_of
    from tunesmith.config import RunConfig, build, read_file
    from tunesmith.data.splits import load_roles
    from tunesmith.stream import for_task

    (each, *_) = tasks_of(run)
    task: Any = opened.task
    config = build(RunConfig, read_file(run / "config.yaml"))
    roles = load_roles(for_task(config, each.spec), task)
    places = spread(len(roles.eval), opened.task.verify_rows)
    rows = roles.eval.select(places, "export")
    artifact = Artifact(opened, torch.device("cpu"), config.eval_batch_size)
    before, opened.loaded.model = opened.loaded.model, model
    try:
        scored = artifact.score(rows, title="score again")
    finally:
        opened.loaded.model = before
    found = {
        "rows": len(rows), "places": places, "predictions": [a.shown["prediction"] for a in scored.answers], "raw": [list(a.numbers) for a in scored.answers],
    }  # fmt: skip
    compare(run, each.file, found)
    return len(rows)


# ---- peft


def _write_peft(opened: Opened, folder: Path, bound: float) -> None:
    """The two files of peft and the tokenizer; modules by the ends of their names where that means the same ones, as vLLM wants them."""
    missing = [name for name in PEFT_FILES if not (opened.folder / name).is_file()]
    if missing:
        raise UserError(
            f"`{opened.folder}` was trained with {opened.technique.name}, which peft has no format for; use --to merged, or keep the artifact."
        )
    folder.mkdir()
    for name in PEFT_FILES:
        shutil.copy(opened.folder / name, folder / name)
    opened.loaded.tokenizer.save_pretrained(folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    targets, upward = config.get("target_modules"), config.get("feedforward_modules") or []
    modules = [n for n, _ in opened.loaded.model.named_modules()]
    if isinstance(targets, list):
        short, some = short_names(targets, modules), short_names(upward, modules)
        if set(some) <= set(short):  # IA3 names its feed-forward ones twice
            config |= {"target_modules": short} | ({"feedforward_modules": some} if upward else {})
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def short_names(targets: list[str], modules: list[str]) -> list[str]:
    """The last parts of module names, if they pick the same modules; else the names as they are."""
    ends = sorted({name.rsplit(".", 1)[-1] for name in targets})
    plain = {re.sub(r"\.base_layer$", "", name) for name in modules if ".lora_" not in name}
    picked = {name for name in plain if name.rsplit(".", 1)[-1] in ends}
    return ends if picked == set(targets) else targets


def _open_peft(opened: Opened, folder: Path) -> Any:
    from peft import PeftModel

    base = _plain(opened, opened.info["base_model"]["path"], quantization=opened.info.get("quantization", "none"))
    wrapped = _quietly(lambda: PeftModel.from_pretrained(base, str(folder))).eval()
    return _Peft(wrapped) if opened.technique.saves != "peft" else _bare(wrapped)


def _bare(wrapped: Any) -> Any:
    return wrapped.base_model.model


class _Peft(nn.Module):
    """A peft model whose prompt's positions are taken off again, as generation does not see them."""

    def __init__(self, wrapped: Any) -> None:
        super().__init__()
        self.wrapped, self.config = wrapped, wrapped.config

    def can_generate(self) -> bool:
        return True

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As the wrapped model does."""
        return self.wrapped.generate(*args, **kwargs)

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        """Logits at the caller's positions."""
        found = self.wrapped(input_ids=input_ids, **kwargs)
        found["logits"] = found["logits"][:, -input_ids.shape[1] :]
        return found


def _plain(opened: Opened, path: str, quantization: str = "none") -> Any:
    """A model of the artifact's class, opened by transformers alone (with the storage of the base, which is ours to give)."""
    from tunesmith.models import quantization as quantized

    cls, config = type(opened.loaded.model), opened.loaded.model.config.__class__.from_pretrained(path)
    for key, value in opened.task.config_overrides().items():
        setattr(config, key, value)
    config.pad_token_id = opened.loaded.tokenizer.pad_token_id
    seen = opened.loaded.backbone
    view = {"reads": seen.reads, "tokenizer": opened.loaded.tokenizer, "owns_head": seen.owns_head}
    options = quantized.load_options(quantization, cls, config, **view)
    model = cls.from_pretrained(path, config=config, dtype=torch.float32, **options)
    quantized.take_over(model)
    return model.eval()


# ---- merged


def _write_merged(opened: Opened, folder: Path, bound: float) -> None:
    """What `merge` writes, less what only this library reads; a whole model as it is."""
    if opened.info["format"] == "model":
        shutil.copytree(opened.folder, folder)
    else:
        merge([opened.folder], folder, bound=bound)
    (folder / "tunesmith.json").unlink()


def _open_merged(opened: Opened, folder: Path) -> Any:
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(folder)  # as its readers will
    return type(opened.loaded.model).from_pretrained(folder, dtype=torch.float32).eval()


# ---- ONNX


class _Logits(nn.Module):
    """A model that takes tensors by place and gives tensors: what ONNX can say."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Logits, or start and end logits."""
        found = self.model(**dict(zip(self.names, inputs, strict=True)))
        return found.logits if "logits" in found else (found.start_logits, found.end_logits)


def _write_onnx(opened: Opened, folder: Path, bound: float) -> None:
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnxscript") is None:
        raise UserError(
            "--to onnx needs onnx, onnxscript and onnxruntime; install them with: pip install 'tunesmith[onnx]'"
        )
    loaded = opened.loaded
    if not opened.task.owns_head or loaded.backbone.kind == "encoder-decoder":
        raise UserError(
            f"--to onnx is for classification, tags and answers, and `{opened.folder}` writes text ({opened.task.name}); use --to merged, which "
            "transformers and vLLM open."
            if not opened.task.owns_head
            else f"--to onnx is for encoders and decoders with a head, and {type(loaded.model).__name__} is an encoder-decoder; use --to merged."
        )
    if opened.info.get("quantization", "none") != "none":
        opened = open_artifact(opened.folder, dequantize=True)
        loaded = opened.loaded
    model = loaded.model.eval()
    taken = inspect.signature(type(model).forward).parameters
    names = [
        n
        for n in ("input_ids", "attention_mask", "token_type_ids")
        if n in taken and n in loaded.tokenizer.model_input_names
    ]
    example = loaded.tokenizer([probes.TEXTS[0], probes.TEXTS[1]], padding=True, return_tensors="pt")
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2)
    outputs = ["start_logits", "end_logits"] if opened.task.name == "question-answering" else ["logits"]
    folder.mkdir()
    try:
        program = _quietly(
            lambda: torch.onnx.export(
                _Logits(model, names), tuple(example[n] for n in names), dynamo=True, opset_version=OPSET, input_names=names, output_names=outputs,
                dynamic_shapes=(tuple({0: batch, 1: length} for _ in names),), verbose=False,
            )
        )  # fmt: skip
        program.save(str(folder / ONNX_FILE))
    except Exception as error:  # the exporter raises whatever it meets
        raise ArtifactError(
            f"{type(model).__name__} with {opened.technique.name} cannot be written as ONNX ({type(error).__name__}: "
            f"{(str(error).strip() or 'no message').splitlines()[0][:200]}); merge it first, or use --to merged."
        ) from error
    loaded.tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)


def _quietly(work: Callable[[], Any]) -> Any:
    """Without the warnings of libraries about each other."""
    import contextlib
    import io
    import logging
    import warnings

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return work()


class OnnxModel(nn.Module):
    """An ONNX file that is called like a transformers model."""

    def __init__(self, folder: Path, config: Any) -> None:
        super().__init__()
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(folder / ONNX_FILE), providers=["CPUExecutionProvider"])
        self.config = config
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)  # says where it is

    def can_generate(self) -> bool:
        """It classifies."""
        return False

    def forward(self, **inputs: Any) -> Any:
        """Logits under their names."""
        from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput

        names = [each.name for each in self.session.get_inputs()]
        if "token_type_ids" in names and inputs.get("token_type_ids") is None:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        found = self.session.run(None, {name: inputs[name].cpu().numpy() for name in names})
        named: dict[str, Any] = {
            out.name: torch.from_numpy(value) for out, value in zip(self.session.get_outputs(), found, strict=True)
        }
        return SequenceClassifierOutput(**named) if "logits" in named else QuestionAnsweringModelOutput(**named)


def _open_onnx(opened: Opened, folder: Path) -> Any:
    return OnnxModel(folder, opened.loaded.model.config).eval()
