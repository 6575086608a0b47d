"""How well reconstructions match, accumulated in float64 over any number of batches."""

from __future__ import annotations

from torch import Tensor


def to_float64(x: Tensor) -> Tensor:
    """`x` without gradient in float64, on the CPU where its device has no such numbers."""
    x = x.detach()
    return (x.cpu() if x.device.type == "mps" else x).double()


class ReconstructionStats:
    """Running sums behind the explained variance and shrinkage of a reconstruction."""

    def __init__(self) -> None:
        self.rows = 0
        self._error = 0.0
        self._norm = 0.0
        self._norm_hat = 0.0
        self._square = 0.0
        self._sum: Tensor | None = None

    def add(self, x: Tensor, x_hat: Tensor) -> None:
        """Count the activations `x` and their reconstructions, both ``[rows, d]``."""
        x, x_hat = to_float64(x), to_float64(x_hat)
        self.rows += len(x)
        self._error += float((x - x_hat).square().sum())
        self._square += float(x.square().sum())
        self._norm += float(x.norm(dim=1).sum())
        self._norm_hat += float(x_hat.norm(dim=1).sum())
        total = x.sum(dim=0)
        self._sum = total if self._sum is None else self._sum + total

    @property
    def explained_variance(self) -> float:
        """1 − E‖x−x̂‖²/(E‖x‖²−‖E x‖²); nan before any row or without any variance."""
        if self._sum is None:
            return float("nan")
        variance = self._square / self.rows - float((self._sum / self.rows).square().sum())
        return 1.0 - self._error / self.rows / variance if variance > 0 else float("nan")

    @property
    def shrinkage(self) -> float:
        """E‖x̂‖/E‖x‖: below 1 where reconstructions come out too short."""
        return self._norm_hat / self._norm if self._norm else float("nan")


def explained_variance(x: Tensor, x_hat: Tensor) -> float:
    """`ReconstructionStats.explained_variance` of one batch ``[rows, d]``."""
    stats = ReconstructionStats()
    stats.add(x, x_hat)
    return stats.explained_variance


def count_active(acts: Tensor, threshold: float) -> Tensor:
    """Rows in which each feature fires, float32 ``[d_sae]``, of `acts` ``[rows, d_sae]``."""
    # Arithmetic and a product with ones: comparing, converting the booleans and summing them over
    # rows takes several times as long.
    active = acts.detach().abs().float().sub_(threshold).sign_().relu_()
    return active.new_ones(len(acts)) @ active
