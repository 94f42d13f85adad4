"""Heads that transformers 5 lacks for families it has: Gemma 3 for tokens and spans, BART for tokens.

The loss is chosen by transformers from the ending of a class name, and a native configuration is registered with an Auto
class only if `exist_ok` is set. A script that opens such an artifact without tunesmith has to import this file first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification, BartConfig, Gemma3TextConfig
from transformers.modeling_layers import GenericForQuestionAnswering, GenericForTokenClassification
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.models.bart.modeling_bart import BartModel, BartPreTrainedModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3PreTrainedModel
from transformers.utils.generic import can_return_tuple


class Gemma3ForTokenClassification(GenericForTokenClassification, Gemma3PreTrainedModel):
    """Labels of tokens from the text model."""

    config_class = Gemma3TextConfig


class Gemma3ForQuestionAnswering(GenericForQuestionAnswering, Gemma3PreTrainedModel):
    """Start and end of an answer from the text model."""

    config_class = Gemma3TextConfig


class BartForTokenClassification(BartPreTrainedModel):
    """Labels of tokens from the decoder's last states, with the text in encoder and decoder (Lewis et al. 2020, section 3.2).

    The decoder reads the text shifted right, as in transformers' own classification and answering with BART.
    """

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        self.num_labels = int(config.num_labels or 2)
        self.model = BartModel(config)
        self.dropout = nn.Dropout(float(config.classifier_dropout or 0.0))
        self.classifier = nn.Linear(int(config.d_model or 0), self.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Logits over the labels, [B, T, labels]."""
        output = self.model(input_ids, attention_mask=attention_mask, use_cache=False, **kwargs)
        logits = self.classifier(self.dropout(output.last_hidden_state))
        loss = None if labels is None else self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.decoder_hidden_states, attentions=output.decoder_attentions
        )


for _auto, _config, _class in (
    (AutoModelForTokenClassification, Gemma3TextConfig, Gemma3ForTokenClassification),
    (AutoModelForQuestionAnswering, Gemma3TextConfig, Gemma3ForQuestionAnswering),
    (AutoModelForTokenClassification, BartConfig, BartForTokenClassification),
):
    _auto.register(_config, _class, exist_ok=True)
