"""Each process of a group keeps a share of every block's parameters (FSDP2), and of their gradients and moments.

A block's parameters are put together when it runs, forward or backward, and let go behind it; the gradient that comes out is added up over
the processes and each keeps its rows of it (Zhao et al. 2023; torch's `fully_shard`). What lies outside of the blocks (embeddings, the head, the last
norm) every process keeps whole, because losses and techniques read it directly.

    what learns, in a block          [d_out, d_in] = rows 0 .. a of process 0, rows a .. b of process 1, ...
    the optimiser of process r       sees its rows as a tensor of its own; an update is element by element, so nothing else changes
    a checkpoint, an artifact        hold the whole tensors, put together one after the other
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tunesmith.errors import UserError
from tunesmith.models.backbone import Backbone
from tunesmith.training.group import Alone
from tunesmith.training.precision import Masters

TECHNIQUES = ("full", "lora", "bitfit")
"""Those that are tested with shards."""


def refuse(config: Any, technique: Any, parts: int) -> None:
    """What cannot be sharded.

    Raises:
        UserError: with what to choose instead.
    """
    why = ""
    if technique.name not in TECHNIQUES:
        why = f"it is for the techniques {', '.join(TECHNIQUES)}, and this is {technique.name}"
    elif config.quantization != "none":
        why = f"a backbone in {config.quantization} cannot be cut"
    elif config.dtype == "bfloat16":
        why = "it computes in float32"
    elif parts > 1:
        why = "it is for one task at a time"
    if why:
        raise UserError(f"training.shard: {why}; leave it out, and every process keeps the whole model.")


class Shards:
    """The blocks of a backbone, cut over the processes of a group until `undo`.

    Args:
        backbone: whose blocks.
        group: the processes.
    """

    def __init__(self, backbone: Backbone, group: Any) -> None:
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import fully_shard

        self.group = group
        mesh = DeviceMesh.from_group(group.wire, group.device.type)
        self._before: list[Any] = []
        for block in dict.fromkeys(backbone.layers):
            # `fully_shard` gives the block another class and hooks, and has no way back.
            self._before.append((block, type(block), dict(block._forward_pre_hooks), dict(block._forward_hooks)))
            # Asked for, because each block stands alone, and what stands alone would keep what it put together until a backward pass.
            sharded: Any = fully_shard(block, mesh=mesh, reshard_after_forward=True)
            sharded.set_force_sum_reduction_for_comms(True)  # gloo has no other
            sharded.set_gradient_divide_factor(1.0)  # the loss is divided by the units of all of them already

    def masters(self, model: Any) -> ShardedMasters:
        """What the optimiser of this process sees."""
        return ShardedMasters(model, self.group)

    def undo(self) -> None:
        """Whole parameters in plain blocks again."""
        for block, kind, ahead, behind in self._before:
            block.reshard()
            whole: dict[nn.Parameter, nn.Parameter] = {}
            for module in block.modules():
                for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
                    if _cut(parameter) and parameter not in whole:
                        whole[parameter] = nn.Parameter(_whole(parameter), requires_grad=parameter.requires_grad)
                    if parameter in whole:
                        module.register_parameter(name, whole[parameter])
            block.__class__ = kind
            for hooks, old in ((block._forward_pre_hooks, ahead), (block._forward_hooks, behind)):
                hooks.clear()
                hooks.update(old)


class ShardedMasters(Masters):
    """Masters of which those in a sharded block are the rows of this process, in the memory of the shard itself.

    Args:
        model: whose parameters learn.
        group: the processes.
    """

    def __init__(self, model: Any, group: Alone) -> None:
        super().__init__(model, torch.float32)
        self.group = group
        self.shards = {name: each for name, each in self.parameters.items() if _cut(each)}
        self.tensors |= {name: each.detach().to_local().requires_grad_() for name, each in self.shards.items()}

    def gather(self) -> None:
        """Hand the shards' gradients, which were added up over the processes on the way back, to the optimiser."""
        for name, parameter in self.shards.items():
            if parameter.grad is not None:
                self.add_gradient(name, parameter.grad.to_local())
                parameter.grad = None

    def norm(self) -> torch.Tensor:
        """The gradient norm over everything that learns, shards put together."""
        super().norm()
        cut = [name for name in self.norms if name in self.shards]
        if cut:
            squares = torch.stack([self.norms[name].square() for name in cut])
            self.group.add([squares])
            self.norms |= dict(zip(cut, squares.sqrt().unbind(), strict=True))
        return torch.linalg.vector_norm(torch.stack(list(self.norms.values())))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Exact values of everything that learns, whole."""
        return {name: self._joined(name, tensor.detach()) for name, tensor in self.tensors.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Set the exact values."""
        super().load_state_dict({name: self._own(name, value) for name, value in state.items()})

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """With whole moments."""
        return self._mapped(optimizer, self._joined)

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """From whole moments."""
        optimizer.load_state_dict(self._mapped(optimizer, self._own, state))

    def finish(self) -> None:
        """The parameters hold their values already."""

    def _mapped(
        self, optimizer: torch.optim.Optimizer, change: Any, state: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """An optimiser's state with its tensors of the size of a parameter changed."""
        names = {id(tensor): name for name, tensor in self.tensors.items()}
        order = [names[id(tensor)] for group in optimizer.param_groups for tensor in group["params"]]
        found = optimizer.state_dict() if state is None else state
        return {
            **found,
            "state": {
                number: {k: change(order[number], v) if k.startswith("exp_avg") else v for k, v in each.items()}
                for number, each in found["state"].items()
            },
        }

    def _joined(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The whole tensor of which this is the part of this process."""
        from torch.distributed.tensor import DTensor

        like: Any = self.shards.get(name)
        if like is None:
            return tensor
        cut = DTensor.from_local(
            tensor, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        return _whole(cut)

    def _own(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The part of this process."""
        from torch.distributed.tensor import distribute_tensor

        like: Any = self.shards.get(name)
        if like is None:
            return tensor
        there = tensor.to(like.to_local().device)
        return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None).to_local()


def _cut(parameter: Any) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)


def _whole(tensor: Any) -> torch.Tensor:
    found: torch.Tensor = tensor.detach().full_tensor()
    return found.clone()
