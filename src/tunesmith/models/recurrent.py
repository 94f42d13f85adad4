"""Recurrent language models as transformers models: RNN, LSTM and GRU under the usual heads.

    ids -> embed_tokens -> [project_in] -> dropout -> layers (dropout between them) -> dropout -> head

Dropout stands on the connections between layers, never inside the recurrence (Zaremba et al. 2014, section 3). Names are
transformers': `save_pretrained`, `from_pretrained`, `generate` and every technique work as on any other model. Importing
this file registers the classes with transformers' Auto classes; `models.load` does so, and a plain script that opens
such a folder has to `import tunesmith.models.recurrent` first.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.modeling_layers import (
    GenericForQuestionAnswering,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
)
from transformers.utils.generic import can_return_tuple

from tunesmith.models.recurrence import GATES, STATES, Cell, RecurrentState, State, first_values

HEAD = 0.1  # output layers start in U(-0.1, 0.1) (Zaremba et al. 2014, section 4.1)
EMBEDDING = 0.5
"""Embeddings start wider than that: gates that are sized for inputs of about 1 hardly see inputs of 0.06. On 90,000 tokens of
speeches (LSTM, width 192, 150 steps, rate 5e-3) the loss stood at that of single tokens with 0.1 (6.64) and went on with 0.5
(6.02) and 1.0 (6.03); torch's own N(0, 1) would make the logits of a tied output layer too large at first."""


