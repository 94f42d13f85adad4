"""What a teacher says finds the decision that it is about, whatever tokenizers lie between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from objectives.scene import Scene, letters, shuffled, teacher
from tunesmith.errors import UserError
from tunesmith.objectives import _vocabulary as vocabulary
from tunesmith.testing import tiny_model


def tables(scene: Scene) -> list[dict[str, Any]]:
    (found,) = scene.taught.tables
    return [found[i] for i in range(len(found))]


@pytest.fixture(scope="module")
def spelled(models: Path) -> Path:
    return letters(models, models / "letters-bert")


def test_a_row_is_read_by_the_teachers_own_tokenizer(tmp_path: Path, models: Path, spelled: Path) -> None:
    """The student reads letters; the teacher's numbers are those that it gives by itself."""
    from transformers import AutoModelForSequenceClassification

    name = teacher(models)
    scene = Scene(tmp_path, spelled, name)
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(name).eval(),
        AutoTokenizer.from_pretrained(name),
    )
    rows = scene.part.roles.train.table
    with torch.no_grad():
        wanted = [model(**tokenizer(row["text"], return_tensors="pt")).logits.log_softmax(-1)[0] for row in rows]
    found = [torch.tensor(np.array(each["logp"][0])) for each in tables(scene)]
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted), rtol=0, atol=1e-5)
    assert scene.loss() > 0


def test_tags_meet_by_the_word(tmp_path: Path, models: Path, spelled: Path) -> None:
    """The student's first letters get what the teacher says of the word; with label_on=all the later ones go on inside the entity."""
    name = teacher(models, task="token-classification")
    scene = Scene(tmp_path / "first", spelled, name, "token-classification")
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)
    words = scene.part.roles.train.table[0]["tokens"]
    with torch.no_grad():
        logits = model(**tokenizer(" ".join(words), return_tensors="pt")).logits[0, 1:-1]
    torch.testing.assert_close(
        torch.tensor(np.array(tables(scene)[0]["logp"])), logits.log_softmax(-1), rtol=0, atol=1e-5
    )
    every = Scene(
        tmp_path / "all", spelled, name, "token-classification", **{"token-classification": {"label_on": "all"}}
    )
    labels, p = every.part.task.labels, np.exp(tables(every)[0]["logp"])
    first = np.exp(tables(scene)[0]["logp"])[3]
    assert words == ["the", "film", "was", "bad"] and len(p) == 1 + 1 + 3 + 3  # two words are tokens of their own
    begin, inner = labels.index("B-WORD"), labels.index("I-WORD")
    assert p[5, begin] == pytest.approx(first[begin], abs=1e-5)
    assert p[6, begin] == pytest.approx(0, abs=1e-6) and p[6, inner] == pytest.approx(
        first[begin] + first[inner], abs=1e-5
    )


def test_borders_meet_by_the_character(tmp_path: Path, models: Path, spelled: Path) -> None:
    """What the teacher gives to a word's start is at its first letter, what it gives to its end at its last; nothing is lost."""
    name = teacher(models, task="question-answering")
    scene = Scene(tmp_path / "a", spelled, name, "question-answering", max_length=96)
    same = Scene(tmp_path / "b", tiny_model("bert", models / "bert"), name, "question-answering")
    ours, others = scene.part.encoded["train"], same.part.encoded["train"]
    assert len(ours) == len(others) == 12
    for letter, word, mine, theirs in zip(tables(scene), tables(same), ours, others, strict=False):
        p, q = np.exp(letter["logp"]), np.exp(word["logp"])
        assert p.sum(0) == pytest.approx([1, 1], abs=1e-4)
        for token in np.flatnonzero(theirs["begins"] >= 0):
            first = np.flatnonzero(mine["begins"] == theirs["begins"][token])[0]
            last = np.flatnonzero(mine["ends"] == theirs["ends"][token])[0]
            assert p[first, 0] == pytest.approx(q[token, 0], abs=1e-4) and p[last, 1] == pytest.approx(
                q[token, 1], abs=1e-4
            )
        assert p[0] == pytest.approx(q[0], abs=1e-4)
    assert scene.loss() > 0 and same.loss() > 0
    windows = Scene(tmp_path / "c", spelled, name, "question-answering", max_length=40)
    assert len(windows.part.encoded["train"]) > 12 and windows.loss() > 0


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_tokens_meet_by_their_strings(tmp_path: Path, models: Path, kind: str) -> None:
    """A teacher that is the student with its vocabulary in another order says exactly what the student says."""
    student = Path(teacher(models, kind, "language-modeling", seed=6))
    other = shuffled(student, models / f"shuffled-{kind}")
    options = {"alpha": 0.0, "top_k": 20}
    scene = Scene(tmp_path / "other", student, str(other), "language-modeling", options=options)
    assert scene.loss() == pytest.approx(0, abs=1e-4)
    assert scene.taught.notes()["outputs"]["covered"] == pytest.approx(1, abs=1e-4)
    plain = Scene(
        tmp_path / "same", student, teacher(models, kind, "language-modeling"), "language-modeling", options=options
    )
    assert plain.loss() > 1e-3


