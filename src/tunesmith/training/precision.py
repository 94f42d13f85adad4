"""Compute in half precision, learn in full: fp32 masters of what learns, bf16 copies that run.

Weights held in bf16 use the processor's bf16 matrix units without casting at every product; updates smaller than
a bf16 step are not lost, because the optimiser works on fp32 masters and the copies are refreshed after each
step (Micikevicius et al. 2018, section 3.1). Buffers keep their dtype: rotary frequencies in bf16 would be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from tunesmith.errors import ConfigError
from tunesmith.training import machine

OWN = "own::"  # before the names of parameters that a strategy or an objective brings along
SMALL = 10_000_000  # parameters below which a step is bound by overheads and half precision gains nothing
WORTH = 1.1  # times as fast as fp32: what bf16 must be for its rounding


def pick_device(name: str) -> torch.device:
    """The device a run uses: the one named, or CUDA, MPS, CPU in that order."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            [("device", f"`{name}` is not available here ({str(error).splitlines()[0]}); use auto or cpu.")]
        ) from error
    return device


def pick_dtype(name: str, device: torch.device, parameters: int) -> tuple[torch.dtype, str]:
    """What training computes in, and why in a few words (empty where it was asked for).

    `auto` is bf16 where the device computes faster in it (on a processor: measured once) and the model is not tiny.
    """
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name], ""
    if parameters < SMALL:
        return torch.float32, ""
    if device.type == "cuda":
        return (torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32), ""
    if device.type != "cpu":
        return torch.float32, ""
    gain = machine.half_precision_gain()
    return (torch.bfloat16 if gain >= WORTH else torch.float32), f"bf16 is {gain:.1f} times as fast as fp32 here"


class Masters:
    """The fp32 tensors that the optimiser sees, one for each learning parameter.

    In fp32 they are the parameters themselves. In half precision they are copies with gradient buffers of their own,
    which are allocated once: fresh large blocks every step cost page faults.

    Args:
        model: whose parameters learn.
        dtype: what it computes in.
        own: parameters that a strategy or an objective brings along.
        keep_frozen: keep the exact values of what does not learn too, because all of the model is saved.
    """

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype,
        own: Mapping[str, torch.nn.Parameter] = MappingProxyType({}),
        *,
        keep_frozen: bool = False,
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.parameters |= {f"{OWN}{n}": p for n, p in own.items() if p.requires_grad}
        self.split = dtype != torch.float32
        self.shards: dict[str, Any] = {}
        """Parameters of which this process has a part (`shards`), by name."""
        self.norms: dict[str, torch.Tensor] = {}
        """Of the last step's gradients, by parameter."""
        self.exact: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        if self.split:
            self.tensors = {n: p.detach().float().clone().requires_grad_() for n, p in self.parameters.items()}
            self.buffers = {n: torch.zeros_like(t) for n, t in self.tensors.items()}
            for parameter in (*model.parameters(), *own.values()):
                if parameter.is_floating_point():
                    exact, parameter.data = parameter.data, parameter.data.to(dtype)
                    if (
                        keep_frozen
                        and not parameter.requires_grad
                        and not torch.equal(exact, parameter.data.to(exact.dtype))
                    ):
                        self.exact.append((parameter, exact))
            for module in model.modules():
                if (
                    type(module).__name__ == "BufferDict"
                ):  # peft's frozen random matrices (VeRA), which meet what learns
                    for key, buffer in module.items():
                        module[key] = buffer.to(dtype)
        else:
            self.tensors = dict(self.parameters)

    def gather(self) -> None:
        """Add the gradients of the last backward pass to the masters', in fp32."""
        if not self.split:
            return
        fresh: list[tuple[str, torch.Tensor]] = []
        more: list[tuple[str, torch.Tensor]] = []
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                (fresh if self.tensors[name].grad is None else more).append((name, parameter.grad))
                self.tensors[name].grad = self.buffers[name]
                parameter.grad = None
        if fresh:
            torch._foreach_copy_([self.buffers[n] for n, _ in fresh], [g for _, g in fresh])
        if more:
            torch._foreach_add_([self.buffers[n] for n, _ in more], [g.float() for _, g in more])

    def set_gradient(self, name: str, gradient: torch.Tensor) -> None:
        """Put a gradient in place, in the buffer that the next `gather` adds to."""
        if self.split:
            self.tensors[name].grad = self.buffers[name].copy_(gradient)
        else:
            self.tensors[name].grad = gradient

    def add_gradient(self, name: str, gradient: torch.Tensor) -> None:
        """Add to a gradient, which may not be there yet."""
        present = self.tensors[name].grad
        if present is None:
            self.set_gradient(name, gradient)
        else:
            present.add_(gradient)

    def norm(self) -> torch.Tensor:
        """The gradient norm over everything that learns, a scalar tensor."""
        present = {n: t.grad for n, t in self.tensors.items() if t.grad is not None}
        self.norms = dict(zip(present, torch._foreach_norm(list(present.values())), strict=True))
        return torch.linalg.vector_norm(torch.stack(list(self.norms.values())))

    def layer_norms(self) -> dict[str, float]:
        """Of the last step, the gradient norm of every layer (a parameter's name up to its first number); waits for the device."""
        squares: dict[str, float] = {}
        for name, value in zip(self.norms, torch.stack(list(self.norms.values())).tolist(), strict=True):
            squares[layer_of(name)] = squares.get(layer_of(name), 0.0) + value**2
        return {name: float(f"{square**0.5:.4g}") for name, square in squares.items()}

    def clear(self) -> None:
        """Forget the gradients of the step (their buffers stay): what the next step does not use is not moved by it."""
        for tensor in self.tensors.values():
            tensor.grad = None

    def forget(self) -> None:
        """Drop everything of a step that broke off: what a backward pass had left behind is not in the masters yet in half precision."""
        self.clear()
        for parameter in self.parameters.values():
            parameter.grad = None

    def scatter(self) -> None:
        """Refresh the running copies."""
        if self.split:
            with torch.no_grad():
                torch._foreach_copy_(
                    [p.data for p in self.parameters.values()], [t.data for t in self.tensors.values()]
                )

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Exact values of everything that learns."""
        return {name: tensor.detach() for name, tensor in self.tensors.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Set the exact values."""
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(state[name])
        self.scatter()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The moments of everything that learns, for a checkpoint."""
        return optimizer.state_dict()

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Restore them."""
        optimizer.load_state_dict(state)

    def finish(self) -> None:
        """Put the exact values into the model's own parameters, in fp32."""
        for name, parameter in self.parameters.items():
            parameter.data = self.tensors[name].data
        for parameter, exact in self.exact:
            parameter.data = exact


def layer_of(name: str) -> str:
    """The layer that a parameter is in: its name up to the first number, or up to its last part where there is none."""
    parts = [part for part in name.split(".") if part not in ("base_model", "model", "module")]
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return ".".join(parts[: number + 1] if number is not None else parts[:-1] or parts)
