"""Conversations: what is learned, for every kind of chat template; where they are cut; the forms they come in."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tunesmith import registry
from tunesmith.data.sources import Rows
from tunesmith.errors import DataError
from tunesmith.tasks import _template as template
from tunesmith.tasks._base import IGNORED
from tunesmith.tasks.chat import Chat

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>"
    "{% endgeneration %}\n{% else %}{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
NO_END = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# Opens an answer with a thinking mark that history does not show, and drops the thoughts of all answers but the last.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "gemma": GEMMA, "llama2": LLAMA2, "marked": MARKED, "plain": template.PLAIN}
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
END = {"chatml": "<|im_end|>", "gemma": "<end_of_turn>", "llama2": "</s>", "marked": "<|im_end|>", "plain": "</s>"}


def tokenizer_of(chat_template: str | None, merges: bool = True) -> Any:
    """A byte-level BPE with merges, so that a careless border would be merged over."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    corpus = ["assistant\nHello there", "user\nHi\n", "Xin chào bạn", "\nThe film was good.", "Hello there.\n"] * 20
    trainer = trainers.BpeTrainer(
        vocab_size=400 if merges else 256 + len(SPECIAL),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=SPECIAL[3:], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = chat_template
    return tokenizer


class _Model:
    generation_config = None


def bound(tokenizer: Any, kind: str = "decoder", **options: Any) -> Chat:
    task_class = registry.load("task", "chat")
    task: Chat = task_class(task_class.Options(**options))
    task.bind(_Model(), tokenizer, kind)
    return task


TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello there."},
    {"role": "user", "content": "Xin chào bạn"},
    {"role": "assistant", "content": "The film was good."},
]


def learned(features: Any, tokenizer: Any) -> list[str]:
    """The learned texts, one for each unbroken run of learned positions."""
    found = []
    for feature in features:
        runs: list[list[int]] = []
        before = False
        for label in feature["labels"].tolist():
            if label != IGNORED:
                if not before:
                    runs.append([])
                runs[-1].append(label)
            before = label != IGNORED
        found += [tokenizer.decode(run) for run in runs]
    return found


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_answer_is_learned_with_its_end_and_nothing_else(name: str) -> None:
    tokenizer = tokenizer_of(TEMPLATES[name])
    task = bound(tokenizer)
    features = next(iter(task.encode([{"messages": TALK}], tokenizer, 500)))
    assert len(features) == 1
    texts = [text.replace(END[name], "").strip() for text in learned(features, tokenizer)]
    assert texts == ["Hello there.", "The film was good."]
    assert all(text.endswith(END[name]) for text in learned(features, tokenizer)), (
        "the end of a turn is always a target"
    )
    assert task.stops[0] == tokenizer.convert_tokens_to_ids(END[name])
    whole = tokenizer.decode(features[0]["input_ids"])
    assert whole == template.render(tokenizer, TALK, None, prompt=False), (
        "the ids are those of the rendered conversation"
    )


def test_the_answers_are_those_that_generation_marks_give() -> None:
    """An independent reference: transformers' own mask, where the template marks the answers."""
    tokenizer = tokenizer_of(MARKED, merges=False)  # transformers marks a token that straddles the border as a whole
    found = tokenizer.apply_chat_template(TALK, return_assistant_tokens_mask=True, return_dict=True)
    marked = tokenizer.decode([i for i, m in zip(found["input_ids"], found["assistant_masks"], strict=True) if m])
    ours = next(iter(bound(tokenizer).encode([{"messages": TALK}], tokenizer, 500)))
    assert "".join(learned(ours, tokenizer)) == marked