def test_vocabularies_too_far_apart_are_refused(tmp_path: Path, models: Path) -> None:
    student = letters(models, models / "letters-gpt2", "gpt2")
    name = teacher(models, "gpt2", "language-modeling")
    with pytest.raises(UserError, match=r"vocabulary of the teacher .* covers \d+% .*at least 50% are needed"):
        Scene(tmp_path / "a", student, name, "language-modeling")
    scene = Scene(tmp_path / "b", student, name, "language-modeling", options={"min_coverage": 0.0})
    share = scene.taught.notes()["outputs"]["covered"]
    assert 0 < share < 0.5 and scene.loss() > 0


def test_where_texts_meet() -> None:
    words = [b" the", b" cats", b" sat", b"\0end"]
    assert vocabulary.meet([b"The", b" cat", b"s", b" sat", b"\0end"], words).tolist() == [0, 1, -1, 2, 3]
    assert vocabulary.meet(words, [b"t", b"he", b" ca", b"ts", b" s", b"at", b"\0end"]).tolist() == [0, 2, 4, 6]
    # behind a word that only one of them knows nothing is compared
    assert vocabulary.meet(words, [b" the", b"\0[UNK]", b" sat", b"\0end"]).tolist() == [0, 1, -1, -1]


def test_surfaces_of_every_family() -> None:
    class Of:
        all_special_ids = (0,)
        eos_token_id, sep_token_id = 0, None

        def __init__(self, *tokens: str) -> None:
            self.tokens = tokens

        def __len__(self) -> int:
            return len(self.tokens)

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [self.tokens[i] for i in ids]

    assert vocabulary.surfaces(Of("</s>", "Ġphim", "á»Ļ"))[1:] == [b" phim", "ộ".encode()]
    assert vocabulary.surfaces(Of("</s>", "▁phim", "ộ", "<0x0A>"))[1:] == [b" phim", "ộ".encode(), b"\n"]
    assert vocabulary.surfaces(Of("</s>", "phim", "##s"))[1:] == [b" phim", b"s"]
    assert vocabulary.surfaces(Of("</s>", "x"))[0] == b"\0end"


def test_labels_are_matched_by_name(tmp_path: Path, models: Path) -> None:
    """In another order, in capitals, beside labels that the student lacks: the same numbers; a label that is missing is refused."""
    import json
    import shutil

    plain = Scene(tmp_path / "a", tiny_model("bert", models / "bert"), teacher(models))
    turned = tmp_path / "turned"
    shutil.copytree(teacher(models), turned)
    config = json.loads((turned / "config.json").read_text())
    for names, wanted in ((["POSITIVE", "negative"], "turned"), (["good", "negative"], None)):
        config["id2label"], config["label2id"] = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
        (turned / "config.json").write_text(json.dumps(config))
        if wanted is None:
            with pytest.raises(UserError, match="does not know the label `positive`"):
                Scene(tmp_path / "c", tiny_model("bert", models / "bert"), str(turned), options={"temperature": 3.0})
        else:
            scene = Scene(
                tmp_path / "b", tiny_model("bert", models / "bert"), str(turned), options={"precision": "float16"}
            )
            (left,), (right,) = plain.taught.tables, scene.taught.tables
            assert left[0]["logp"][0].tolist() == pytest.approx(right[0]["logp"][0][::-1].tolist(), abs=2e-3)
            assert right[0]["logp"].dtype == np.float16
