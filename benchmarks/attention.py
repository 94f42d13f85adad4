"""Attention on a CPU, forward and backward: torch's fused kernel against plain products, by dtype, heads and length.

OMP_NUM_THREADS=1 python benchmarks/attention.py
"""

from __future__ import annotations

import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

ROWS, REPEATS = 8, 7


def seconds(heads: int, width: int, length: int, dtype: torch.dtype, kernel: SDPBackend) -> float:
    """The best of a few passes under a causal mask, in processor seconds."""
    parts = [torch.randn(ROWS, heads, length, width, dtype=dtype, requires_grad=True) for _ in range(3)]
    mask = torch.ones(ROWS, 1, length, length, dtype=torch.bool).tril()
    found = []
    with sdpa_kernel(kernel):
        for _ in range(REPEATS):
            began = time.process_time()
            out = scaled_dot_product_attention(*parts, attn_mask=mask)
            out.backward(out)
            found.append(time.process_time() - began)
    return min(found)


def main() -> None:
    """Print a table."""
    print("| dtype | heads x width | length | fused, ms | plain, ms | fused / plain |\n|---|---|---|---|---|---|")
    for dtype in (torch.bfloat16, torch.float32):
        for heads, width in ((9, 64), (12, 32), (4, 256)):
            for length in (32, 64, 96, 128, 160, 192, 256):
                fused = seconds(heads, width, length, dtype, SDPBackend.FLASH_ATTENTION)
                plain = seconds(heads, width, length, dtype, SDPBackend.MATH)
                print(
                    f"| {str(dtype)[6:]} | {heads} x {width} | {length} | {1e3 * fused:.1f} | {1e3 * plain:.1f} | {fused / plain:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
