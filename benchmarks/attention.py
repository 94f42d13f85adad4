"""Attention on a CPU, forward and backward: torch's two ways against own products, by dtype, dropout, heads and length.

OMP_NUM_THREADS=1 python benchmarks/attention.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from tunesmith.training.attention import own_attention

TOKENS, REPEATS = 1024, 7


def seconds(attend: Callable[..., torch.Tensor], parts: list[torch.Tensor]) -> float:
    """The best of a few passes, in processor seconds."""
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        out = attend(*parts)
        out.backward(out.detach())
        found.append(time.process_time() - began)
    return min(found)


def main() -> None:
    """Print a table; every row of it has as many tokens, under a causal mask."""
    print("| dtype | dropout | heads x width | length | fused, ms | plain, ms | own, ms | best of torch / own |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype in (torch.bfloat16, torch.float32):
        for dropout in (0.1, 0.0):
            for heads, width in ((9, 64), (12, 32), (4, 256)):
                for length in (32, 64, 128, 256, 512):
                    shape = (TOKENS // length, length, heads, width)
                    parts = [torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)]
                    mask = torch.ones(len(parts[0]), 1, length, length, dtype=torch.bool).tril()
                    bias = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)

                    def torchs(
                        kernel: SDPBackend, *own: torch.Tensor, m: torch.Tensor = mask, p: float = dropout
                    ) -> torch.Tensor:
                        with sdpa_kernel(kernel):
                            return scaled_dot_product_attention(*own, attn_mask=m, dropout_p=p)

                    fused = (
                        seconds(lambda *own: torchs(SDPBackend.FLASH_ATTENTION, *own), parts) if not dropout else None
                    )
                    plain = seconds(lambda *own: torchs(SDPBackend.MATH, *own), parts)
                    mine = seconds(lambda *own, b=bias, w=width, p=dropout: own_attention(*own, b, w**-0.5, p), parts)  # type: ignore[misc]
                    best = min(plain, fused or plain)
                    print(
                        f"| {str(dtype)[6:]} | {dropout} | {heads} x {width} | {length} | {f'{1e3 * fused:.1f}' if fused else '-'} | "
                        f"{1e3 * plain:.1f} | {1e3 * mine:.1f} | {best / mine:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