def test_no_token_straddles_the_border_of_an_answer() -> None:
    """The trained merges would join the newline before an answer with its first word; the prompt at use has no such token."""
    tokenizer = tokenizer_of(CHATML)
    joined = tokenizer("assistant\nHello there", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(joined[:1]) != "assistant\n", "the border must be one that is merged over"
    features = next(iter(bound(tokenizer).encode([{"messages": TALK}], tokenizer, 500)))
    ids = features[0]["input_ids"].tolist()
    prompt = tokenizer(template.render(tokenizer, TALK[:1], None, prompt=True), add_special_tokens=False)["input_ids"]
    assert ids[: len(prompt)] == prompt


def test_a_template_without_end_token_still_ends_an_answer() -> None:
    tokenizer = tokenizer_of(NO_END)
    features = next(iter(bound(tokenizer).encode([{"messages": TALK}], tokenizer, 500)))
    assert all(text.endswith("</s>") for text in learned(features, tokenizer))


def test_an_unknown_word_ends_no_answer() -> None:
    """Its token counts as special in every tokenizer, and T5 has it for letters that it does not know."""
    words = ["user", "assistant", ":", "hi", "hello", "there", "friend"]
    core = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<unk>", "<pad>", "</s>", *words])}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")
    tokenizer.chat_template = NO_END
    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello chào there"}]}]
    features = next(iter(bound(tokenizer).encode(rows, tokenizer, 50)))
    assert learned(features, tokenizer) == ["hello <unk> there </s>"]


def test_an_answer_whose_history_is_rewritten_is_learned_in_its_own_sequence() -> None:
    tokenizer = tokenizer_of(THINKING)
    talk = [dict(m) for m in TALK]
    talk[1]["content"] = "<think>\nhm</think>Hello there."
    talk[3]["content"] = "<think>\noh</think>The film was good."
    features = next(iter(bound(tokenizer).encode([{"messages": talk}], tokenizer, 500)))
    assert len(features) == 2
    assert learned(features, tokenizer) == [
        "hm</think>Hello there.<|im_end|>",
        "oh</think>The film was good.<|im_end|>",
    ]
    second = tokenizer.decode(features[1]["input_ids"])
    assert "hm" not in second, "the earlier thought is not in the history of the later answer"
    assert second == template.render(tokenizer, talk, None, prompt=False)


def test_the_whole_text_is_learned_when_asked() -> None:
    tokenizer = tokenizer_of(CHATML)
    features = next(iter(bound(tokenizer, train_on_all=True).encode([{"messages": TALK}], tokenizer, 500)))
    assert (features[0]["labels"] == features[0]["input_ids"]).all()


def test_a_system_prompt_is_added_where_there_is_none() -> None:
    tokenizer = tokenizer_of(CHATML)
    task = bound(tokenizer, system="Be kind.")
    own = [{"role": "system", "content": "Be rude."}, *TALK]
    texts = [
        tokenizer.decode(f[0]["input_ids"])
        for f in task.encode([{"messages": TALK}, {"messages": own}], tokenizer, 500)
    ]
    assert "Be kind." in texts[0]
    assert "Be rude." in texts[1]
    assert "Be kind." not in texts[1]


