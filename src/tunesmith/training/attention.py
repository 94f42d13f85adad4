"""Which kernel attention runs in.

On a CPU torch's fused kernel is made for long rows, and with dropout on the attention maps (BERT's default) torch takes plain products, which
draw one Bernoulli number after the other, in fp32 whatever the model computes in. `own_attention` is plain products over so many
rows at a time that the maps stay in the processor's cache, with cheap bits for dropout: forward and backward together are 1.6 to 3 times as fast
in bf16, up to 1.4 times in fp32 with dropout (benchmarks/attention.py), and what is kept for the backward pass is one map in the model's dtype. In fp32 without dropout torch's
kernel is as fast. Beyond `LONG` tokens a map takes more memory than it spares time. The choice depends on shape, dtype and dropout alone, so
that a run that is resumed, or repeated, computes the same.

On a GPU torch may choose cuDNN, which plans its kernels anew for every shape: with rows of many lengths a third of a step of smollm2 on an H100
went into plans (profile of 12 steps: 1.8 ms of the host for a call, where the flash kernel's launch takes microseconds). It is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tunesmith.training.dropout import INTEGERS, keep_mask

LONG = 256  # tokens of a padded row
AT_ONCE = 1 << 20  # elements of attention maps: 4 MiB of fp32, which a core's caches hold most of
ON_GPU = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attention_kernel(device: torch.device) -> AbstractContextManager[None]:
    """What a forward and its backward pass are done in: `own_attention` where it is faster on a CPU, anything but cuDNN on a GPU."""
    if device.type == "cpu":
        return _own()
    if device.type == "cuda":
        return sdpa_kernel(ON_GPU)
    return nullcontext()


@contextmanager
def _own() -> Iterator[None]:
    """Transformers' "sdpa" is `sdpa` inside, in every model."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = before


def suits(query: torch.Tensor, keys: int, dropout: float, more: Any) -> bool:
    """Whether `own_attention` is the faster way for these shapes, and knows all that is asked for."""
    known = not any(more.get(name) is not None for name in ("cache", "softcap", "s_aux"))
    if query.device.type != "cpu" or query.shape[2] == 1 or not known or torch.compiler.is_compiling():
        return False
    if dropout > 0:
        return query.dtype in INTEGERS
    return query.dtype == torch.bfloat16 and keys <= LONG


def sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' attention function of this name, with `own_attention` where it suits.

    Args:
        module: the attention module.
        query: [rows, heads, Tq, width].
        key: [rows, kv heads, Tk, width].
        value: [rows, kv heads, Tk, width of values].
        attention_mask: None, boolean (True = visible) or additive, [rows or 1, heads or 1, Tq, Tk].
        dropout: probability of dropping an element of the attention map.
        scaling: of the scores (default: 1 / sqrt(width)).
        is_causal: without a mask, whether a token sees only those before it (default: the module's own word).
        position_bias: additive (T5).
        **more: for transformers' function.

    Returns:
        ([rows, Tq, heads, width of values], None)
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    if not suits(query, key.shape[2], dropout, more):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, position_bias=position_bias,
            **more,
        )  # fmt: skip
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    if attention_mask is None and causal:
        # As torch counts: the first query sees the first key alone.
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool)[None, None].tril()
    bias = None
    if attention_mask is not None:
        lowest = torch.finfo(torch.float32).min
        bias = attention_mask
        if bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape).masked_fill_(~bias, lowest)
    if position_bias is not None:
        bias = position_bias if bias is None else position_bias + bias
    scale = 1.0 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    return own_attention(query, key, value, bias, scale, dropout), None


def own_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """softmax(scale q k^T + bias), dropped out, times v; scores and softmax in fp32 (fp64 for fp64).

    Args:
        query: [rows, heads, Tq, width].
        key: [rows, heads, Tk, width].
        value: [rows, heads, Tk, width of values].
        bias: additive, broadcast to [rows, heads, Tq, Tk]; it may learn.
        scale: of the scores.
        dropout: probability, below 1; drawn from torch's generator.

    Returns:
        [rows, Tq, heads, width of values]
    """
    if dropout >= 1.0:
        raise ValueError(f"dropout must be below 1; got {dropout}")
    found: torch.Tensor = _Attention.apply(query, key, value, bias, scale, dropout)
    return found


