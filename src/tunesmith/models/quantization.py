r"""Frozen weights in few bits: the linear modules of the backbone are stored quantised and computed with as floating point.

    nf4     w ~ c2 * (c1 + absmax_q) * NF4[index]      4 bits an index; blocks of 64 share an absmax, itself stored in 8 bits
    int8    w ~ scale_row * q / 127                     8 bits a weight, one scale an output

NF4 has 16 levels at the quantiles of a normal distribution, and its block scales are quantised a second time (Dettmers et al. 2023,
"QLoRA", section 3: 4-bit NormalFloat and double quantisation). int8 is the vector-wise absmax quantisation of Dettmers et al. 2022
(section 2), of weights only. A product multiplies by the dequantised weights in the dtype of what comes in, forward and backward,
and keeps nothing but the few bits in between. Embeddings, norms, biases, the output layer and the task's head are not quantised.

bitsandbytes stores and packs; what runs is a forward of our own over its modules, because its own one (0.50.2) repacks the weights at the
first pass in evaluation mode on processors with AVX512-BF16, after which no gradient passes any more, without an error; gives biases a
gradient of the wrong shape; and dequantises wrongly on CPUs where the input width is no multiple of 64.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from copy import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tunesmith.errors import UserError
from tunesmith.models.backbone import Backbone, is_linear

INSTALL = "pip install 'tunesmith[qlora]'"


def load_options(kind: str, cls: Any, config: Any, **seen: Any) -> dict[str, Any]:
    """Further `from_pretrained` arguments that quantise the backbone's blocks and nothing else.

    Args:
        kind: `none`, `nf4` or `int8`.
        cls: the model's class.
        config: its configuration.
        seen: how its backbone and head are told apart (arguments of `Backbone`).

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if kind == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"quantization={kind} needs bitsandbytes, which is not installed; install it with: {INSTALL}")
    from transformers import BitsAndBytesConfig

    with torch.device("meta"):
        shape: Any = (getattr(cls, "from_config", None) or cls._from_config)(config)
    blocks = Backbone(shape, **seen).linears()
    others = [name for name, module in shape.named_modules() if is_linear(module) and name not in blocks]
    # Names, not patterns: an end of a name alone would also match inside the blocks.
    skipped = [f"{re.escape(name)}$" for name in others] or ["$none"]
    if kind == "nf4":
        chosen = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, llm_int8_skip_modules=skipped
        )
    else:
        chosen = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return {"quantization_config": chosen, "device_map": {"": "cpu"}}


def take_over(model: nn.Module) -> None:
    """Give every module that bitsandbytes made the forward pass of this file, and the system what loading used."""
    found = [m for m in model.modules() if type(m).__name__ in ("Linear4bit", "Linear8bitLt")]
    module: Any
    for module in found:
        if bits(module.weight) == 8:
            _keep_scale(module.weight, module.weight.SCB if module.state.SCB is None else module.state.SCB)
        module.__class__ = QuantizedLinear
    if found:
        _trim()


def _keep_scale(weight: Any, scale: torch.Tensor) -> None:
    """Let the parameter be the one place of its numbers: bitsandbytes keeps several references, and a move follows some of them."""
    weight.CB, weight.SCB = weight.data, scale.to(weight.device)


def _trim() -> None:
    """Hand free memory back: the few bits lie between the freed fp32 weights, so that glibc keeps all of it (smollm2: 250 MB for 107)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries than glibc have no such function
        if trim is not None:
            trim(0)


def is_quantized(model: nn.Module) -> bool:
    """Whether some of its weights are stored in few bits."""
    return kind_of(model) != "none"


def kind_of(model: nn.Module) -> str:
    """`none`, `nf4` or `int8`."""
    found = {bits(p) for p in model.parameters()}
    return "nf4" if 4 in found else "int8" if 8 in found else "none"


def bits(parameter: Any) -> int | None:
    """4 or 8 for a parameter that is stored so; None for others."""
    return {"Params4bit": 4, "Int8Params": 8}.get(type(parameter).__name__)


def count(parameter: Any) -> int:
    """How many weights a parameter stands for: two in every byte where they have four bits."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else int(parameter.numel())


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are stored, scales included; what is shared counts once."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    for parameter in tensors.values():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            found = [
                state.absmax,
                state.code,
                *(() if state.state2 is None else (state.state2.absmax, state.state2.code)),
            ]
            total += sum(t.numel() * t.element_size() for t in found)
        scale = getattr(parameter, "SCB", None)
        total += scale.numel() * scale.element_size() if scale is not None else 0
    return total


def weight_of(module: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The weights of a linear module [out, in] as floating point."""
    kind = bits(module.weight)
    if kind is None:
        return module.weight.detach().to(dtype)
    if kind == 8:
        return _eight_bits(module.weight.data, module.weight.SCB, dtype)
    return _four_bits(module.weight, dtype)


def dequantize(model: Any) -> None:
    """Store every quantised weight as floating point again: the values that the model computed with."""
    for name, module in list(model.named_modules()):
        if bits(getattr(module, "weight", None)) is None or not isinstance(module, nn.Linear):
            continue
        plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(weight_of(module), requires_grad=False)
        plain.bias = module.bias
        plain.train(module.training)
        model.set_submodule(name, plain)
    for name in ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized"):
        if getattr(model, name, False):
            setattr(model, name, False)
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _eight_bits(codes: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return codes.to(dtype) * (scale / 127.0).to(dtype)[:, None]


def _four_bits(weight: Any, dtype: torch.dtype) -> torch.Tensor:
    from bitsandbytes import functional

    state = copy(weight.quant_state)
    shape = tuple(state.shape)
    state.dtype = dtype  # of the result: without it the weights would pass through fp32
    if shape[-1] % state.blocksize:
        # Blocks run on from row to row, and bitsandbytes' kernel for CPUs starts one anew with each row: as one row it is right.
        state.shape = torch.Size((1, state.shape.numel()))
    found: torch.Tensor = functional.dequantize_4bit(weight.data, state)
    return found.view(shape)


class _Product(torch.autograd.Function):
    """x W^T, where W is dequantised anew for the gradient of x instead of being kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, module: Any) -> torch.Tensor:
        ctx.module = module
        return F.linear(x, weight_of(module, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        return gradient @ weight_of(ctx.module, gradient.dtype), None


class QuantizedLinear(nn.Linear):
    """A frozen linear module whose weights are stored in few bits (bitsandbytes' parameters).

    It is no subclass of bitsandbytes' modules: peft would take branches for those that compute in other dtypes, and everything that peft
    does with any linear module works with this one, but to fold something into it (`dequantize` first).
    """

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        """Move to a device, the scales too, which are no buffers."""
        scale = getattr(self.weight, "SCB", None)
        super()._apply(fn, recurse)
        if scale is not None:
            _keep_scale(self.weight, scale)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X W^T + b in the dtype of x."""
        found: torch.Tensor = _Product.apply(x, self)
        return found if self.bias is None else found + self.bias.to(x.dtype)
