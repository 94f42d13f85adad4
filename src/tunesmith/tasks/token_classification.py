"""Token classification: a tag for each word, for named entities (BIO) or parts of speech (plain tags).

    words      Angela  Merkel  visits  Paris
    tokens     [CLS] angela  merk ##el  visits  paris [SEP]
    labels       -   B-PER   I-PER -    O       B-LOC   -       on the first sub-token of a word (option: last, all)

The head is transformers' own token-classification head, so an exported model opens in `pipeline("token-classification")`.
Rows that are longer than the model reads are cut into windows that share words, and every word is decided in one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch.nn import functional as F

from tunesmith.config import Options as BaseOptions
from tunesmith.console import warn
from tunesmith.data.sources import Rows
from tunesmith.errors import DataError, nearest
from tunesmith.metrics.entities import EntityMetric, TagMetric
from tunesmith.tasks._base import IGNORED, Answer, Batch, Features, Metric, Task, attention_mask, pad
from tunesmith.tasks._tags import bio_labels, check_bio, guess_scheme, mend, types_of
from tunesmith.tasks._word_pieces import WordPieces, windows
from tunesmith.tasks._words import listed, locate, spans, words_of

MAX_LABELS = 10_000
MAX_LABEL = 1000  # characters
BLOCK = 1000  # rows looked at together
NAMELESS = "the tags are numbers without names; give these in order with token-classification.labels=O,B-PER,I-PER"
Record = tuple[Any, Any, Any]
"""Words decided in a window, the index of each one's tag, and its probability."""