def test_a_long_conversation_is_cut_between_exchanges_under_its_system_prompt() -> None:
    tokenizer = tokenizer_of(CHATML)
    talk = [{"role": "system", "content": "S!"}]
    for i in range(6):
        talk += [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}]
    task = bound(tokenizer)
    whole = len(next(iter(task.encode([{"messages": talk}], tokenizer, 10_000)))[0]["input_ids"])
    features = next(iter(task.encode([{"messages": talk}], tokenizer, whole // 2)))
    assert len(features) > 1
    texts = [tokenizer.decode(f["input_ids"]) for f in features]
    assert all(text.startswith("<|im_start|>system\nS!<|im_end|>\n<|im_start|>user\nquestion") for text in texts)
    assert [t.replace("<|im_end|>", "") for t in learned(features, tokenizer)] == [f"answer {i}" for i in range(6)]
    assert max(len(f["input_ids"]) for f in features) <= whole // 2


def test_an_exchange_that_fits_nowhere_stops_the_run_or_is_left_out() -> None:
    tokenizer = tokenizer_of(CHATML)
    talk = [*TALK, {"role": "user", "content": "x"}, {"role": "assistant", "content": "long " * 100}]
    with pytest.raises(DataError, match=r"exchange 3 alone.*--max-length"):
        list(bound(tokenizer).encode([{"messages": talk}], tokenizer, 120))
    features = next(iter(bound(tokenizer, too_long="drop").encode([{"messages": talk}], tokenizer, 120)))
    assert "long" not in "".join(learned(features, tokenizer))
    assert "The film was good.<|im_end|>" in learned(features, tokenizer)


def test_tool_calls_are_kept() -> None:
    with_tools = (
        "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
        "{% if m.tool_calls %}CALL {{ m.tool_calls | tojson }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = tokenizer_of(with_tools)
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Huế"}}}
    talk = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "weather", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ]
    tools = json.dumps([{"name": "weather"}])
    features = next(iter(bound(tokenizer).encode([{"messages": json.dumps(talk), "tools": tools}], tokenizer, 900)))
    texts = learned(features, tokenizer)
    assert texts[0].startswith("CALL [")
    assert json.loads(texts[0].removeprefix("CALL ").removesuffix("<|im_end|>")) == [call]
    assert texts[1] == "Sunny.<|im_end|>"
    assert tokenizer.decode(features[0]["input_ids"]).startswith("TOOLS [")


def test_sharegpt_and_openai_are_the_same_conversation() -> None:
    roles = {"user": "human", "assistant": "gpt"}
    share = [{"from": roles[m["role"]], "value": m["content"]} for m in TALK]
    assert template.normalise(share) == TALK == template.normalise(json.dumps(share))


def test_an_encoder_decoder_answers_the_last_turn() -> None:
    tokenizer = tokenizer_of(CHATML)
    feature = next(iter(bound(tokenizer, "encoder-decoder").encode([{"messages": TALK}], tokenizer, 500)))[0]
    assert tokenizer.decode(feature["input_ids"]).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(feature["labels"]) == "The film was good.<|im_end|>\n"


def test_a_batch_predicts_the_next_token() -> None:
    tokenizer = tokenizer_of(CHATML)
    task = bound(tokenizer)
    feature = next(iter(task.encode([{"messages": TALK}], tokenizer, 500)))[0]
    batch = task.collate([feature, feature], tokenizer.pad_token_id)
    ids, labels = batch["input_ids"][0].numpy(), batch["labels"][0].numpy()
    at = np.flatnonzero(labels != IGNORED)
    assert (ids[at + 1] == labels[at]).all()
    assert task.units(batch) == 2 * int((feature["labels"] != IGNORED).sum())


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], ["at least one message"]),
        ("not json", ["not JSON"]),
        ([{"content": "x"}], ["message 1", "no `role`"]),
        ([{"role": "user"}], ["message 1", "no `content`"]),
        (["hi"], ["message 1", "object"]),
        ([{"role": "user", "content": "hi"}], ["assistant says nothing"]),
        ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": " "}], ["assistant says nothing"]),
    ],
)
def test_rows_that_cannot_be_learned_from_are_refused(messages: Any, words: list[str]) -> None:
    table = Dataset.from_dict(
        {"messages": [json.dumps(TALK), messages if isinstance(messages, str) else json.dumps(messages)]}
    )
    with pytest.raises(DataError) as error:
        bound(tokenizer_of(CHATML)).fit(Rows(table, "chats.jsonl", "x"))
    assert all(word in str(error.value) for word in ("chats.jsonl, row 2", *words)), str(error.value)


def test_roles_that_the_template_refuses_are_named() -> None:
    talk = [{"role": "assistant", "content": "me first"}, *TALK]
    with pytest.raises(DataError, match=r"refuses the roles.*alternate"):
        list(bound(tokenizer_of(GEMMA)).encode([{"messages": talk}], tokenizer_of(GEMMA), 500))
