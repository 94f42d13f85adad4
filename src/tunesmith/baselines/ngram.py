"""n-gram: interpolated modified Kneser-Ney counts of token sequences, the best language model before neural ones.

It reads the run's tokens, so its bits per byte stand beside those of the run's model. A tokenizer of bytes knows every text; a
tokenizer with an unknown token counts it like any other token, for the n-gram as for the model.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from tunesmith.baselines._base import Baseline, Guess
from tunesmith.baselines._kneser_ney import KneserNey
from tunesmith.config import Options as BaseOptions
from tunesmith.config import RunConfig
from tunesmith.data.splits import Roles
from tunesmith.errors import TechniqueError
from tunesmith.tasks._base import IGNORED, Task

WHOLE = 1 << 30  # tokens in a window: documents are not cut, since nothing here costs more for a long one


class Options(BaseOptions):
    """Options of the n-gram baseline."""

    order: int = Field(5, ge=1, description="n, tokens of the longest counted sequence")


class NGram(Baseline):
    """Modified Kneser-Ney over the tokens of the task's documents."""

    Options = Options
    tasks: ClassVar[tuple[str, ...]] = ("language-modeling",)

    def predict(self, task: Task, roles: Roles, config: RunConfig) -> Guess:
        """Count the training documents, score the others.

        Raises:
            TechniqueError: the model is trained on masks.
        """
        from transformers import AutoConfig

        from tunesmith.data.encode import encode
        from tunesmith.models.load import load_tokenizer
        from tunesmith.models.new import source_of
        from tunesmith.tasks._language import TokenScore

        source = source_of(config, task, roles.train, Path(config.output or "."))
        tokenizer = load_tokenizer(source, trust_remote_code=config.trust_remote_code)
        task.model_class(AutoConfig.from_pretrained(source.path, trust_remote_code=config.trust_remote_code))
        if task.state_dict()["objective"] != "causal":
            raise TechniqueError("an n-gram model predicts the next token, and this model fills in masked ones.")
        started = time.perf_counter()

        def documents(role: str) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
            """Tokens of each document without its start token, and which of them are predicted."""
            found = []
            encoded = encode(task, roles[role], tokenizer, WHOLE, title=f"tokenise {role}")
            for index in range(len(encoded)):
                feature = encoded[index]
                ids, labels = np.asarray(feature["input_ids"], np.int64), np.asarray(feature["labels"])
                begin = int(starts and len(ids) > 0)
                found.append((ids[begin:], labels[begin:] != IGNORED))
            return found

        starts = any(t is not None for t in (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id))
        train = [ids for ids, _ in documents("train")]
        size = max(len(tokenizer), 1 + max((int(ids.max()) for ids in train if len(ids)), default=0))
        model = KneserNey(self.options.order, size).fit(train)
        seconds = time.perf_counter() - started
        values = []
        for ids, asked in documents("eval"):
            probability, best = model.score(ids)
            nats = float(-np.log(probability[asked]).sum())
            values.append(TokenScore(nats, int(asked.sum()), int((best == ids)[asked].sum())))
        total = sum(values, TokenScore())
        return Guess(values, total.nats / max(total.tokens, 1), model.size, seconds)
