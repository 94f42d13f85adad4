"""The base of every option set, and the sets of the loop, of a new model, of what a run must not forget, and of how a comparison is spread."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_TEXT = "asset:sotu"  # what `--retain default` means


class Options(BaseModel):
    """Unknown keys are errors, and values are checked on assignment."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=(), allow_inf_nan=False)


class TrainingOptions(Options):
    """How the loop runs. Defaults are those a practitioner would start with."""

    schedule: Literal["linear", "cosine", "constant", "range"] = Field(
        "linear", description="learning-rate schedule (range: growing to the peak, for a range test)"
    )
    warmup: float = Field(0.06, ge=0, description="warm-up: a share of all steps below 1, a number of steps from 1 on")
    head_learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        "auto",
        description="heads of a task learn at least at this rate (null: at the run's; auto: up to 5e-3, and only those that begin at random)",
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay (not on biases, norms and 1-D parameters)")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, ge=0, description="clip the gradient norm to this; 0 turns clipping off")
    micro_batch_size: int | None = Field(
        None, ge=1, description="rows in one forward pass; the optimiser still steps once per batch_size rows"
    )
    auto_micro_batch: bool = Field(
        True,
        description="where memory runs out, halve the forward pass and go on: batch size and loss stay the same; off: stop",
    )
    length_buckets: bool = Field(True, description="batch rows of like length together; off: a plain random order")
    chunked_loss: bool = Field(
        True,
        description="language models: make the loss and its gradient a chunk of logits at a time, where the model allows it",
    )
    fused_lora: bool = Field(
        True, description="LoRA and DoRA in fewer passes over the activations than peft's own modules take"
    )
    compile: bool = Field(
        False, description="run the repeated blocks through torch.compile (half a minute at first; slower on a CPU)"
    )
    cache_frozen_layers: bool | None = Field(
        None,
        description="with a technique's `layers`: run the frozen lower layers once and keep their states (default: when that pays)",
    )
    gradient_checkpointing: bool | None = Field(
        None,
        description="recompute activations in the backward pass (default: of a quantised model, and where they would not fit)",
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="override every dropout rate of the model")
    evaluate_every: int | None = Field(None, ge=1, description="evaluate every N optimiser steps while training")
    evaluations: int | None = Field(None, ge=1, description="evaluate this many times, evenly spread, instead")
    evaluation_share: float | None = Field(
        None,
        gt=0,
        description="of the time of training that these may take, at most (a row costs a third of one that is learned); no bound on those that choose",
    )
    early_stopping: int | None = Field(None, ge=1, description="stop after N evaluations without a better score")
    keep_best: bool = Field(False, description="end with the weights that scored best on validation")
    best_metric: str | None = Field(
        None, description="what early_stopping and keep_best look at: loss, f1, ... (default: the primary)"
    )
    hold_out_validation: bool = Field(
        False, description="cut validation rows off the training rows although the run itself chooses nothing on them"
    )
    checkpoint_every: int | None = Field(None, ge=1, description="write a resumable checkpoint every N steps")
    keep_checkpoints: int = Field(2, ge=1, description="how many checkpoints to keep")
    shard: bool = Field(
        False,
        description="with several processes: each keeps a share of the blocks' parameters (FSDP2), not all of them",
    )
    plan: bool = Field(True, description="say before the first step what the run will take: memory and time")
    guards: bool = Field(True, description="warn of what goes wrong while it trains, and keep it in result.json")
    log_every: int = Field(10, ge=1, description="write a metrics.jsonl line every N steps")

    @property
    def chooses(self) -> bool:
        """Whether something is chosen by score, so that validation rows are needed."""
        return self.early_stopping is not None or self.keep_best

    def every(self, steps: int, per_epoch: int, affordable: float) -> int | None:
        """Steps between two evaluations; None: there are none.

        Choosing needs several scores: once an epoch, and at least ten times a run, unless the user says otherwise.

        Args:
            steps: of the run.
            per_epoch: of them in a pass over the rows.
            affordable: evaluations that take as long as training does.
        """
        times = self.evaluations or (max(10, math.ceil(steps / per_epoch)) if self.chooses else None)
        found = self.evaluate_every or (math.ceil(steps / times) if times else None)
        if found is None or self.evaluation_share is None or self.chooses:
            return found
        most = int(self.evaluation_share * affordable)
        return max(found, math.ceil(steps / most)) if most else None


class RetainOptions(Options):
    """What a run must not forget (`--retain FILE`): a general text, or rows of a task that the model can do already."""

    data: str = Field(description="a file, a hub id (name:split), asset:NAME, or default (speeches, asset:sotu)")
    task: str | None = Field(None, description="what its rows are for (default: a general text)")
    columns: dict[str, str] = Field(default_factory=dict, description="the task's column = your column")
    rows: int | None = Field(
        None, ge=1, description="measure so many (default: 64 passages of a general text, all rows of a task)"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: Any) -> Any:
        """A name alone is a general text."""
        found = {"data": raw} if isinstance(raw, str) else raw
        if isinstance(found, dict) and found.get("data") == "default":
            return {**found, "data": DEFAULT_TEXT}
        return found


class SpreadOptions(Options):
    """Of a comparison: which settings are studied, how much time it may take, where its runs run, and what its report shows of the data."""

    grid: dict[str, list[Any]] = Field(default_factory=dict, description="values of settings to study, by their keys")
    budget: str | None = Field(
        None, description="fit everything into so much time (90s, 20m, 1h30m), or into so many full fine-tunings (3x)"
    )
    jobs: int = Field(1, ge=1, description="runs at once on this machine, which share its cores")
    ray: str | None = Field(
        None, description="spread the runs over the Ray cluster at this address (auto: a local one)"
    )
    examples: int = Field(
        6, ge=0, description="eval rows that techniques disagree on, for all who read the report; 0: none"
    )


class NewModelOptions(Options):
    """What a model that starts from random weights is made of (`--model new:lstm`)."""

    layers: int = Field(2, ge=1, description="recurrent layers")
    hidden: int = Field(512, ge=2, description="width of a layer's output (both directions together)")
    embedding: int | None = Field(None, ge=1, description="width of the embedding (default: hidden)")
    dropout: float = Field(0.2, ge=0, lt=1, description="between layers, after the embedding and before the head")
    bidirectional: bool = Field(False, description="read both ways; not for tasks that write or predict the next token")
    tie_weights: bool = Field(True, description="the output layer of a language model is its embedding")
    vocabulary: int = Field(8000, ge=300, description="tokens of the tokenizer that is trained on the training rows")
    tokenizer: str | None = Field(None, description="take this one instead: a folder, hub id or asset:NAME")
