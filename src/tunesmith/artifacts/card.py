"""The README of an artifact: what it is, how it scored, and the lines that load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith import durable

PEFT = """from peft import PeftModel
from transformers import {auto}, AutoTokenizer

base = {auto}.from_pretrained("{base}", num_labels={labels}{more})
model = PeftModel.from_pretrained(base, "path/to/this/folder").eval()
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""

QUANTIZED = {
    "nf4": ", quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True)",
    "int8": ", quantization_config=BitsAndBytesConfig(load_in_8bit=True)",
}
PIPELINE = """from transformers import pipeline

classify = pipeline("{task}", model="path/to/this/folder")
print(classify("..."))"""

OWN = """import tunesmith

artifact = tunesmith.load("path/to/this/folder")
print(artifact.predict([{{"text": "..."}}]))"""

OWN_CLASSES = {
    "Recurrent": "tunesmith.models.recurrent",
    "Gemma3ForTokenClassification": "tunesmith.models.classes",
    "Gemma3ForQuestionAnswering": "tunesmith.models.classes",
    "BartForTokenClassification": "tunesmith.models.classes",
}


MARK = "- forgetting: "


def note(artifact: Path, sentence: str) -> None:
    """Write into an artifact's card what was forgotten, in place of what stood there; the card is no part of its hashes."""
    path = artifact / "README.md"
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if not line.startswith(MARK)]
    place = max(
        (i for i, line in enumerate(lines) if line.startswith("- ") and "sha256" not in line), default=len(lines) - 1
    )
    durable.write(path, "\n".join([*lines[: place + 1], f"{MARK}{sentence}", *lines[place + 1 :]]))


def card(info: dict[str, Any]) -> str:
    """Model card in Markdown with the metadata block that model hubs read."""
    base, state = info["base_model"], info["task_state"]
    auto = "AutoModelForSequenceClassification"
    labels = 1 if state.get("problem") == "regression" else len(state.get("labels", []))
    if info["format"] == "peft":
        kind = info.get("quantization", "none")
        snippet = PEFT.format(auto=auto, base=base["path"], labels=labels, more=QUANTIZED.get(kind, ""))
        if kind != "none":
            snippet = snippet.replace("Tokenizer\n", "Tokenizer, BitsAndBytesConfig\n", 1)
    elif info["format"] == "model":
        snippet = PIPELINE.format(task=info["task"])
    else:
        snippet = OWN.format()
    # Classes that transformers lacks register themselves when they are imported.
    extra = next((module for start, module in OWN_CLASSES.items() if info["model_class"].startswith(start)), None)
    if extra and info["format"] != "state":
        snippet = f"import {extra}  # registers {info['model_class']} with transformers\n{snippet}"
    lines = [
        "---",
        "library_name: " + {"peft": "peft", "model": "transformers"}.get(info["format"], "tunesmith"),
        f"base_model: {base['name']}",
        "tags:",
        "- tunesmith",
        f"- {info['technique']}",
        "---",
        "",
        f"# {info['task']} with {info['technique']} on {base['name']}",
        "",
        f"- base model: `{base['name']}` (sha256 of its weights `{base['sha256'] or 'not recorded'}`)",
        f"- trained in {info.get('dtype', 'float32')}; stored and measured in float32",
        *(
            [f"- the base's linear layers are stored in {info['quantization']}"]
            if info.get("quantization", "none") != "none"
            else []
        ),
        f"- inputs are cut to {info['max_length']} tokens",
    ]
    if state.get("labels"):
        shown = ", ".join(str(label) for label in state["labels"][:20])
        lines.append(f"- labels: {shown}{', ...' if len(state['labels']) > 20 else ''}")
    lines += ["", "The scores of the run stand in its `result.json`.", "", "```python", snippet, "```", ""]
    if info["format"] != "model":
        lines += [
            "With tunesmith: `tunesmith predict path/to/this/folder --data rows.jsonl --output predictions.jsonl`.",
            "",
        ]
    return "\n".join(lines)
