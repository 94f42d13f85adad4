"""Clean rows of every task in two languages, and tokenizers that know them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tunesmith import registry
from tunesmith.config import RunConfig, build
from tunesmith.doctor import checks
from tunesmith.doctor.case import Case, Part
from tunesmith.doctor.examination import examine, finish
from tunesmith.doctor.report import Report
from tunesmith.testing import tiny_model

TASKS = (
    "text-classification", "token-classification", "question-answering", "summarization", "instruction", "chat",
    "language-modeling",
)  # fmt: skip
LANGUAGES = ("en", "vi")
WORDS = {
    "en": (
        "river mountain garden window letter station winter summer market bridge kitchen village doctor teacher farmer "
        "captain quiet narrow heavy bright gentle sudden early distant broken golden walked carried opened followed "
        "remembered painted listened gathered crossed returned slowly often together behind under between without against "
        "during beyond paper silver water stone bread music forest harbour engine lantern blanket shadow morning evening "
        "café naïve story answer question number island journey weather coffee ticket street corner museum library"
    ),
    "vi": (
        "sông núi vườn cửa thư trạm đông hè chợ cầu bếp làng bác sĩ giáo viên nông dân thuyền trưởng lặng hẹp nặng sáng "
        "dịu dàng bất ngờ sớm xa vỡ vàng đi mang mở theo nhớ vẽ nghe gom qua về chậm thường cùng sau dưới giữa không chống "
        "trong ngoài giấy bạc nước đá bánh nhạc rừng cảng máy đèn chăn bóng sáng chiều truyện trả lời hỏi số đảo hành "
        "trình thời tiết cà phê vé phố góc bảo tàng thư viện được người những của"
    ),
}
ENCODERS = ("text-classification", "token-classification", "question-answering")
Row = dict[str, Any]


class Writer:
    """Sentences that do not repeat, from a seed."""

    def __init__(self, language: str, seed: int = 0) -> None:
        self.words, self.random = list(dict.fromkeys(WORDS[language].split())), random.Random(f"{language} {seed}")

    def sentence(self, words: int = 12) -> str:
        return " ".join(self.random.sample(self.words, words)).capitalize() + "."

    def text(self, sentences: int) -> str:
        return " ".join(self.sentence() for _ in range(sentences))

    def row(self, task: str, number: int) -> Row:
        if task == "text-classification":
            return {"text": self.sentence(), "label": ("positive", "negative")[number % 2]}
        if task == "token-classification":
            tags = ["O"] * 12
            tags[2:4], tags[7] = ["B-PER", "I-PER"], "B-LOC"
            return {"tokens": self.sentence()[:-1].split(), "ner_tags": tags}
        if task == "question-answering":
            context = self.text(4)
            words = context.split()
            answer = " ".join(words[number % 40 : number % 40 + 2])
            return {
                "question": self.sentence()[:-1] + "?",
                "context": context,
                "answers": {"text": [answer], "answer_start": [context.index(answer)]},
            }
        if task == "summarization":
            return {"document": self.text(5), "summary": self.sentence(8)}
        if task == "instruction":
            return {"prompt": self.text(2), "completion": self.text(2)}
        if task == "chat":
            said = [
                ("user", self.sentence()),
                ("assistant", self.text(2)),
                ("user", self.sentence(6)),
                ("assistant", self.sentence()),
            ]
            system = [("system", self.sentence(5))] if number % 3 == 0 else []
            return {"messages": [{"role": role, "content": text} for role, text in [*system, *said]]}
        return {"text": self.text(3)}


def rows(task: str, language: str, count: int, seed: int = 0) -> list[Row]:
    writer = Writer(language, seed)
    return [writer.row(task, number) for number in range(count)]


def model(kind: str, folder: Path) -> Path:
    """A tiny model whose tokenizer was made from the clean rows: WordPiece (bert), or bytes with a chat template (llama)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    place = folder / f"doctor-{kind}"
    if (place / "tokenizer.json").is_file():
        return place
    texts = [WORDS[language] + " " + Writer(language).text(40) for language in LANGUAGES]
    tiny_model(kind, place)
    core: Any
    if kind == "bert":
        core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        core.normalizer = normalizers.NFC()
        core.pre_tokenizer = pre_tokenizers.Whitespace()
        core.train_from_iterator(
            texts, trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
        )
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        marks = ["<s>", "<|start|>", "<|end|>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        core.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=1600, special_tokens=marks, initial_alphabet=alphabet)
        )
        names = {"bos_token": "<s>", "eos_token": "<|end|>", "pad_token": "<|end|>"}  # padding is the end, as in many
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=512, **names)
    if kind != "bert":
        tokenizer.chat_template = (
            "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
        )
    config = json.loads((place / "config.json").read_text())
    config |= {"max_position_embeddings": 512, "vocab_size": len(tokenizer)}
    if kind != "bert":
        config |= {
            "architectures": ["LlamaForCausalLM"],
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        }
    (place / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(place)
    return place


def write(path: Path, content: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    return path


def examined(
    task: str, train: list[Row], held: list[Row] | None, folder: Path, models: Path, **settings: Any
) -> Report:
    """The doctor on rows: from files with a tiny model; rows alone for a task that is not there."""
    if task not in registry.names("task"):
        return examined_alone(task, train, held)
    raw = {
        "task": task,
        "train": str(write(folder / "train.jsonl", train)),
        "model": str(model("bert" if task in ENCODERS else "llama", models)),
    }
    if held is not None:
        raw["eval"] = str(write(folder / "eval.jsonl", held))
    return examine(build(RunConfig, {**raw, **settings}))


def examined_alone(task: str, train: list[Row], held: list[Row] | None) -> Report:
    """The checks that need neither task nor model, on rows in memory."""
    inputs, targets = {
        "token-classification": (("tokens",), ("ner_tags",)),
        "question-answering": (("question", "context"), ("answers",)),
    }[task]
    parts = {"train": Part.of(train)} | ({"eval": Part.of(held, "eval", "eval.jsonl")} if held is not None else {})
    case = Case(task, parts, (*inputs, *targets), inputs, targets, reader=checks.reader_of(task))
    return finish(Report(checks.run(case, "ROW_CHECKS"), case.statistics), case)