def _pieces(rows: int, heads: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Rows and heads that are computed at once; `size` elements of a map each."""
    if heads * size >= AT_ONCE:
        several = max(1, AT_ONCE // size)
        for row in range(rows):
            for head in range(0, heads, several):
                yield slice(row, row + 1), slice(head, head + several)
        return
    several = AT_ONCE // (heads * size)
    for row in range(0, rows, several):
        yield slice(row, row + several), slice(None)


def _of(bias: torch.Tensor, rows: slice, heads: slice) -> torch.Tensor:
    """A piece of a bias that may be the same for all rows or heads."""
    return bias[rows if bias.shape[0] > 1 else slice(None), heads if bias.shape[1] > 1 else slice(None)]


class _Attention(torch.autograd.Function):
    """`own_attention`. A map is never negative, so the sign of what is kept of it says what was dropped."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
        dropout: float,
    ) -> torch.Tensor:
        rows, heads, queries, _ = query.shape
        keys, dtype = key.shape[2], query.dtype
        exact = torch.promote_types(dtype, torch.float32)
        integers, kept = INTEGERS[dtype], 1.0
        out = query.new_empty(rows, queries, heads, value.shape[3])
        needed = any(ctx.needs_input_grad)
        maps = query.new_empty(rows, heads, queries, keys) if needed else None
        for piece in _pieces(rows, heads, queries * keys):
            scores = torch.matmul(query[piece].to(exact), key[piece].to(exact).transpose(-1, -2)).mul_(scale)
            if bias is not None:
                scores += _of(bias, *piece)
            weights = torch.softmax(scores, -1).to(dtype)
            if dropout:
                mask, kept = keep_mask(weights, dropout)
                mask = mask.to(integers)
                if maps is not None:
                    sign = torch.iinfo(integers).min
                    maps[piece].view(integers).copy_(weights.view(integers) | (~mask & sign))
                weights.view(integers).bitwise_and_(mask)
            elif maps is not None:
                maps[piece].copy_(weights)
            out[piece[0], :, piece[1]].copy_(torch.matmul(weights, value[piece]).mul_(kept).transpose(1, 2))
        ctx.save_for_backward(query, key, value, bias, maps)
        ctx.scale, ctx.kept, ctx.dropout = scale, kept, dropout
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """With w the map, d what is left of it and f = 1 / P(keep): dv = f d^T g, ds = w (f (g v^T) - <w, f (g v^T)>) where kept."""
        query, key, value, bias, maps = ctx.saved_tensors
        integers = INTEGERS[query.dtype]
        to_query, to_key, to_value = (torch.empty_like(each) for each in (query, key, value))
        to_bias = None
        if bias is not None and ctx.needs_input_grad[3]:
            to_bias = torch.zeros(bias.shape, dtype=torch.promote_types(bias.dtype, torch.float32))
        for piece in _pieces(maps.shape[0], maps.shape[1], maps.shape[2] * maps.shape[3]):
            rows, heads = piece
            own = gradient[rows, :, heads].transpose(1, 2)
            own = own.mul(ctx.kept).contiguous() if ctx.dropout else own.contiguous()
            weights = maps[piece]
            back = torch.matmul(own, value[piece].transpose(-1, -2))
            left = weights
            if ctx.dropout:
                bits = weights.view(integers)
                mask = ~(bits >> (torch.iinfo(integers).bits - 1))
                left = (bits & mask).view(weights.dtype)
                weights = (bits & torch.iinfo(integers).max).view(weights.dtype)
                back.view(integers).bitwise_and_(mask)
            to_value[piece].copy_(torch.matmul(left.transpose(-1, -2), own))
            scores = torch._softmax_backward_data(back, weights, -1, back.dtype)
            if to_bias is not None:
                target = _of(to_bias, *piece)
                target += scores.sum_to_size(target.shape)
            scores.mul_(ctx.scale)
            to_query[piece].copy_(torch.matmul(scores, key[piece]))
            to_key[piece].copy_(torch.matmul(scores.transpose(-1, -2), query[piece]))
        return to_query, to_key, to_value, to_bias if to_bias is None else to_bias.to(bias.dtype), None, None
