r"""What a student takes over from inside a teacher: its states, its embeddings, its attention.

    hidden      sum over layer pairs (m, g(m)):  mean squared (H_S^m W_m - H_T^g(m))           Jiao et al. 2020 (TinyBERT), equation 8
                                                 or 1 - cos(H_S^m W_m, H_T^g(m))               Sanh et al. 2019 (DistilBERT), section 3
    embeddings  mean squared (E_S W_e - E_T)                                                   Jiao et al. 2020, equation 9
    attention   mean over heads and queries of KL(A_T || A_S)                                  Sun et al. 2020 (MobileBERT), equation 3
                or the mean squared difference of the maps                                     Jiao et al. 2020, equation 7 (there of the scores)

W_m is learned, [d_S, d_T], and is there only where the widths differ; it is thrown away after training. Layers are paired in each
stack (encoder, decoder) by

    uniform   g(m) = m L_T / L_S, rounded up: evenly spread, the last with the last (Sun et al. 2019, PKD-skip)
    last      the last layer alone
    given     a teacher's layer for each of the student's, counted from 1; 0 leaves one out

Where the numbers of attention heads differ, the means over heads are compared. Means are over real positions, per feature, so that
padding counts nothing and every feature as much as its supervised units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from tunesmith.errors import UserError
from tunesmith.models.recorder import Recorder

Pairs = list[list[tuple[int, int]]]
"""For every stack, (student's layer, teacher's layer), counted from 1."""


def pair_layers(student: Sequence[int], teacher: Sequence[int], chosen: str | Sequence[int]) -> Pairs:
    """Which layer learns from which.

    Args:
        student: its layers in each stack.
        teacher: likewise.
        chosen: `uniform`, `last`, or a teacher's layer for each layer of the student (all stacks in a row).

    Raises:
        UserError: the models have no stacks in common, or the list does not fit.
    """
    if len(student) != len(teacher):
        raise UserError(
            f"the student has {len(student)} stack(s) of layers and the teacher {len(teacher)}, so their layers cannot be paired; learn from its "
            "answers alone (distillation.hidden=0, embeddings=0, attention=0)."
        )
    if chosen == "uniform":
        return [
            [(m, max(1, math.ceil(m * t / s))) for m in range(1, s + 1)] for s, t in zip(student, teacher, strict=True)
        ]
    if chosen == "last":
        return [[(s, t)] for s, t in zip(student, teacher, strict=True)]
    given = [int(layer) for layer in chosen]
    if len(given) != sum(student):
        raise UserError(
            f"distillation.layers names {len(given)} of the teacher's layers where the student has {sum(student)}; name one for each (0: none)."
        )
    found: Pairs = []
    for s, t in zip(student, teacher, strict=True):
        mine, given = given[:s], given[s:]
        if any(not 0 <= layer <= t for layer in mine):
            raise UserError(f"distillation.layers: the teacher has the layers 1 to {t} (0: none), got {mine}.")
        found.append([(m, layer) for m, layer in enumerate(mine, 1) if layer])
    return found


class Projections:
    """Learned maps from the student's width to the teacher's, where these differ.

    Args:
        name: before the names of the parameters.
        student: width of its states.
        teacher: likewise.
        pairs: the layers, or one stack's embeddings.
        generator: draws the first values: normal, with the variance 1 / d_S that keeps a state's length.
    """

    def __init__(self, name: str, student: int, teacher: int, pairs: Pairs, generator: torch.Generator) -> None:
        self.weights: dict[tuple[int, int], torch.nn.Parameter] = {}
        self.names: dict[str, torch.nn.Parameter] = {}
        for stack, found in enumerate(pairs):
            for layer, _ in found if student != teacher else ():
                weight = torch.nn.Parameter(torch.randn(student, teacher, generator=generator) * student**-0.5)
                self.weights[stack, layer] = weight
                self.names[f"{name}.{stack}.{layer}"] = weight

    def to(self, device: torch.device) -> None:
        """Move them."""
        for weight in self.weights.values():
            weight.data = weight.data.to(device)

    def __call__(self, states: torch.Tensor, stack: int, layer: int) -> torch.Tensor:
        """States of a student's layer in the teacher's width, in fp32."""
        weight = self.weights.get((stack, layer))
        return states.float() if weight is None else states.float() @ weight.float()


def states_distance(
    student: Recorder,
    teacher: Recorder,
    pairs: Pairs,
    project: Projections,
    masks: Sequence[torch.Tensor],
    kind: str,
    extra: Extra,
) -> torch.Tensor:
    """The distance of each feature, [B], a sum over layer pairs."""
    total: Any = 0.0
    for stack, found in enumerate(pairs):
        mask = masks[stack].float()
        for mine, theirs in found:
            state = project(extra.strip(student.states[stack][mine], mask.shape[1]), stack, mine)
            aim = teacher.states[stack][theirs].float()
            if kind == "cosine":
                each = 1 - F.cosine_similarity(state, aim, dim=-1)
            else:
                each = (state - aim).square().mean(-1)
            total = total + (each * mask).sum(1) / mask.sum(1).clamp(min=1)
    assert isinstance(total, torch.Tensor)
    return total


def maps_distance(
    student: Recorder, teacher: Recorder, pairs: Pairs, masks: Sequence[torch.Tensor], kind: str, extra: Extra
) -> torch.Tensor:
    """The distance of each feature's attention, [B], a sum over layer pairs."""
    total: Any = 0.0
    for stack, found in enumerate(pairs):
        mask = masks[stack].float()
        for mine, theirs in found:
            ours, aim = extra.strip_map(student.maps[stack][mine - 1], mask.shape[1]), teacher.maps[stack][theirs - 1]
            if ours.shape[1] != aim.shape[1]:
                ours, aim = ours.mean(1, keepdim=True), aim.mean(1, keepdim=True)
            if kind == "mse":
                both = mask[:, None, :, None] * mask[:, None, None, :]
                each = ((ours - aim).square() * both).sum(-1) / mask.sum(1).clamp(min=1)[:, None, None]
            else:
                small = 1e-9  # of keys that nobody sees
                each = (aim * ((aim + small).log() - (ours + small).log())).sum(-1)
            total = total + (each.mean(1) * mask).sum(1) / mask.sum(1).clamp(min=1)
    assert isinstance(total, torch.Tensor)
    return total


class Extra:
    """Positions that a technique adds to what the student reads, which are taken out again.

    Args:
        count: how many.
        first: where they begin: behind the first token of an encoder, before that of a decoder.
    """

    def __init__(self, count: int, first: int) -> None:
        self.count, self.first = count, first

    def _kept(self, width: int, device: torch.device) -> torch.Tensor:
        place = torch.arange(width, device=device)
        return torch.where(place < self.first, place, place + self.count)

    def strip(self, states: torch.Tensor, width: int) -> torch.Tensor:
        """[B, T + n, d] as [B, T, d]; anything else as it is."""
        if not self.count or states.shape[1] != width + self.count:
            return states
        return states[:, self._kept(width, states.device)]

    def strip_map(self, table: torch.Tensor, width: int) -> torch.Tensor:
        """[B, heads, T + n, T + n] as [B, heads, T, T], rows summing to 1 again."""
        if not self.count or table.shape[-1] != width + self.count:
            return table
        kept = self._kept(width, table.device)
        found = table[:, :, kept][:, :, :, kept]
        return found / found.sum(-1, keepdim=True).clamp(min=1e-9)
