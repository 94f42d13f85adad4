"""Which kernel attention runs in.

torch's fused kernel for CPUs is made for long rows: in bf16 its backward pass takes two to three times as long as plain products at rows of up to
64 tokens, one and a half times at 128, and less than them from 192 on (with 4 to 12 heads of 32 to 256; benchmarks/attention.py). In fp32
it is never much slower, and with dropout on the attention maps (BERT's default) torch takes plain products anyway. A step of smollm2 at
64 tokens gains 8 %. The choice depends on shape and dtype alone, so that a run that is resumed, or repeated, computes the same.

On a GPU torch may choose cuDNN, which plans its kernels anew for every shape: with rows of many lengths a third of a step of smollm2 on an H100
went into plans (profile of 12 steps: 1.8 ms of the host for a call, where the flash kernel's launch takes microseconds). It is left out.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHORT = 160  # tokens of a padded row
ON_GPU = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attention_kernel(device: torch.device, dtype: torch.dtype, length: int) -> AbstractContextManager[None]:
    """What a forward and its backward pass are done in: plain products for short rows in bf16 on a CPU, anything but cuDNN on a GPU.

    Args:
        device: where the model is.
        dtype: what it computes in.
        length: tokens of a row, padding included.
    """
    if device.type == "cpu" and dtype == torch.bfloat16 and length <= SHORT:
        return sdpa_kernel(SDPBackend.MATH)
    if device.type == "cuda":
        return sdpa_kernel(ON_GPU)
    return nullcontext()
