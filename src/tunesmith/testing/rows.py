"""A few rows of every task in the words of the tiny tokenizer, each set learnable in a few steps."""

from __future__ import annotations

import json
from typing import Any

GOOD, BAD = ("good", "great", "fine", "love"), ("bad", "awful", "dull", "hate")


def toy_rows(count: int = 16) -> list[dict[str, Any]]:
    """Rows that a model can learn: the label is whether the text says something good."""
    rows = []
    for i in range(count):
        word = (GOOD if i % 2 else BAD)[(i // 2) % 4]
        text = " ".join(
            ["the", ("film", "book", "plot")[i % 3], "was", *["very"] * (i % 4), word, *["and", "slow"] * (i % 3)]
        )
        rows.append({"text": text, "label": "positive" if i % 2 else "negative"})
    return rows


def rows_for(task: str, count: int = 16) -> list[dict[str, Any]]:
    """Rows of any task, made of the same texts.

    Args:
        task: registry name.
        count: how many.
    """
    rows = toy_rows(count)
    answers = {"positive": "i love the film", "negative": "they hate the plot"}
    if task == "token-classification":
        return [
            {
                "tokens": row["text"].split(),
                "ner_tags": [
                    "B-WORK" if w in ("film", "book", "plot") else "B-WORD" if w in (*GOOD, *BAD) else "O"
                    for w in row["text"].split()
                ],
            }
            for row in rows
        ]
    if task == "question-answering":
        found = []
        for row in rows:
            word = next(w for w in row["text"].split() if w in (*GOOD, *BAD))
            answer = {"text": [word], "answer_start": [row["text"].index(word)]}
            found.append({"question": "was the film good", "context": row["text"], "answers": json.dumps(answer)})
        return found
    if task == "summarization":
        return [{"document": row["text"], "summary": answers[row["label"]]} for row in rows]
    if task == "instruction":
        return [{"prompt": row["text"], "completion": answers[row["label"]]} for row in rows]
    if task == "chat":
        talk = [("user", "text"), ("assistant", "label")]
        return [
            {
                "messages": json.dumps(
                    [{"role": r, "content": answers[row["label"]] if r == "assistant" else row[c]} for r, c in talk]
                )
            }
            for row in rows
        ]
    if task == "language-modeling":
        return [{"text": row["text"]} for row in rows]
    return rows