class TokenClassificationOptions(BaseOptions):
    """Options of token classification."""

    scheme: Literal["auto", "bio", "plain"] = Field(
        "auto",
        description="bio: tags mark entities; plain: they stand for themselves; auto: bio if a tag is B-X or I-X",
    )
    repair: bool = Field(False, description="read IOB1, BIOES, BILOU and broken BIO as BIO instead of refusing it")
    labels: list[str] | None = Field(
        None, description="names of the tags in order, where the data holds their numbers; or all that may occur"
    )
    label_on: Literal["first", "last", "all"] = Field(
        "first", description="which sub-tokens of a word are trained; it is decided on the first (last) of them"
    )
    stride: int = Field(64, ge=0, description="tokens that the windows of a long row share (at most half a window)")

    @field_validator("labels", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("labels")
    @classmethod
    def _distinct(cls, value: list[str] | None) -> list[str] | None:
        twice = next((name for i, name in enumerate(value or ()) if name in (value or [])[:i]), None)
        if twice is not None:
            raise ValueError(f"`{twice}` is named twice; name every tag once")
        return value


class TokenClassification(Task):
    """Rows with `tokens` and `ner_tags`; raw `text` will do where only predictions are wanted."""

    Options = TokenClassificationOptions
    required: ClassVar[tuple[str, ...]] = ("tokens", "ner_tags")
    inputs: ClassVar[tuple[str, ...]] = ("tokens",)
    targets: ClassVar[tuple[str, ...]] = ("ner_tags",)
    structured: ClassVar[tuple[str, ...]] = ("tokens", "ner_tags")
    synonyms: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "tokens": ("words",),
        "ner_tags": ("tags", "labels", "pos_tags", "upos"),
    }
    stand_ins: ClassVar[Mapping[str, str]] = {"tokens": "text"}
    plain_text: ClassVar[Literal["lines", "conll"] | None] = "conll"
    auto_class = "AutoModelForTokenClassification"
    made_of_text = True
    reads: ClassVar[Literal["sequence", "tokens"]] = "tokens"
    aligned_by: ClassVar[Literal["row", "word", "character", "text"]] = "word"

    def __init__(self, options: TokenClassificationOptions) -> None:
        super().__init__(options)
        self.scheme = options.scheme
        self.labels: list[str] = []
        self.names: list[str] | None = options.labels  # of the numbers in the data
        self.numeric = False  # tags were numbers without names and are given back as such
        self.usual = "O"  # the tag of words that the tokenizer drops
        self.kind = "encoder"

    @property
    def primary(self) -> str:
        """Entity F1; accuracy where tags stand for themselves."""
        return "accuracy" if self.scheme == "plain" else "f1"

    # ---- what the training rows say

    def fit(self, train: Rows) -> None:
        """Learn the scheme and the tags, refusing tags that break the scheme."""
        self.names = self.options.labels or class_names(train)
        raw = [tags for _, tags in self._labelled(train)]
        counts = Counter(str(tag) for tags in raw for tag in tags)
        self.numeric = self.names is None and bool(counts) and all(isinstance(tag, int) for tags in raw for tag in tags)
        if self.numeric and self.options.scheme != "plain":
            if self.options.scheme == "bio":
                raise DataError(f"`{train.source}`: {NAMELESS}.")
            warn(f"{train.source}: {NAMELESS}, or entities are not measured; they are read as plain tags.")
        if self.scheme == "auto":
            self.scheme = guess_scheme(self.names or counts)
        if self.names is not None:
            self.labels = list(self.names)
        elif self.scheme == "bio":
            self.labels = bio_labels(types_of(counts))
        else:
            self.labels = [str(tag) for tag in sorted(map(int, counts) if self.numeric else counts)]
        if not counts:
            raise DataError(f"`{train.source}`: every row's `tokens` is empty; give rows with words and tags.")
        if len(counts) < 2 or len(self.labels) < 2:
            only = next(iter(counts))
            raise DataError(f"`{train.source}` has only one tag (`{only}`); training needs words of at least two.")
        if len(self.labels) > MAX_LABELS:
            raise DataError(
                f"`{train.source}` has {len(self.labels)} different tags (at most {MAX_LABELS}); is `ner_tags` the right column? "
                "Map it with --columns ner_tags=NAME."
            )
        longest = max(self.labels, key=len)
        if len(longest) > MAX_LABEL:
            raise DataError(
                f"`{train.source}`: the tag `{longest[:40]}...` has {len(longest):,} characters (at most {MAX_LABEL:,}); is `ner_tags` the "
                "right column? Map it with --columns ner_tags=NAME."
            )
        self.usual = "O" if self.scheme == "bio" else counts.most_common(1)[0][0]
        self.check(train, "train")

    def extend(self, train: Rows) -> None:
        """Add tags behind the known ones."""
        later = type(self)(self.options)
        later.fit(train)
        if later.scheme != self.scheme:
            raise DataError(
                f"`{train.source}` has {later.scheme} tags and the head that it would extend {self.scheme} tags; use head: own."
            )
        self.labels += [label for label in later.labels if label not in self.labels]
        self.names = list(self.labels) if self.names is not None else None
        self.numeric = self.numeric and later.numeric

    def text_of(self, row: Mapping[str, Any]) -> str:
        """The words, apart by spaces."""
        return " ".join(str(word) for word in listed(row["tokens"], "tokens"))

    def row_of_text(self, text: str) -> dict[str, Any] | None:
        """The words of a text."""
        return {"tokens": text.split()} if text.split() else None

    def with_answer(self, row: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
        """The predicted tags."""
        return {**row, "ner_tags": list(answer.value)}

    def blank(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The usual tag for every word."""
        words = words_of(row)
        tag = self.usual if self.usual in self.labels else self.labels[0]
        return {"tokens": words, "ner_tags": [tag] * len(words)}

    def check(self, rows: Rows, role: str) -> None:
        """Refuse tags that break the scheme or that the training rows do not have."""
        if "ner_tags" not in rows.table.column_names:
            return
        mended = touched = 0
        for i, (words, tags) in enumerate(self._labelled(rows)):
            wanted = self._mended(tags)
            changed = sum(str(a) != b for a, b in zip(tags, wanted, strict=True))
            mended, touched = mended + changed, touched + bool(changed)
            try:
                if self.scheme == "bio":
                    check_bio(wanted, words)
                self._check_known(wanted, words, role)
            except DataError as error:
                raise DataError(f"{rows.where(i)}: {error}") from error
        if mended:
            warn(f"{rows.source}: {mended:,} tags in {touched:,} {role} rows were mended to BIO.")

    def _check_known(self, tags: Sequence[str], words: Sequence[str], role: str) -> None:
        for place, tag in enumerate(tags):
            if tag not in self.labels:
                close = nearest(tag, self.labels)
                raise DataError(
                    f"word {place + 1} (`{words[place]}`) of the {role} rows has the tag `{tag}`, which "
                    f"{'the list of names does not have' if self.names else 'does not occur in the training rows'}"
                    f"{f' (nearest: `{close}`)' if close else ''}; mend it, or list every tag under token-classification.labels."
                )

    def _labelled(self, rows: Rows) -> Iterator[tuple[list[str], list[Any]]]:
        """Words and unmended tags of each row; errors name the row."""
        for start in range(0, len(rows), BLOCK):
            block = rows.table[start : start + BLOCK]
            for i, (tokens, tags) in enumerate(zip(block["tokens"], block["ner_tags"], strict=True), start):
                try:
                    yield self._parse({"tokens": tokens, "ner_tags": tags})
                except DataError as error:
                    raise DataError(f"{rows.where(i)}: {error}") from error

    def _parse(self, row: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
        """Words and tags of a row: names, or numbers where there are no names for them."""
        words, tags = listed(row["tokens"], "tokens"), listed(row["ner_tags"], "ner_tags")
        if len(words) != len(tags):
            raise DataError(f"{len(words)} `tokens` have {len(tags)} `ner_tags`; every word needs one tag.")
        return [str(word) for word in words], [self._named(tag, place) for place, tag in enumerate(tags)]

    def _named(self, tag: Any, place: int) -> Any:
        if isinstance(tag, float) and tag.is_integer():
            tag = int(tag)
        if isinstance(tag, bool) or not isinstance(tag, (str, int)) or (isinstance(tag, str) and not tag.strip()):
            raise DataError(f"word {place + 1} has the tag `{tag}`; a tag is a name or a whole number.")
        if isinstance(tag, str):
            return tag.strip()
        if self.names is None and tag < 0:
            raise DataError(
                f"word {place + 1} has the tag {tag}, and tags that are numbers begin at 0; give every word a tag of its own (-100, for "
                "sub-tokens that are not learned, is put there later and by itself)."
            )
        if self.names is None:
            return tag
        if not 0 <= tag < len(self.names):
            raise DataError(
                f"word {place + 1} has the tag {tag}, and there are names for 0 to {len(self.names) - 1} "
                f"({', '.join(self.names[:12])}{', ...' if len(self.names) > 12 else ''})."
            )
        return self.names[tag]

    def _mended(self, tags: Sequence[Any]) -> list[str]:
        plain = [str(tag) for tag in tags]
        return mend(plain) if self.scheme == "bio" and self.options.repair else plain

    def state_dict(self) -> dict[str, Any]:
        """Scheme and tags."""
        return {
            "scheme": self.scheme, "labels": self.labels, "names": self.names, "numeric": self.numeric, "usual": self.usual,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore scheme and tags."""
        self.scheme, self.labels, self.names = state["scheme"], list(state["labels"]), state["names"]
        self.numeric, self.usual = bool(state["numeric"]), state["usual"]

    def config_overrides(self) -> dict[str, Any]:
        """Number and names of the tags."""
        names = dict(enumerate(self.labels))
        return {"num_labels": len(names), "id2label": names, "label2id": {n: i for i, n in names.items()}}

    def encoding_key(self) -> dict[str, Any]:
        """What is context to a word depends on whether the model looks ahead."""
        return {"kind": self.kind}

    # ---- rows to batches

    def encode(
        self, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
    ) -> Iterator[Sequence[dict[str, Any]]]:
        """One feature a window; `words` are those decided in it and `places` the positions that decide them."""
        pieces = WordPieces(tokenizer)
        index = {label: i for i, label in enumerate(self.labels)}
        room = max(1, max_length - len(pieces.before) - len(pieces.after))
        for row in rows:
            words = words_of(row)
            tags = None
            if row.get("ner_tags") is not None:
                tags = [index[tag] for tag in self._mended(self._parse(row)[1])]
            elif row.get("text") is not None and row.get("tokens") is not None:
                locate(words, row["text"])  # refuse now, not after the work is done
            ids = [found[:room] for found in pieces.of(words)]
            kept = [word for word, found in enumerate(ids) if found]
            yield [
                self._feature(
                    [kept[w] for w in range(each.first, each.last)], {kept[w] for w in each.owned}, ids, tags, pieces
                )
                for each in windows([len(ids[w]) for w in kept], room, self.options.stride, self.kind == "decoder")
            ]

    def _feature(
        self,
        shown: Sequence[int],
        owned: set[int],
        ids: Sequence[Sequence[int]],
        tags: Sequence[int] | None,
        pieces: WordPieces,
    ) -> dict[str, Any]:
        tokens, labels = list(pieces.before), [IGNORED] * len(pieces.before)
        words, places = [], []
        for word in shown:
            start, size = len(tokens), len(ids[word])
            tokens += ids[word]
            on = [IGNORED] * size
            if word in owned:
                words.append(word)
                places.append(start + (size - 1 if self.options.label_on == "last" else 0))
                if tags is not None:
                    on[places[-1] - start] = tags[word]
                    if self.options.label_on == "all":
                        on[1:] = [self._inside(tags[word])] * (size - 1)
            labels += on
        tokens += pieces.after
        labels += [IGNORED] * len(pieces.after)
        feature = {
            "input_ids": np.asarray(tokens, np.int32),
            "words": np.asarray(words, np.int32),
            "places": np.asarray(places, np.int32),
        }
        return feature if tags is None else {**feature, "labels": np.asarray(labels, np.int32)}

    def _inside(self, tag: int) -> int:
        """The tag of a word's later sub-tokens: an entity begins once."""
        name = self.labels[tag]
        inner = f"I-{name[2:]}"
        return self.labels.index(inner) if self.scheme == "bio" and name[:2] == "B-" and inner in self.labels else tag

    def collate(self, features: Sequence[Features], pad_id: int, rng: np.random.Generator | None = None) -> Batch:
        """Pad to the longest feature of the batch, on the right."""
        batch = {"input_ids": pad(features, "input_ids", pad_id), "attention_mask": attention_mask(features)}
        if "labels" in features[0]:
            batch["labels"] = pad(features, "labels", IGNORED)
        return batch

    def units(self, batch: Batch) -> float:
        """Labelled sub-tokens."""
        return float((batch["labels"] != IGNORED).sum())

    # ---- loss, metrics, predictions

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy summed over labelled sub-tokens."""
        logits = outputs.logits.float()
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, reduction="sum")

    def distribution(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Over the tags, at every labelled sub-token."""
        logits: torch.Tensor = outputs.logits
        return logits[batch["labels"] != IGNORED]

    def read(
        self, model: Any, outputs: Any, batch: Batch, features: Sequence[Features], *, predicting: bool = False
    ) -> list[Record]:
        """Tag and probability of the words that are decided in each feature."""
        score, index = outputs.logits.float().softmax(-1).max(-1)
        scores, indices = score.cpu().numpy(), index.cpu().numpy()
        return [
            (np.asarray(f["words"]), indices[i][f["places"]], scores[i][f["places"]]) for i, f in enumerate(features)
        ]

    def join(self, records: Sequence[Record], row: Mapping[str, Any]) -> Answer:
        """One tag a word, and the entities among them with their places in the text (or in the words joined by spaces)."""
        words = words_of(row)
        tags, scores = [self.usual] * len(words), [0.0] * len(words)
        for decided, indices, probabilities in records:
            for word, index, probability in zip(
                decided.tolist(), indices.tolist(), probabilities.tolist(), strict=True
            ):
                tags[word], scores[word] = self.labels[index], probability
        shown: dict[str, Any] = {} if row.get("tokens") is not None else {"tokens": words}
        shown["prediction"] = [int(tag) for tag in tags] if self.numeric else tags
        if self.scheme == "bio":
            shown["spans"] = spans(tags, scores, words, row)
        else:
            shown["score"] = scores
        sure = [score for _, _, probabilities in records for score in probabilities.tolist()] or [0.0]
        return Answer(tags, shown, [sum(sure) / len(sure), min(sure)])

    def words(self, row: Mapping[str, Any]) -> list[str]:
        """The words of a row."""
        return words_of(row)

    def truth(self, row: Mapping[str, Any]) -> list[str]:
        """A tag for each word."""
        return self._mended(self._parse(row)[1])

    def metric(self) -> Metric:
        """A fresh accumulator."""
        return TagMetric() if self.scheme == "plain" else EntityMetric()


def class_names(rows: Rows) -> list[str] | None:
    """Names of the tags' numbers, where the data set brings them (hub data sets do)."""
    feature = rows.table.features.get("ner_tags")
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return list(names) if names else None