@strict
class RecurrentConfig(PreTrainedConfig):
    """What a recurrent model is made of.

    Attributes:
        cell: rnn, lstm or gru.
        vocab_size: rows of the embedding.
        hidden_size: width of a layer's output; with two directions each has half of it.
        embedding_size: width of the embedding; None: `hidden_size`.
        num_hidden_layers: layers.
        dropout: rate between layers, after the embedding and before the head.
        bidirectional: layers read both ways (no language model then).
        tie_word_embeddings: the output layer is the embedding (Press & Wolf 2017).
    """

    model_type = "recurrent"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  (transformers' own attribute)

    cell: str = "lstm"
    vocab_size: int = 8000
    hidden_size: int = 512
    embedding_size: int | None = None
    num_hidden_layers: int = 2
    dropout: float | int = 0.0
    bidirectional: bool = False
    tie_word_embeddings: bool = False
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def validate_architecture(self) -> None:
        """Part of the configuration's own validation.

        Raises:
            ValueError: an unknown cell, or an odd width for two directions.
        """
        if self.cell not in GATES:
            raise ValueError(f"cell is one of {', '.join(GATES)}, got `{self.cell}`")
        if self.bidirectional and self.hidden_size % 2:
            raise ValueError(f"hidden_size must be even for two directions, got {self.hidden_size}")

    @property
    def input_width(self) -> int:
        """Width of the embedding."""
        return self.embedding_size or self.hidden_size


class RecurrentLayer(GradientCheckpointingLayer):
    """One layer in one or two directions, [B, T, d] -> [B, T, d]."""

    def __init__(self, config: RecurrentConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.is_causal = not config.bidirectional
        directions = 2 if config.bidirectional else 1
        width = config.hidden_size // directions
        self.cells = nn.ModuleList(
            Cell(config.cell, config.hidden_size, width, backward=bool(d))  # type: ignore[arg-type]
            for d in range(directions)
        )
        self.state_shape = (directions, STATES[config.cell], width)
        self.first_state: torch.Tensor | None = None  # an attribute, not a buffer: it belongs to whoever sets it
        """What a document starts from, laid out as `state_shape`; zeros if None. Prefix tuning learns it."""

    def forward(
        self,
        hidden: torch.Tensor,
        mask: torch.Tensor | None = None,
        starts: torch.Tensor | None = None,
        past_key_values: RecurrentState | None = None,
    ) -> torch.Tensor:
        """The layer's output; padding gives zeros. The state goes through `past_key_values`."""
        first = self._first(hidden)
        before = past_key_values.layers.get(self.index, first) if past_key_values is not None else first
        outputs, after = [], []
        for cell, start, earlier in zip(self.cells, first, before, strict=True):
            output, last = cell(hidden, mask, starts, start, earlier, past_key_values is not None)
            outputs.append(output)
            after.append(last)
        if past_key_values is not None:
            past_key_values.layers[self.index] = after
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        return joined if mask is None else joined * mask[:, :, None].to(joined.dtype)

    def _first(self, hidden: torch.Tensor) -> list[State]:
        """The first state of every direction, each tensor [B, h]."""
        chosen = self.first_state if self.first_state is not None else hidden.new_zeros(self.state_shape)
        rows = chosen.view(self.state_shape)[:, :, None].expand(-1, -1, len(hidden), -1)
        return [tuple(direction) for direction in rows]


class RecurrentPreTrainedModel(PreTrainedModel):
    """Initialisation and what transformers asks of a model family."""

    config_class = RecurrentConfig
    config: RecurrentConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _is_stateful = True  # no assisted generation: a state cannot go back
    _no_split_modules = ["RecurrentLayer"]  # noqa: RUF012  (transformers' own attribute)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Cells as torch draws them, embeddings and heads uniform."""
        if hasattr(module, "gates_of"):
            for parameter, value in zip((module.weight, module.bias), first_values(module), strict=True):
                initialization.copy_(parameter, value.to(parameter.device, parameter.dtype))  # type: ignore[arg-type]
        elif isinstance(module, nn.Embedding):
            initialization.uniform_(module.weight, -EMBEDDING, EMBEDDING)
        elif isinstance(module, nn.Linear):
            initialization.uniform_(module.weight, -HEAD, HEAD)
            if module.bias is not None:
                initialization.zeros_(module.bias)


class RecurrentModel(RecurrentPreTrainedModel):
    """Embedding and layers, without a head."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.input_width)
        if config.input_width != config.hidden_size:
            self.project_in: nn.Module = nn.Linear(config.input_width, config.hidden_size, bias=False)
        else:
            self.project_in = nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(RecurrentLayer(config, i) for i in range(config.num_hidden_layers))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: RecurrentState | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states of every position.

        Args:
            input_ids: [B, T].
            attention_mask: 1 at real positions, [B, T] or, with a cache, [B, positions read before + T].
            position_ids: without a mask, position 0 starts a new document inside a row.
            past_key_values: the state that an earlier call left.
            inputs_embeds: [B, T, embedding width], instead of ids.
            use_cache: return the state; off unless asked for, since nothing but generation needs it.
            output_hidden_states: return the embeddings and every layer's output too.
            **kwargs: what other models take and this one has no use for.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        hidden = self.project_in(self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds)
        width = hidden.shape[1]
        mask = starts = None
        if attention_mask is not None:
            mask = attention_mask[:, -width:] != 0
            mask = None if bool(mask.all()) else mask
        elif position_ids is not None and width > 1 and bool((position_ids[:, 1:] == 0).any()):
            starts = position_ids == 0
            if self.config.bidirectional:
                raise ValueError("a model that reads both ways cannot read several documents in one row")
        if use_cache and past_key_values is None and not self.config.bidirectional:
            past_key_values = RecurrentState()
        states = [hidden]
        hidden = self.dropout(hidden)
        for number, layer in enumerate(self.layers):
            hidden = layer(hidden, mask, starts, past_key_values=past_key_values)
            states.append(hidden)
            if number < len(self.layers) - 1:
                hidden = self.dropout(hidden)
        if past_key_values is not None:
            past_key_values.seen += width
        return BaseModelOutputWithPast(
            last_hidden_state=self.dropout(hidden),
            past_key_values=past_key_values,  # type: ignore[arg-type]
            hidden_states=tuple(states) if output_hidden_states else None,
        )


class RecurrentForCausalLM(RecurrentPreTrainedModel, GenerationMixin):
    """A language model: the next token at every position."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        if config.bidirectional:
            raise ValueError("a bidirectional model sees the token it should predict; set bidirectional to false")
        self.model = RecurrentModel(config)
        width = config.input_width if config.tie_word_embeddings else config.hidden_size
        if width != config.hidden_size:
            self.project_out: nn.Module = nn.Linear(config.hidden_size, width, bias=False)
        else:
            self.project_out = nn.Identity()
        self.lm_head = nn.Linear(width, config.vocab_size)  # its bias learns how frequent tokens are
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the first call makes a RecurrentState

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: RecurrentState | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits over the vocabulary, [B, T, V]; `labels` are shifted inside, as everywhere in transformers."""
        output = self.model(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=past_key_values,
            inputs_embeds=inputs_embeds, use_cache=use_cache, **kwargs,
        )  # fmt: skip
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(self.project_out(output.last_hidden_state[:, keep]))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=output.past_key_values, hidden_states=output.hidden_states
        )


class RecurrentForSequenceClassification(RecurrentPreTrainedModel):
    """One vector a row: the last real position read forwards, and the first one read backwards."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.num_labels = int(config.num_labels or 2)
        self.model = RecurrentModel(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Logits over the labels, [B, labels]."""
        output = self.model(input_ids, attention_mask=attention_mask, **kwargs)
        states = output.last_hidden_state
        mask = attention_mask if attention_mask is not None else states.new_ones(states.shape[:2])
        real = (mask != 0).long()
        rows = torch.arange(len(states), device=states.device)
        pooled = states[rows, (real * torch.arange(real.shape[1], device=real.device)).argmax(1)]
        if self.config.bidirectional:
            half = self.config.hidden_size // 2
            pooled = torch.cat([pooled[:, :half], states[rows, real.argmax(1), half:]], 1)
        logits = self.score(pooled)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss, logits=logits, past_key_values=output.past_key_values, hidden_states=output.hidden_states
        )


# The loss is chosen by transformers from the ending of the class name.
class RecurrentForTokenClassification(GenericForTokenClassification, RecurrentPreTrainedModel):
    """Labels of tokens."""


class RecurrentForQuestionAnswering(GenericForQuestionAnswering, RecurrentPreTrainedModel):
    """Start and end of an answer."""


AutoConfig.register("recurrent", RecurrentConfig, exist_ok=True)
for _auto, _class in (
    (AutoModel, RecurrentModel),
    (AutoModelForCausalLM, RecurrentForCausalLM),
    (AutoModelForSequenceClassification, RecurrentForSequenceClassification),
    (AutoModelForTokenClassification, RecurrentForTokenClassification),
    (AutoModelForQuestionAnswering, RecurrentForQuestionAnswering),
):
    _auto.register(RecurrentConfig, _class, exist_ok=True)
