r"""Elastic weight consolidation: parameters that mattered to earlier stages are held (Kirkpatrick et al. 2017, equation 3).

    penalty = strength / 2 * sum_k sum_i F_k,i (theta_i - theta*_k,i)^2

theta*_k are the weights after stage k and F_k the diagonal of the Fisher information there, over rows x of that stage:

    true        F_i = mean_x E_{y ~ p(y|x)} [ (d log p(y|x) / d theta_i)^2 ]      labels drawn from the model itself
    empirical   F_i = mean_x [ (d log p(y_x|x) / d theta_i)^2 ]                   labels of the rows

(Kunstner et al. 2019 on why they differ: after training to a small loss the empirical one fades.) `separate` keeps a pair for
every stage; `online` keeps one pair, F <- decay F + F_k at the newest weights (Schwarz et al. 2018, section 3.2), so that its memory
does not grow. By default each F_k is scaled to a mean of 1, since its size hangs on rows, loss and width: the strength then means
the same everywhere. Most weights matter to nothing (rows of the embedding that no text used), so those that do stand far above that mean:
0.1 scored best of five on held-out rows, and with 1 new entities were found half as well (benchmarks/strategy_strength.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field

from tunesmith.config import Options as BaseOptions
from tunesmith.continual._base import Strategy


class Options(BaseOptions):
    """Options of EWC."""

    strength: float = Field(0.1, ge=0, description="factor of the penalty")
    mode: Literal["separate", "online"] = Field("separate", description="a Fisher for each stage, or one for all")
    fisher: Literal["true", "empirical"] = Field(
        "true", description="labels drawn from the model, or those of the rows"
    )
    rows: int = Field(256, ge=1, description="rows of a stage that its Fisher is estimated on")
    decay: float = Field(1.0, gt=0, le=1, description="of mode online: what is left of the Fisher before, each stage")
    normalise: bool = Field(True, description="scale each Fisher to a mean of 1 over the parameters")


class EWC(Strategy):
    """A spring from every parameter to its place after each earlier stage, as stiff as the Fisher information."""

    Options = Options

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.anchors: list[dict[str, dict[str, torch.Tensor]]] = []

    def penalty(self, session: Any) -> None:
        """Strength times F (theta - theta*), for every anchor; a head that grew is held where it was known."""
        for anchor in self.anchors:
            for name, fisher in anchor["fisher"].items():
                tensor = session.masters.tensors.get(name)
                if tensor is None:
                    continue
                now = tensor.detach()
                old = tuple(slice(0, n) for n in fisher.shape)
                gradient = torch.zeros_like(now)
                gradient[old] = self.options.strength * fisher * (now[old] - anchor["weights"][name])
                session.masters.add_gradient(name, gradient)

    def after_stage(self, session: Any) -> None:
        """Estimate the Fisher information at the weights that were reached."""
        fisher = fisher_diagonal(session, self.options.rows, empirical=self.options.fisher == "empirical")
        if self.options.normalise:
            mean = sum(float(f.sum()) for f in fisher.values()) / sum(f.numel() for f in fisher.values())
            fisher = {name: f / max(mean, 1e-30) for name, f in fisher.items()}
        weights = {name: session.masters.tensors[name].detach().clone() for name in fisher}
        if self.options.mode == "online" and self.anchors:
            before = self.anchors[0]
            for name, old in before["fisher"].items():
                if name in fisher:
                    fisher[name][tuple(slice(0, n) for n in old.shape)] += self.options.decay * old
                else:
                    fisher[name], weights[name] = self.options.decay * old, before["weights"][name]
            self.anchors = []
        self.anchors.append({"fisher": fisher, "weights": weights})

    def state_dict(self) -> dict[str, Any]:
        """All anchors."""
        return {"anchors": self.anchors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.anchors = list(state["anchors"])


def fisher_diagonal(session: Any, rows: int, *, empirical: bool) -> dict[str, torch.Tensor]:
    """Mean squared gradient of each learning parameter's log-likelihood, one row at a time, in evaluation mode."""
    masters = session.masters
    total = {name: torch.zeros_like(tensor) for name, tensor in masters.tensors.items()}
    count, generator = 0, session.make_generator()
    for model, task, batch in session.single_rows(rows):
        if model.training:  # a walk over all modules, which would be half the time of a small model's row
            model.eval()
        outputs = task.forward(model, batch)
        loss = task.loss(outputs, batch) if empirical else task.sampled_loss(outputs, batch, generator)
        masters.clear()
        loss.backward()
        masters.gather()
        for name, tensor in masters.tensors.items():
            if tensor.grad is not None:
                total[name] += tensor.grad.square()
        count += 1
    masters.clear()
    session.train_mode()
    return {name: value / max(count, 1) for name, value in total.items()}
